"""Questions that overlap share their requests, and every answer serves whom it can.

- The same symbol, or symbols of one known pool, are asked for once at a time; while the request
  without symbol is under way, it answers for all.
- An answer also lands the flights that still wait for weight and whose symbols it names.
- When more weight is waited for than the request without symbol weighs, it takes their place.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from ._decoding import decode_pool, decode_pools
from ._flights import Flight
from .budget.report import utc
from ._knowledge import Group, Knowledge
from ._planner import snapshot_is_lighter
from .errors import (
    BadRequestError,
    BudgetTimeoutError,
    DecodeError,
    InsuranceError,
    RequestTimeoutError,
    TransportError,
)
from .models import InsurancePool, InsuranceSnapshot

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._attempts import Attempts
    from ._retry import Retrier
    from ._runtime import Runtime
    from .budget import Lease, WeightBudget

T = TypeVar("T")

_POOLS = "insuranceBalance"
_SYMBOL_WEIGHT = 1


class Sharing:
    """The flights of one client, and what their answers have taught.

    Attributes:
        knowledge: what the answers taught.
        answered_otherwise: questions answered without a request of their own.
    """

    def __init__(
        self, attempts: Attempts, retrier: Retrier, budget: WeightBudget, runtime: Runtime
    ) -> None:
        self.knowledge = Knowledge()
        self.answered_otherwise = 0
        self._attempts = attempts
        self._retrier = retrier
        self._budget = budget
        self._monotonic = runtime.monotonic
        self._by_symbol: dict[str, Flight[InsurancePool]] = {}
        self._by_group: dict[Group, Flight[InsurancePool]] = {}
        self._for_all: Flight[InsuranceSnapshot] | None = None
        self._waiting: set[Flight[InsurancePool]] = set()
        self._flights: set[Flight[Any]] = set()
        self._closed = False

    async def pool(self, symbol: str, deadline: float, *, alone: bool = False) -> InsurancePool:
        """Return a pool that names a symbol, sharing what is under way.

        With `alone` it is asked for by itself, so that an error is the exchange's own.
        """
        group = None if alone else self.knowledge.group_of(symbol)
        if not alone and (self._for_all is not None or group in self._by_group):
            pool = await self._pool_under_way(symbol, group, deadline)
            if pool is not None:
                self.answered_otherwise += 1
                return pool
        flight = self._by_symbol.get(symbol)
        if flight is not None:
            pool = await self._board(flight, symbol, deadline)
            self.answered_otherwise += 1
            return pool
        flight = self._launch_for_pool(symbol, group, alone=alone)
        if deadline < inf:
            pool = await self._board(flight, symbol, deadline)
        else:  # the usual way, kept short
            seat = flight.board(deadline)
            try:
                pool = await seat
            finally:
                flight.leave(seat)
        self.answered_otherwise += not flight.sent
        return pool

    async def snapshot(self, deadline: float) -> InsuranceSnapshot:
        """Return every pool, sharing the request if it is under way."""
        flight = self._for_all
        if flight is None:
            flight = self._launch_for_all()
        else:
            self.answered_otherwise += 1
        return await self._board(flight, None, deadline)

    async def single(self, attempt: Callable[[Flight[T]], Awaitable[T]], deadline: float) -> T:
        """Ask a question that nothing else can answer; `attempt` makes one attempt."""
        flight: Flight[T] = Flight(None, _nothing, self._flights.discard, alone=True)
        self._take_off(flight, attempt)
        return await self._board(flight, None, deadline)

    def recall(self, symbol: str, max_age: float) -> InsurancePool | None:
        """Return the newest pool that names a symbol, if it was observed within `max_age` s."""
        pool = self.knowledge.pool_since(symbol, self._monotonic() - max_age)
        self.answered_otherwise += pool is not None
        return pool

    def recall_snapshot(self, max_age: float) -> InsuranceSnapshot | None:
        """Return the newest snapshot, if it was observed within `max_age` seconds."""
        snapshot = self.knowledge.snapshot_since(self._monotonic() - max_age)
        self.answered_otherwise += snapshot is not None
        return snapshot

    async def aclose(self) -> None:
        """End all flights; those aboard get a `TransportError`."""
        self._closed = True
        tasks: list[asyncio.Task[None]] = []
        for flight in tuple(self._flights):
            closed = "the client was closed during the call"
            flight.fail(TransportError(closed, symbol=flight.symbol))
            tasks += flight.abort()
        if tasks:
            await asyncio.wait(tasks)

    async def _pool_under_way(
        self, symbol: str, group: Group | None, deadline: float
    ) -> InsurancePool | None:
        """Wait for a flight that should name a symbol; None if there is none, or it does not."""
        try:
            if self._for_all is not None:
                return (await self._board(self._for_all, symbol, deadline)).get(symbol)
            flight = None if group is None else self._by_group.get(group)
            if flight is None or flight.symbol == symbol:
                return None
            pool = await self._board(flight, symbol, deadline)
        except (BadRequestError, DecodeError):
            return None  # that was about another symbol, or one bad pool among all
        return pool if symbol in pool.symbols else None

    async def _board(self, flight: Flight[T], symbol: str | None, deadline: float) -> T:
        """Wait for a flight's answer; an error is about what this caller asked for.

        Raises:
            InsuranceError: that of the request.
            BudgetTimeoutError: the time passed while it waited for weight.
            RequestTimeoutError: the time passed while it was under way.
        """
        seat = flight.board(deadline)
        try:
            left = self._attempts.left(deadline)
            if left is None:
                return await seat
            if not flight.sent:
                self._budget.check(_SYMBOL_WEIGHT, timeout=left)
            try:
                async with asyncio.timeout(left):
                    return await seat
            except TimeoutError:
                late = BudgetTimeoutError if flight.waiting else RequestTimeoutError
                what = "request weight came free" if flight.waiting else "complete answer"
                raise late(f"no {what} within {left:.3g} s", symbol=symbol) from None
        except InsuranceError as error:
            if symbol is None or error.symbol == symbol:
                raise
            raise error.about(symbol) from error.__cause__
        finally:
            flight.leave(seat)

    def _launch_for_pool(
        self, symbol: str, group: Group | None, *, alone: bool
    ) -> Flight[InsurancePool]:
        # Annotated, not subscripted: that would cost as much as all the rest.
        flight: Flight[InsurancePool] = Flight(
            symbol, self._close_for_pool, self._flights.discard, group=group, alone=alone
        )
        self._take_off(flight, self._attempt_for_pool)
        self._by_symbol[symbol] = flight
        if group is not None:
            self._by_group[group] = flight
        return flight

    def _close_for_pool(self, flight: Flight[InsurancePool]) -> None:
        symbol, group = flight.symbol, flight.group
        if symbol is not None and self._by_symbol.get(symbol) is flight:
            del self._by_symbol[symbol]
        if group is not None and self._by_group.get(group) is flight:
            del self._by_group[group]

    def _launch_for_all(self) -> Flight[InsuranceSnapshot]:
        flight: Flight[InsuranceSnapshot] = Flight(None, self._close_for_all, self._flights.discard)
        self._take_off(flight, self._attempt_for_all)
        self._for_all = flight
        return flight

    def _close_for_all(self, flight: Flight[InsuranceSnapshot]) -> None:
        if self._for_all is flight:
            self._for_all = None

    def _take_off(self, flight: Flight[T], attempt: Callable[[Flight[T]], Awaitable[T]]) -> None:
        if self._closed:
            raise TransportError("this client is closed", symbol=flight.symbol)
        self._flights.add(flight)
        flight.take_off(self._retrier, attempt)

    async def _attempt_for_pool(self, flight: Flight[InsurancePool]) -> InsurancePool:
        symbol = flight.symbol
        assert symbol is not None  # noqa: S101 - for type checkers
        lease: Lease | None = None
        if not flight.alone:
            self._waiting.add(flight)
            if self._for_all is not None or snapshot_is_lighter(
                self.knowledge.snapshot_weight, len(self._waiting)
            ):
                self._merge()
        try:
            if not flight.diverted:
                lease = await self._attempts.acquire(_SYMBOL_WEIGHT, flight)
        except asyncio.CancelledError:
            if not flight.heed():
                raise
        finally:
            self._waiting.discard(flight)
        if lease is None:
            pool = await self._pool_for_all(symbol, flight.deadline)
            if pool is not None:
                return pool
            flight.diverted, flight.alone = False, True
            lease = await self._attempts.acquire(_SYMBOL_WEIGHT, flight)
        outcome = await self._attempts.send(_POOLS, lease, flight)
        pool = decode_pool(outcome.body, symbol)
        self._learn(pool)
        return pool

    async def _pool_for_all(self, symbol: str, deadline: float) -> InsurancePool | None:
        """Wait for the flight for everything; None if it is over, or does not help."""
        for_all = self._for_all
        if for_all is None:
            return None
        seat = for_all.board(deadline)
        try:
            return (await seat).get(symbol)
        except DecodeError:
            return None
        finally:
            for_all.leave(seat)

    async def _attempt_for_all(self, flight: Flight[InsuranceSnapshot]) -> InsuranceSnapshot:
        lease = await self._attempts.acquire(self.knowledge.snapshot_weight, flight)
        outcome = await self._attempts.send(_POOLS, lease, flight)
        report = outcome.report
        at = report.wall if report.date is None else report.date
        snapshot = InsuranceSnapshot(decode_pools(outcome.body), utc(at))
        if outcome.used_before is not None and report.used_weight is not None:
            self.knowledge.learn_snapshot_weight(outcome.used_before, report.used_weight)
        self.knowledge.learn_snapshot(snapshot, self._monotonic())
        for pool in snapshot.pools:
            self._answer_waiting(pool)
        return snapshot

    def _merge(self) -> None:
        """Let one request without symbol answer all who wait for weight, if it can be had."""
        if self.knowledge.snapshot_weight > self._budget.capacity:
            return
        for_all = self._for_all or self._launch_for_all()
        for flight in self._waiting:
            for_all.deadline = max(for_all.deadline, flight.deadline)
            flight.divert()

    def _learn(self, pool: InsurancePool) -> None:
        self.knowledge.learn_pool(pool, self._monotonic())
        self._answer_waiting(pool)

    def _answer_waiting(self, pool: InsurancePool) -> None:
        for flight in tuple(self._waiting):
            if flight.symbol in pool.symbols:
                flight.land(pool)


def _nothing(_: object) -> None:
    """Take no note: nobody else boards such a flight."""
