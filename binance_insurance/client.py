"""The client: the one place where budget, transport, retry and decoding meet."""

from __future__ import annotations

import os
from asyncio import get_running_loop
from collections import Counter
from functools import lru_cache
from math import inf
from typing import TYPE_CHECKING, Literal, Self, overload

from ._attempts import Attempts
from ._bulk import carry_out
from ._ended import check_loop
from ._forks import keep
from ._knowledge import Knowledge
from ._planner import Plan
from ._pydantic import PydanticStruct
from ._requests import Requests
from ._retry import Retries, RetryPolicy
from ._runtime import Runtime
from ._transport import Transport
from .budget import LocalBudget
from .budget.exchange import exchange_of
from .errors import BulkFetchError, ClientClosedError, InsuranceError
from .models import InsurancePool, InsuranceSnapshot, RequestWeight, normalise_symbol
from .watch import Watch

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable, Iterable
    from types import TracebackType

    from ._transport import ClientSession
    from .budget import WeightBudget

__all__ = ["ClientStats", "InsuranceClient"]

_normalised = lru_cache(maxsize=4096)(normalise_symbol)


class ClientStats(PydanticStruct, frozen=True, kw_only=True):
    """What a client has done so far.

    Attributes:
        requests_sent: requests that left, first attempts and retries.
        retries: attempts after the first of a call, those without a connection included.
        calls_shared: calls that were answered without a request of their own: by one that was
            in flight, or from memory (`max_age`).
        weight_spent: request weight charged for the requests.
        used_weight: used weight of the whole IP as last reported; None before any report.
    """

    requests_sent: int
    retries: int
    calls_shared: int
    weight_spent: int
    used_weight: int | None


