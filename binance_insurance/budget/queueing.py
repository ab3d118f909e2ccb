"""What a budget of one process and one of many have in common: callers, state, loop and errors."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from math import inf
from typing import TYPE_CHECKING, Self

from .._ended import check_loop
from ..errors import BudgetTimeoutError, IPBannedError, StoreError
from .exchange import DEFAULT_EXCHANGE, exchange_of
from .queue import Queue, Waiter
from .refusals import BANNED, TOO_MANY_REQUESTS
from .report import utc
from .state import BudgetState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .ledger import Lease
    from .refusals import Refusals
    from .report import Report
    from .settings import Settings
    from .window import TokenBucket

_log = logging.getLogger("binance_insurance.budget")


class QueueingBudget(ABC):
    """A queue in front of a token bucket; a subclass serves the queue.

    It belongs to one event loop at a time: to the next one when the last has ended.
    """

    def __init__(
        self, settings: Settings, bucket: TokenBucket, monotonic: Callable[[], float]
    ) -> None:
        self._settings = settings
        self._bucket = bucket
        self._monotonic = monotonic
        self._queue = Queue()
        self._timer: asyncio.TimerHandle | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._exchange: str | None = None  # that of the first client
        self._closed = False

    def __repr__(self) -> str:
        settings = self._settings
        return (
            f"{type(self).__name__}({self._place}limit={settings.limit}, "
            f"reserve={settings.reserve}, interval={self.interval})"
        )

    @property
    def exchange(self) -> str:
        """Scheme, host and port of the exchange that it serves."""
        return self._exchange or DEFAULT_EXCHANGE

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return int(self._settings.interval)

    @property
    def capacity(self) -> int:
        """Weight that it grants in one window: limit - reserve."""
        return self._settings.limit - self._reserve

    @property
    def _place(self) -> str:
        """Where its ledger is, as an argument."""
        return ""

    @property
    def _least_reserve(self) -> int:
        """What each grant must leave now, whatever its caller's reserve."""
        return 0

    @property
    def _reserve(self) -> int:
        return max(self._settings.reserve, self._least_reserve)

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a client; the first client decides which.

        Raises:
            ValueError: it serves another exchange, or base_url is no URL.
        """
        exchange = exchange_of(base_url)
        if self._exchange is None:
            self._exchange = exchange
        elif self._exchange != exchange:
            raise ValueError(
                f"this budget serves {self._exchange}, not {exchange}; "
                "one budget serves one exchange, so make another"
            )

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        now, bucket, reserve = self._now(), self._bucket, self._reserve
        bucket.refresh(now)
        refusals = bucket.ledger.refusals
        resets_at, banned = bucket.resets_at(now), refusals.banned_until(now)
        frozen = refusals.freeze_ends(now, bucket.ledger.clock)
        return BudgetState(
            limit=self._settings.limit,
            reserve=reserve,
            used_weight=bucket.ledger.reported or None,
            available=0 if refusals.forbid(now) else max(0, bucket.room(reserve)),
            in_flight=bucket.ledger.in_flight,
            waiting=self._queue.length,
            resets_at=None if resets_at is None else utc(resets_at),
            frozen_until=None if frozen is None else utc(frozen),
            banned_until=None if banned is None else utc(banned),
        )

    def check(self, weight: int, *, timeout: float | None = None) -> None:
        """Raise what a caller that would have to wait for `weight` can know at once.

        Raises:
            IPBannedError: the IP is banned.
            BudgetTimeoutError: the wait would surely outlast `timeout` seconds, or never end.
        """
        now = self._now()
        banned = ban_error(self._bucket.ledger.refusals, now)
        if banned is not None:
            raise banned
        if weight > self.capacity:
            raise BudgetTimeoutError(
                f"a request of weight {weight} never fits into a budget of "
                f"{self.capacity} per window (limit minus reserve)",
                wait=inf,
            )
        if timeout is not None:
            wait = self._wait_for(weight, now)
            if wait > timeout:
                raise _late(wait, timeout)

    @abstractmethod
    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now."""

    @abstractmethod
    async def aclose(self) -> None:
        """Fail the callers that wait, and let go of what it holds."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    @abstractmethod
    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""

    @abstractmethod
    def _serve(self) -> None:
        """Grant what can be granted, or see to it that it will be."""

    def _enter(self, loop: asyncio.AbstractEventLoop) -> None:
        """Belong to another loop from now on.

        Raises:
            RuntimeError: the last loop still runs.
            StoreError: the budget is closed.
        """
        if self._closed:
            raise closed_error()
        check_loop(self._loop, "budget")
        self._loop = loop
        self._restart()

    def _restart(self) -> None:
        """Drop what belonged to a loop that has ended: callers and their timer."""
        self._queue = Queue()
        self._timer = None

    def _close(self) -> None:
        """Fail the callers that wait, and refuse later ones."""
        self._closed = True
        self._loop = None
        self._queue.fail_all(closed_error)
        self._set_timer(inf)

    def _now(self) -> float:
        """Return the time by the bucket's clock."""
        return self._monotonic()

    def _joined(self, waiter: Waiter) -> None:
        """React to a new caller in the queue."""
        if self._queue.first is waiter:
            self._serve()

    async def _wait(self, weight: int, timeout: float | None) -> Lease:
        """Wait in the queue for weight."""
        deadline = inf if timeout is None else self._monotonic() + timeout
        waiter = Waiter(weight, self._settings.reserve, deadline)
        self._queue.add(waiter)
        self._joined(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.granted
        except TimeoutError:
            self._take_back(waiter)
            raise BudgetTimeoutError(
                f"no request weight came free within {timeout:.3g} s",
                wait=self._wait_for(weight, self._now()),
            ) from None
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise
        except GeneratorExit:
            self._forget(waiter)
            raise

    def _wait_for(self, weight: int, now: float) -> float:
        """Return the lower bound of a new caller's wait, in seconds."""
        weight += self._queue.weight_before(self._settings.reserve)
        return self._bucket.ready_at(weight, now, self._reserve) - now

    def _take_back(self, waiter: Waiter) -> None:
        """Forget a caller that gave up; return what it was granted in the same moment."""
        granted = waiter.granted
        if waiter in self._queue:
            self._queue.remove(waiter)
            self._serve()
        elif not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def _forget(self, waiter: Waiter) -> None:
        """Forget a caller whose loop has ended without cancelling it."""
        granted = waiter.granted
        if waiter in self._queue:
            self._queue.remove(waiter)
        elif granted.done() and not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def _fail_late(self) -> None:
        """Fail the callers that cannot be served before their deadlines, if that has worsened."""
        first = self._queue.first
        if first is None:
            return
        now, local, least = self._now(), self._monotonic(), self._least_reserve
        ready_at = self._bucket.ready_at(first.weight, now, max(first.reserve, least))
        if ready_at <= max(now, self._queue.outlook):
            return
        self._queue.outlook = ready_at
        before = 0
        for waiter in list(self._queue):
            reserve = max(waiter.reserve, least)
            wait = self._bucket.ready_at(before + waiter.weight, now, reserve) - now
            if local + wait <= waiter.deadline:
                before += waiter.weight
            else:
                self._queue.fail(waiter, _late(wait, waiter.deadline - local))

    def _set_timer(self, seconds: float) -> None:
        """Serve again after so many seconds; never if that is infinite."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, seconds), self._serve)

    def _fail(self, error: StoreError, *, again: bool) -> None:
        """Fail the callers that wait, and log the first of the errors of an outage."""
        if not again:
            _log.warning("%s", error)
        self._queue.fail_all(error.copy)

    def _warn(self, report: Report | None) -> None:
        """Log a refusal."""
        if report is not None and report.status in {TOO_MANY_REQUESTS, BANNED}:
            ledger = self._bucket.ledger
            outlook = ledger.refusals.outlook(self._now(), ledger.clock)
            _log.warning("the exchange answered %d; %s", report.status, outlook)


def closed_error() -> StoreError:
    """Build the error for a call of a budget that is closed."""
    return StoreError("this budget is closed")


def ban_error(refusals: Refusals, now: float) -> IPBannedError | None:
    """Build the error for a call that is refused here, while the exchange bans this IP, or None."""
    end = refusals.banned_until(now)
    if end is None:
        return None
    banned_until = utc(end)
    return IPBannedError(
        f"the exchange bans this IP until {banned_until:%Y-%m-%d %H:%M:%S} UTC; "
        "nothing is sent until then",
        message="not sent: the IP is banned",
        retry_after=refusals.ban_ends - now,
        banned_until=banned_until,
    )


def _late(wait: float, timeout: float) -> BudgetTimeoutError:
    return BudgetTimeoutError(
        f"the request weight would be there in {wait:.1f} s at the earliest, "
        f"but the call may take {timeout:.1f} s more",
        wait=wait,
    )
