"""How a request of another library pays: what it weighs, the wait for weight, and its report."""

from __future__ import annotations

import asyncio
from functools import lru_cache
from time import time
from typing import TYPE_CHECKING, TypeVar
from urllib.parse import urlsplit
from weakref import WeakKeyDictionary

from msgspec.structs import replace

from ..budget import Budget
from ..budget.exchange import exchange_of
from ..budget.refusals import BANNED, TOO_MANY_REQUESTS
from ..budget.report import Report, read_report, used_weight_header
from ..errors import InsuranceError
from ..weights import Facts, look_up
from ._prices import Prices, Used

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from ..budget import Lease

T = TypeVar("T")

_OK = 200
_REFUSED = frozenset({TOO_MANY_REQUESTS, BANNED})
ORDERS = frozenset({"POST", "PUT", "DELETE"})
_KNOWN_ORIGINS = 256

_prices: WeakKeyDictionary[Budget, Prices] = WeakKeyDictionary()  # by ledger


def needs_body(status: int) -> bool:
    """Return whether a report needs the body of an answer with this status."""
    return status in _REFUSED


@lru_cache(maxsize=_KNOWN_ORIGINS)
def _origin_of(scheme: str, place: str) -> str | None:
    """Return the exchange of a URL, from its scheme and network location; None of no URL."""
    try:
        return exchange_of(f"{scheme}://{place}")
    except ValueError:
        return None


class HeldBackError(Exception):
    """The budget does not stand by its grant any more, so the request must not be sent."""


def check_arguments(budget: object, weigh: object, orders: object, timeout: object) -> None:
    """Raise unless these can be arguments of a `Payer`.

    Raises:
        TypeError: one of them is of another type.
        ValueError: the timeout is not positive, or the orders' budget has another window.
    """
    if not isinstance(budget, Budget):
        raise TypeError(f"budget must be a Budget, not {type(budget).__name__}")
    if weigh is not None and not callable(weigh):
        raise TypeError(f"weigh must be a function of method and URL, not {weigh!r}")
    if orders is not None:
        if not isinstance(orders, Budget):
            raise TypeError(f"orders must be a Budget, not {type(orders).__name__}")
        if orders.interval != budget.interval:
            raise ValueError(
                f"orders must have the window of the budget: {budget.interval} s, "
                f"not {orders.interval} s"
            )
    if timeout is not None:
        if not isinstance(timeout, (int, float)):
            raise TypeError(f"timeout must be a number of seconds, not {timeout!r}")
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, or None for no bound, not {timeout}")


class Payer:
    """Pays for the requests of one program to one exchange.

    Args:
        budget: what they spend from.
        base_url: the exchange.
        weigh: of the user, from method and URL; None from it means that it does not know.
        orders: what POST, PUT and DELETE spend from; None for the budget itself.
        timeout: seconds that a request may wait for weight; None for no bound.

    Raises:
        TypeError, ValueError: as `check_arguments` says; or the budget or that of the orders serves
            another exchange, or base_url is no URL. Then neither serves this one.
    """

    def __init__(
        self,
        budget: Budget,
        base_url: str,
        *,
        weigh: Callable[[str, str], int | None] | None,
        orders: Budget | None,
        timeout: float | None,
    ) -> None:
        check_arguments(budget, weigh, orders, timeout)
        self._budget = budget
        self._orders = budget if orders is None else orders
        exchange = budget.check_exchange(base_url)
        self._orders.check_exchange(base_url)
        budget.serve(base_url)
        self._orders.serve(base_url)
        self._weigh = weigh
        self._timeout = timeout
        self._header = used_weight_header(budget.interval)
        self._prices = _prices.setdefault(budget.whole, Prices(budget.interval))
        self._exchange = exchange
        self._start = f"{exchange}/"

    def concerns(self, url: str) -> bool:
        """Return whether a request to a whole URL goes to the exchange, and so pays."""
        if url.startswith(self._start):
            return True
        return _origin_of(*urlsplit(url)[:2]) == self._exchange

    def payment(self, method: str, url: str) -> Payment:
        """Return the payment of one request; nothing is taken yet."""
        method = method.upper()
        facts = look_up(method, url)
        given = None if self._weigh is None else self._weigh(method, url)
        if isinstance(given, int):
            if given < 0:
                raise ValueError(f"weigh must return an int of 0 or more, not {given}")
            facts = Facts(facts.name, given, given, True, facts.header)
        return Payment(
            self._orders if method in ORDERS else self._budget,
            facts,
            self._prices,
            self._header,
            self._timeout,
        )