class InsuranceClient:
    """Asks for the insurance pools behind Binance USDⓈ-M futures symbols.

    `GET /fapi/v1/insuranceBalance` needs no key. Every request pays its weight into a budget
    before it leaves, so that the IP is never refused; see the documentation's "The weight
    budget". A client is safe for any number of concurrent calls in one event loop. It serves one
    loop at a time, and the next one when that has ended; in a forked process it opens connections
    of its own. Statistics and what answers taught go on.

    Args:
        base_url: scheme and host of the exchange; a path in it is kept.
        budget: the weight budget; clients on one IP should share one. None makes a
            `LocalBudget()` of 2,400 per minute, of which 480 are left to other clients.
        retry: how often and how patiently failed attempts are repeated.
        attempt_timeout: seconds for one attempt, connecting (at most 5) included.
        max_concurrency: requests in flight at once.
        session: an aiohttp session to use, which stays open; None makes one. A session's own
            middlewares and traces apply.
        max_age: seconds; the default of the three `fetch_` calls.
        runtime: clocks, sleep and randomness, for tests in virtual time.

    Raises:
        ValueError: base_url is not an http(s) URL, a number is out of its range, or the budget
            serves another exchange.

    Use it as an async context manager, or call `aclose()`.
    """

    def __init__(
        self,
        base_url: str = "https://fapi.binance.com",
        *,
        budget: WeightBudget | None = None,
        retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is immutable
        attempt_timeout: float = 10.0,
        max_concurrency: int = 32,
        session: ClientSession | None = None,
        max_age: float = 0.0,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        if not 0 < attempt_timeout < inf:
            raise ValueError(f"attempt_timeout must be positive, not {attempt_timeout}")
        if max_concurrency < 1:
            raise ValueError(f"max_concurrency must be at least 1, not {max_concurrency}")
        self._budget: WeightBudget = LocalBudget(runtime=runtime) if budget is None else budget
        self._base_url = base_url
        self._runtime = runtime
        self._max_concurrency = max_concurrency
        self._max_age = _age(max_age)
        self._retries = Retries(retry, runtime)
        self._transport = Transport(
            base_url, session, attempt_timeout=attempt_timeout, max_connections=max_concurrency
        )
        serve: Callable[[str], None] | None = getattr(self._budget, "serve", None)
        if serve is not None:  # a budget that was written for 0.1.0 has no exchange
            serve(base_url)
        self._attempts = Attempts(
            self._transport, self._budget, runtime, max_concurrency=max_concurrency
        )
        self._knowledge = Knowledge()
        self._requests = Requests(
            self._attempts, self._retries, self._knowledge, self._budget, runtime
        )
        self._closed = False
        self._loop: AbstractEventLoop | None = None
        self._process = os.getpid()

    def __repr__(self) -> str:
        closed = ", closed" if self._closed else ""
        return f"<InsuranceClient of {exchange_of(self._base_url):.100}{closed}>"

    @property
    def budget(self) -> WeightBudget:
        """The weight budget that this client spends from."""
        return self._budget

    async def fetch_pool(
        self, symbol: str, *, timeout: float | None = None, max_age: float | None = None
    ) -> InsurancePool:
        """Fetch the pool behind one symbol, for a weight of 1 or less.

        Overlapping calls for one symbol, or for symbols of one pool, share a request.

        Args:
            symbol: in upper or lower case; delivery contracts and non-ASCII names included.
            timeout: seconds for everything: waiting for weight, attempts, backoff. None waits as
                long as it takes.
            max_age: seconds; an answer that was asked for no longer ago is given without a request,
                if it names the symbol. None means the client's `max_age`.

        Raises:
            InvalidSymbolError: the exchange does not know the symbol.
            InsuranceError: any other failure, each of its own kind.
            ValueError: invalid symbol or number; raised before anything is sent.

        The exchange answers with every symbol that the pool covers; an answer that does not name
        `symbol` is a `DecodeError`.
        """
        if get_running_loop() is not self._loop:
            self._enter()
        symbol = _normalised(symbol)
        deadline = inf if timeout is None else self._deadline(timeout)
        if max_age is None:
            max_age = self._max_age
        if max_age:
            pool = self._requests.recent_pool(symbol, _age(max_age))
            if pool is not None:
                return pool
        return await self._requests.pool(symbol, deadline)

    @overload
    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        max_age: float | None = None,
        return_exceptions: Literal[False] = False,
    ) -> dict[str, InsurancePool]: ...

    @overload
    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        max_age: float | None = None,
        return_exceptions: bool,
    ) -> dict[str, InsurancePool | InsuranceError]: ...

    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        max_age: float | None = None,
        return_exceptions: bool = False,
    ) -> dict[str, InsurancePool] | dict[str, InsurancePool | InsuranceError]:
        """Fetch the pools behind many symbols, for the least weight.

        One request for each distinct pool that is known from earlier answers, concurrently; the
        snapshot request where that weighs less. Symbols of one pool get the same object.

        Args:
            symbols: as for `fetch_pool`; repeats are asked for once.
            timeout: seconds for all of it, as for `fetch_pool`.
            max_age: seconds; answers that were asked for no longer ago are given without a
                request. None means the client's `max_age`.
            return_exceptions: give errors as values instead of raising.

        Returns:
            The pool of each symbol, by normalised symbol, in the order asked.

        Raises:
            BulkFetchError: some symbols failed; it keeps what did arrive.
            ValueError, TypeError: invalid symbol or number; raised before anything is sent.
        """
        if get_running_loop() is not self._loop:
            self._enter()
        if isinstance(symbols, str):
            raise TypeError("symbols must be several symbols; use fetch_pool for a single one")
        names = list(dict.fromkeys(map(_normalised, symbols)))
        deadline = self._deadline(timeout)
        max_age = self._max_age if max_age is None else _age(max_age)
        recent: dict[str, InsurancePool] = {}
        if max_age:
            for name in names:
                pool = self._requests.recent_pool(name, max_age)
                if pool is not None:
                    recent[name] = pool
        plan = Plan(
            (name for name in names if name not in recent),
            self._knowledge,
            snapshot_weight=self._knowledge.affordable_snapshot_weight(self._budget.capacity),
            width=self._max_concurrency,
        )
        await carry_out(plan, self._requests, deadline)
        found = recent | plan.pools
        results = {name: found.get(name) or plan.errors[name] for name in names}
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

    async def fetch_snapshot(
        self, *, timeout: float | None = None, max_age: float | None = None
    ) -> InsuranceSnapshot:
        """Fetch every pool of the exchange, for a weight of 40; 41 without a recent answer.

        Args:
            timeout: seconds for everything, as for `fetch_pool`.
            max_age: seconds; a snapshot asked for no longer ago is given without a request. None
                means the client's `max_age`.

        Raises:
            DecodeError: not every pool is as documented; `.pools` has those that are.
            InsuranceError: any other failure, each of its own kind.

        The weight is documented as 1, but was measured as 40 by a third party; 40 is charged until
        the used weight of our own answers shows otherwise. Without a recent answer, a request of
        weight 1 goes first, so that no heavy one has to find out what others have used.
        """
        if get_running_loop() is not self._loop:
            self._enter()
        deadline = self._deadline(timeout)
        if max_age is None:
            max_age = self._max_age
        if max_age:
            snapshot = self._requests.recent_snapshot(_age(max_age))
            if snapshot is not None:
                return snapshot
        return await self._requests.snapshot(deadline)

    async def fetch_request_weight(self, *, timeout: float | None = None) -> RequestWeight:
        """Ask how much weight the IP is granted and has used, for a weight of 1.

        Args:
            timeout: seconds for everything, as for `fetch_pool`.

        Raises:
            InsuranceError: each failure of its own kind.

        The limit is the `REQUEST_WEIGHT` of the exchange's `exchangeInfo`.
        """
        if get_running_loop() is not self._loop:
            self._enter()
        return await self._requests.request_weight(self._deadline(timeout))

    def watch(
        self,
        every: float = 60.0,
        *,
        symbols: Iterable[str] | None = None,
        since: InsuranceSnapshot | None = None,
    ) -> Watch:
        """Observe what moves: `async with client.watch(60) as updates: async for update in …`.

        Args:
            every: seconds from one tick to the next; it asks at start + k * every, at once first.
            symbols: whose pools to watch, for the least weight; None watches all.
            since: a snapshot that the first update is compared with.

        Raises:
            ValueError: `every` is not positive and finite, or there is no symbol, or a bad one.
        """
        return Watch(self, self._runtime, every, symbols, since)

    def stats(self) -> ClientStats:
        """Return what this client has done so far."""
        return ClientStats(
            requests_sent=self._attempts.sent,
            retries=self._retries.made,
            calls_shared=self._requests.calls_shared,
            weight_spent=self._attempts.weight,
            used_weight=self._attempts.used_weight,
        )

    async def aclose(self) -> None:
        """Close the client. Calls in flight, and later ones, end with a `ClientClosedError`.

        A second close is fine.
        """
        if get_running_loop() is not self._loop:
            self._enter()
        self._closed = True
        try:
            await self._requests.aclose()
        finally:
            await self._transport.aclose()

    async def __aenter__(self) -> Self:
        if self._closed:
            raise ClientClosedError("this InsuranceClient is closed; make a new one")
        if get_running_loop() is not self._loop:
            self._enter()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _enter(self) -> None:
        """Belong to the running loop from now on: the last one has ended, or is the parent's."""
        process = os.getpid()
        forked = process != self._process
        if forked:
            keep(self._loop)
        else:
            check_loop(self._loop, "client")
        self._loop, self._process = get_running_loop(), process
        self._requests.restart(forked=forked)

    def _deadline(self, timeout: float | None) -> float:
        if timeout is None:
            return inf
        if not timeout > 0:
            raise ValueError(f"timeout must be positive, or None for no bound, not {timeout}")
        return self._runtime.monotonic() + timeout


def _age(max_age: float) -> float:
    if not max_age >= 0:
        raise ValueError(f"max_age must be 0 or more seconds, not {max_age}")
    return max_age
