"""The client: the one place where budget, transport, retry and decoding meet."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from typing import TYPE_CHECKING, Literal, Self, TypeVar, overload

from msgspec import Struct

from ._decoding import decode_pool, decode_pools, decode_weight_limit, status_error
from ._headers import read_report, utc
from ._retry import Retrier, RetryPolicy
from ._runtime import Runtime
from ._transport import Answer, Transport
from .budget import LocalBudget
from .errors import (
    BulkFetchError,
    ConnectError,
    InsuranceError,
    RequestTimeoutError,
    TransportError,
)
from .models import InsurancePool, InsuranceSnapshot, RequestWeight, normalise_symbol

if TYPE_CHECKING:
    from collections.abc import Coroutine, Iterable
    from types import TracebackType

    from aiohttp import ClientSession

    from ._headers import Report
    from .budget.bucket import Lease

__all__ = ["ClientStats", "InsuranceClient"]

T = TypeVar("T")

_POOLS = "insuranceBalance"
_INFO = "exchangeInfo"
_OK = 200
_SYMBOL_WEIGHT = 1
# Documented as 1, but measured as 40 on 2026-08-01, three times out of three.
_SNAPSHOT_WEIGHT = 40
_INFO_WEIGHT = 1


class ClientStats(Struct, frozen=True, kw_only=True):
    """What a client has done so far.

    Attributes:
        requests_sent: requests that left, first attempts and retries.
        retries: attempts after the first of a call, those without a connection included.
        weight_spent: request weight charged for them.
        used_weight: used weight of the whole IP as last reported; None before any report.
    """

    requests_sent: int
    retries: int
    weight_spent: int
    used_weight: int | None


class InsuranceClient:
    """Asks for the insurance pools behind Binance USDⓈ-M futures symbols.

    `GET /fapi/v1/insuranceBalance` needs no key. Every request pays its weight into a budget
    before it leaves, so that the IP is never refused; see the documentation's "The weight
    budget". A client belongs to one event loop and is safe for any number of concurrent calls.

    Args:
        base_url: scheme and host of the exchange; a path in it is kept.
        budget: the weight budget; clients on one IP should share one. None makes a
            `LocalBudget()` of 2,400 per minute, of which 480 are left to others.
        retry: how often and how patiently failed attempts are repeated.
        attempt_timeout: seconds for one attempt, connecting (at most 5) included.
        max_concurrency: requests in flight at once.
        session: an aiohttp session to use, which stays open; None makes one. A session's own
            middlewares and traces apply.
        runtime: clocks, sleep and randomness, for tests in virtual time.

    Raises:
        ValueError: base_url is not an http(s) URL, or a number is out of its range.

    Use it as an async context manager, or call `aclose()`.
    """

    def __init__(
        self,
        base_url: str = "https://fapi.binance.com",
        *,
        budget: LocalBudget | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is immutable
        attempt_timeout: float = 10.0,
        max_concurrency: int = 32,
        session: ClientSession | None = None,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        if not 0 < attempt_timeout < inf:
            raise ValueError(f"attempt_timeout must be positive, not {attempt_timeout}")
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        self._budget = LocalBudget(runtime=runtime) if budget is None else budget
        self._runtime = runtime
        self._retrier = Retrier(retry, runtime)
        self._max_concurrency = max_concurrency
        self._slots = asyncio.Semaphore(max_concurrency)
        self._transport = Transport(
            base_url, session, attempt_timeout=attempt_timeout, max_connections=max_concurrency
        )
        self._calls: set[asyncio.Task[object]] = set()
        self._closed = False
        self._requests_sent = 0
        self._weight_spent = 0
        self._used_weight: int | None = None

    @property
    def budget(self) -> LocalBudget:
        """The weight budget that this client spends from."""
        return self._budget

    async def fetch_pool(self, symbol: str, *, timeout: float | None = None) -> InsurancePool:
        """Fetch the pool behind one symbol, for a weight of 1.

        Args:
            symbol: in upper or lower case; delivery contracts and non-ASCII names included.
            timeout: seconds for everything: waiting for weight, attempts, backoff. None waits as
                long as it takes.

        Raises:
            InvalidSymbolError: the exchange does not know the symbol.
            InsuranceError: any other failure, each of its own kind.
            ValueError: the symbol or the timeout cannot be meant; nothing was sent.

        The exchange answers with every symbol that the pool covers; an answer that does not name
        `symbol` is a `DecodeError`.
        """
        symbol = normalise_symbol(symbol)
        return await self._in_task(self._fetch_pool(symbol, self._deadline(timeout)))

    @overload
    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> dict[str, InsurancePool]: ...

    @overload
    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        return_exceptions: bool,
    ) -> dict[str, InsurancePool | InsuranceError]: ...

    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        return_exceptions: bool = False,
    ) -> dict[str, InsurancePool] | dict[str, InsurancePool | InsuranceError]:
        """Fetch the pools behind many symbols, concurrently.

        Args:
            symbols: as for `fetch_pool`; repeats are asked for once.
            timeout: seconds for all of it, as for `fetch_pool`.
            return_exceptions: give errors as values instead of raising.

        Returns:
            The pool of each symbol, by normalised symbol, in the order asked.

        Raises:
            BulkFetchError: some symbols failed; it keeps what did arrive.
            ValueError, TypeError: a symbol cannot be meant; nothing was sent.
        """
        if isinstance(symbols, str):
            raise TypeError("symbols must be several symbols; use fetch_pool for a single one")
        names = dict.fromkeys(normalise_symbol(symbol) for symbol in symbols)
        results = await self._in_task(self._fetch_each(list(names), self._deadline(timeout)))
        if return_exceptions:
            return results
        pools = {name: got for name, got in results.items() if isinstance(got, InsurancePool)}
        errors = {name: got for name, got in results.items() if isinstance(got, InsuranceError)}
        if errors:
            error = next(iter(errors.values()))
            kinds = Counter(type(each).__name__ for each in errors.values())
            counts = ", ".join(f"{count} {kind}" for kind, count in kinds.most_common())
            raise BulkFetchError(
                f"{len(errors)} of {len(names)} symbols failed ({counts}); the first: {error}",
                pools=pools,
                errors=errors,
            ) from error
        return pools

    async def fetch_snapshot(self, *, timeout: float | None = None) -> InsuranceSnapshot:
        """Fetch every pool of the exchange, for a weight of 40.

        Args:
            timeout: seconds for everything, as for `fetch_pool`.

        Raises:
            InsuranceError: each failure of its own kind.

        The weight is documented as 1, but was measured as 40; so much is charged.
        """

        async def attempt() -> InsuranceSnapshot:
            report, body = await self._ask(_POOLS, None, _SNAPSHOT_WEIGHT, deadline)
            at = report.wall if report.date is None else report.date
            return InsuranceSnapshot(decode_pools(body), utc(at))

        deadline = self._deadline(timeout)
        return await self._in_task(self._retrier.call(attempt, deadline))

    async def fetch_request_weight(self, *, timeout: float | None = None) -> RequestWeight:
        """Ask how much weight the IP is granted and has used, for a weight of 1.

        Args:
            timeout: seconds for everything, as for `fetch_pool`.

        Raises:
            InsuranceError: each failure of its own kind.

        The limit is the `REQUEST_WEIGHT` of the exchange's `exchangeInfo`.
        """

        async def attempt() -> RequestWeight:
            report, body = await self._ask(_INFO, None, _INFO_WEIGHT, deadline)
            interval = self._budget.interval
            return RequestWeight(
                limit=decode_weight_limit(body, interval),
                interval=interval,
                used_weight=report.used_weight,
                resets_at=self._budget.state().resets_at,
            )

        deadline = self._deadline(timeout)
        return await self._in_task(self._retrier.call(attempt, deadline))

    def stats(self) -> ClientStats:
        """Return what this client has done so far."""
        return ClientStats(
            requests_sent=self._requests_sent,
            retries=self._retrier.retries,
            weight_spent=self._weight_spent,
            used_weight=self._used_weight,
        )

    async def aclose(self) -> None:
        """Close the client. Calls in flight, and later ones, end with a `TransportError`.

        A second close is fine.
        """
        self._closed = True
        calls = tuple(self._calls)
        for call in calls:
            call.cancel()
        try:
            if calls:
                await asyncio.wait(calls)
        finally:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise RuntimeError("this InsuranceClient is closed; make a new one")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _deadline(self, timeout: float | None) -> float:
        if timeout is None:
            return inf
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, or None for no bound, not {timeout}")
        return self._runtime.monotonic() + timeout

    def _left(self, deadline: float) -> float | None:
        """Return the seconds that are left, None if they have no end.

        Raises:
            RequestTimeoutError: none are left.
        """
        if deadline == inf:
            return None
        left = deadline - self._runtime.monotonic()
        if left <= 0:
            raise RequestTimeoutError("the call's time was up before the request could be sent")
        return left

    async def _in_task(self, work: Coroutine[object, object, T]) -> T:
        """Run a call in a task of our own, which `aclose` can end without harm to the caller's."""
        if self._closed:
            work.close()
            raise TransportError("this client is closed")
        task = asyncio.create_task(work)
        self._calls.add(task)
        task.add_done_callback(self._calls.discard)
        try:
            return await task
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if task.cancelled() and self._closed and not (caller and caller.cancelling()):
                raise TransportError("the client was closed during the call") from None
            raise

    async def _fetch_pool(self, symbol: str, deadline: float) -> InsurancePool:
        async def attempt() -> InsurancePool:
            _, body = await self._ask(_POOLS, symbol, _SYMBOL_WEIGHT, deadline)
            return decode_pool(body, symbol)

        return await self._retrier.call(attempt, deadline)

    async def _fetch_each(
        self, symbols: list[str], deadline: float
    ) -> dict[str, InsurancePool | InsuranceError]:
        """Ask for each symbol by itself, with no more workers than may be in flight."""
        found: dict[str, InsurancePool | InsuranceError] = {}
        queue = iter(symbols)

        async def work() -> None:
            for symbol in queue:
                try:
                    found[symbol] = await self._fetch_pool(symbol, deadline)
                except InsuranceError as error:
                    found[symbol] = error

        try:
            async with asyncio.TaskGroup() as workers:
                for _ in range(min(self._max_concurrency, len(symbols))):
                    workers.create_task(work())
        except BaseExceptionGroup as group:
            raise group.exceptions[0] from None  # a defect of ours, shown as it is
        return {symbol: found[symbol] for symbol in symbols}

    async def _ask(
        self, endpoint: str, symbol: str | None, weight: int, deadline: float
    ) -> tuple[Report, bytes]:
        """Make one attempt: take the weight and a place, send, report, and return what came."""
        budget = self._budget
        try:
            lease = await budget.acquire(weight, timeout=self._left(deadline))
            try:
                await self._take_slot(lease, deadline)
            except BaseException:
                budget.release(lease)
                raise
            try:
                answer = await self._send(endpoint, symbol, lease, deadline)
            finally:
                self._slots.release()
        except InsuranceError as error:
            error.symbol = symbol  # the budget does not know what its weight is for
            raise
        return self._receive(answer, symbol, lease)

    async def _take_slot(self, lease: Lease, deadline: float) -> None:
        if not self._slots.locked():
            await self._slots.acquire()
            return
        try:
            async with asyncio.timeout(self._left(deadline)):
                await self._slots.acquire()
        except TimeoutError:
            raise RequestTimeoutError(
                f"in time, none of the {self._max_concurrency} requests in flight made room"
            ) from None
        lease.sent_at = self._runtime.monotonic()

    async def _send(
        self, endpoint: str, symbol: str | None, lease: Lease, deadline: float
    ) -> Answer:
        try:
            answer = await self._transport.get(endpoint, symbol, self._left(deadline))
        except ConnectError:
            self._budget.release(lease)
            raise
        except BaseException:
            self._count(lease.weight)
            self._budget.settle(lease, None)
            raise
        self._count(lease.weight)
        return answer

    def _receive(self, answer: Answer, symbol: str | None, lease: Lease) -> tuple[Report, bytes]:
        """Report what an answer says to the budget, then raise it or return it."""
        budget = self._budget
        report = read_report(
            answer.status,
            answer.headers,
            answer.body,
            weight_header=budget.weight_header,
            wall=self._runtime.wall(),
        )
        budget.settle(lease, report)
        if report.used_weight is not None:
            self._used_weight = report.used_weight
        if answer.status == _OK:
            if answer.failure is not None:
                raise answer.failure
            return report, answer.body
        raise status_error(report, answer.body, symbol, budget.state().banned_until)

    def _count(self, weight: int) -> None:
        self._requests_sent += 1
        self._weight_spent += weight