class Payment:
    """What one request pays, each time that it is sent; used in the budget's event loop.

    `pay_for` it, or `take`; `confirm` right before it is sent, and if that is not granted, `end`
    and `take` again; `report` its answer, or `end` without one.
    """

    __slots__ = (
        "_before",
        "_budget",
        "_deadline",
        "_facts",
        "_header",
        "_lease",
        "_number",
        "_price",
        "_prices",
        "_timeout",
        "sent",
    )

    def __init__(
        self,
        budget: Budget,
        facts: Facts,
        prices: Prices,
        header: str,
        timeout: float | None,
    ) -> None:
        self.sent = False
        self._budget = budget
        self._facts = facts
        self._prices = prices
        self._price = prices.of(facts)
        self._header = header
        self._timeout = timeout
        self._deadline: float | None = None
        self._lease: Lease | None = None
        self._number = 0
        self._before: Used | None = None

    async def pay_for(
        self, send: Callable[[], Awaitable[T]], not_sent: Callable[[str], Exception]
    ) -> T:
        """Send a request once there is weight for it; again where the budget holds it back.

        Args:
            send: sends it; it asks `confirm`, and raises `HeldBackError` if that is not granted.
            not_sent: the error of its library for a text; ours is its cause.
        """
        while True:
            try:
                await self.take()
            except InsuranceError as error:
                raise not_sent(str(error)) from error
            try:
                return await send()
            except HeldBackError:
                self.end()
            except BaseException:
                self.end()
                raise

    async def take(self) -> None:
        """Wait for weight and take it.

        Raises:
            InsuranceError: the IP is banned, the time is up, or the budget's store failed.
        """
        self.sent = False
        while self._lease is None:
            weight = self._price.weight
            if self._price.raised:
                weight = self._price.charge(self._budget.capacity)
            if self._price.open:
                self._lease = await self._take_unless_learned(weight)
            else:
                self._lease = await self._budget.acquire(weight, timeout=self._left())

    async def _take_unless_learned(self, weight: int) -> Lease | None:
        """Wait for weight; None if it is learned meanwhile that the request weighs another."""
        loop, price, left = asyncio.get_running_loop(), self._price, self._left()
        wait = asyncio.timeout(None)
        try:
            async with wait:

                def again() -> None:
                    if not loop.is_closed():
                        wait.reschedule(loop.time())

                price.tell(again)
                try:
                    return await self._budget.acquire(weight, timeout=left)
                finally:
                    price.forget(again)
        except TimeoutError:
            if not wait.expired():
                raise
            return None

    def _left(self) -> float | None:
        """Return the seconds that it may still wait."""
        if self._timeout is None:
            return None
        now = asyncio.get_running_loop().time()
        if self._deadline is None:
            self._deadline = now + self._timeout
        return max(0.0, self._deadline - now)

    def confirm(self) -> bool:
        """Return whether it may be sent now, and count it as sent from now on."""
        self.sent = self._budget.confirm(self._held())
        prices = self._prices
        prices.sent += 1
        self._number, self._before = prices.sent, prices.used
        return self.sent

    def report(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> Lease:
        """Record an answer; `needs_body` says whether the body matters. Return what it settles."""
        lease, facts = self._held(), self._facts
        report = read_report(status, headers, body, weight_header=self._header, wall=time())
        if facts.header == "inaccurate":
            report = replace(report, used_weight=None, counts=False)
        elif facts.header == "none" or not lease.weight:
            report = replace(report, counts=False)
        self._learn(report, lease)
        self._lease = None
        self._budget.settle(lease, report)
        return lease

    async def report_refusal(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """Record an answer, and wait until other processes can know it."""
        await self.recorded(self.report(status, headers, body))

    async def recorded(self, lease: Lease) -> None:
        """Wait until other processes can know what was reported."""
        await self._budget.recorded(lease)

    def end(self, *, sent: bool | None = None) -> None:
        """End without an answer: it counts as lost if it was sent, else its weight is back.

        Args:
            sent: whether it was; None for whether `confirm` let it go.
        """
        lease, self._lease = self._lease, None
        if lease is None:
            return
        if self.sent if sent is None else sent:
            self._budget.settle(lease, None)
        else:
            self._budget.release(lease)

    def _learn(self, report: Report, lease: Lease) -> None:
        """Learn what such a request weighs; called before the report is recorded."""
        prices, price, before = self._prices, self._price, self._before
        used = prices.note(report)
        if used is None or before is None or before.window != used.window or report.status != _OK:
            return
        last = self._number == prices.sent
        if last or price.open or price.raised:
            bound = used.weight - before.weight
            alone = last and price.needs(bound) and self._was_alone(before, lease)
            price.learn(bound, alone=alone)

    def _was_alone(self, before: Used, lease: Lease) -> bool:
        """Return whether the budget counts nothing but this request since `before`."""
        state = self._budget.state()
        left = state.limit - state.reserve - before.weight - lease.weight
        return 0 < left == state.available

    def _held(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("no weight was taken for this request")
        return self._lease
