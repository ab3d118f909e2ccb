"""Overlapping calls share requests; one answer completes every call it covers.

- A symbol is asked for once at a time, and so is a known pool.
- While the snapshot request is in flight, it answers every call.
- An answer also completes the requests that still wait for weight and whose symbols it names.
- Where all that wait for weight would weigh more than the snapshot request, it replaces them.

A request is a value with its callers; `Requests._run` starts, retries and ends it, in a task for
each. A caller that is cancelled or out of time leaves; without callers a request is cancelled.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, TypeVar

from ._decoding import decode_pool
from ._ended import end_task
from ._open_requests import OpenRequests
from ._shared_request import INFO, LIGHT, POOLS, SharedRequest
from ._without_symbol import WithoutSymbol
from .errors import (
    BadRequestError,
    BudgetTimeoutError,
    ClientClosedError,
    DecodeError,
    InsuranceError,
    RequestTimeoutError,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from ._attempts import Attempts
    from ._knowledge import Group, Knowledge
    from ._retry import Retries
    from ._runtime import Runtime
    from .budget import WeightBudget
    from .models import InsurancePool, InsuranceSnapshot, RequestWeight

T = TypeVar("T")


class Requests:
    """The requests of one client.

    Attributes:
        knowledge: what their answers taught.
        calls_shared: calls answered without a request of their own.
    """

    def __init__(
        self,
        attempts: Attempts,
        retries: Retries,
        knowledge: Knowledge,
        budget: WeightBudget,
        runtime: Runtime,
    ) -> None:
        self.knowledge = knowledge
        self.calls_shared = 0
        self._attempts = attempts
        self._without_symbol = WithoutSymbol(attempts, knowledge, budget, runtime)
        self._retries = retries
        self._budget = budget
        self._monotonic = runtime.monotonic
        self._open = OpenRequests()
        self._running: dict[asyncio.Task[None], SharedRequest[Any]] = {}
        self._closed = False

    async def pool(self, symbol: str, deadline: float, *, exclusive: bool = False) -> InsurancePool:
        """Return a pool that names a symbol; with `exclusive`, an error is the exchange's own."""
        group = None
        if not exclusive:
            group = self.knowledge.groups.get(symbol)
            if self._open.snapshot is not None or group in self._open.by_group:
                pool = await self._pool_of_another(symbol, group, deadline)
                if pool is not None:
                    self.calls_shared += 1
                    return pool
        request: SharedRequest[InsurancePool] | None = self._open.by_symbol.get(symbol)
        if request is not None:
            pool = await self._wait(request, request.join(deadline), symbol, deadline)
            self.calls_shared += 1
            return pool
        request = SharedRequest(symbol, POOLS, group, exclusive)
        caller = request.join(deadline)
        self._open.by_symbol[symbol] = request
        if group is not None:
            self._open.by_group[group] = request
        self._start(request)
        try:
            if deadline < inf:
                pool = await self._wait(request, caller, symbol, deadline)
            else:  # the usual way, kept short
                pool = await caller
        except asyncio.CancelledError:
            self._leave(request, caller)
            raise
        finally:
            del caller  # the error that it holds refers to this frame
        self.calls_shared += not request.sent
        return pool

    async def snapshot(self, deadline: float) -> InsuranceSnapshot:
        """Return every pool, sharing the request in flight."""
        request: SharedRequest[InsuranceSnapshot] | None = self._open.snapshot
        if request is not None:
            self.calls_shared += 1
            return await self._wait(request, request.join(deadline), None, deadline)
        self._open.snapshot = request = SharedRequest(None)
        return await self._start_and_wait(request, deadline)

    async def request_weight(self, deadline: float) -> RequestWeight:
        """Return the weight that the exchange grants and has counted."""
        request: SharedRequest[RequestWeight] = SharedRequest(None, INFO)
        return await self._start_and_wait(request, deadline)

    def recent_pool(self, symbol: str, max_age: float) -> InsurancePool | None:
        """Return the newest pool that names a symbol, asked for within `max_age` seconds."""
        pool = self.knowledge.pool_since(symbol, self._monotonic() - max_age)
        self.calls_shared += pool is not None
        return pool

    def recent_snapshot(self, max_age: float) -> InsuranceSnapshot | None:
        """Return the newest snapshot, asked for within `max_age` seconds, or None."""
        snapshot = self.knowledge.snapshot_since(self._monotonic() - max_age)
        self.calls_shared += snapshot is not None
        return snapshot

    def hopeless(self, deadline: float) -> InsuranceError | None:
        """Return why nothing can be asked any more until a deadline, None if it can."""
        if self._closed:
            return ClientClosedError("this client is closed")
        try:
            self._attempts.left(deadline)
        except RequestTimeoutError as error:
            return error
        return None

    def restart(self, *, forked: bool) -> None:
        """Leave what belonged to a loop that has ended, or to the parent of a forked process."""
        left, self._running = self._running, {}
        self._open = OpenRequests()
        self._attempts.restart(forked=forked)
        for task, request in () if forked else left.items():
            request.callers.clear()  # they have ended with their loop
            end_task(task)

    async def aclose(self) -> None:
        """Fail all calls with a `ClientClosedError`, and end all tasks."""
        self._closed = True
        tasks = list(self._running)
        for request in [*self._running.values(), *self._open.replaced]:
            self._open.close(request)
            request.fail(ClientClosedError("the client was closed during the call"))
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks)

    async def _pool_of_another(
        self, symbol: str, group: Group | None, deadline: float
    ) -> InsurancePool | None:
        """Join the request that should name a symbol; None if there is none, or it does not."""
        try:
            every = self._open.snapshot
            if every is not None:
                return (await self._wait(every, every.join(deadline), symbol, deadline)).get(symbol)
            request = None if group is None else self._open.by_group.get(group)
            if request is None or request.symbol == symbol:
                return None
            pool = await self._wait(request, request.join(deadline), symbol, deadline)
        except BadRequestError:
            return None  # that was about another symbol
        except DecodeError as error:
            return error.pool_of(symbol)  # one bad pool among all, or about another symbol
        return pool if symbol in pool.symbols else None

    async def _start_and_wait(self, request: SharedRequest[T], deadline: float) -> T:
        caller = request.join(deadline)
        self._start(request)
        return await self._wait(request, caller, None, deadline)

    async def _wait(
        self,
        request: SharedRequest[T],
        caller: asyncio.Future[T],
        symbol: str | None,
        deadline: float,
    ) -> T:
        """Wait for a request's answer; an error has the caller's symbol."""
        try:
            left = self._attempts.left(deadline)
            if left is None:
                return await caller
            asked = request.replaced_by or request
            if not asked.in_flight:
                # One that was sent and waits for a slot or a retry has its weight but in a freeze.
                held = asked.waiting or not asked.sent
                if held or self._budget.state().frozen_until is not None:
                    self._budget.check(LIGHT, timeout=left)
            try:
                async with asyncio.timeout(left):
                    return await caller
            except TimeoutError:
                waiting = (request.replaced_by or request).waiting
                late = BudgetTimeoutError if waiting else RequestTimeoutError
                what = "request weight came free" if waiting else "complete answer"
                raise late(f"no {what} within {left:.3g} s", symbol=symbol) from None
        except InsuranceError as error:
            if symbol is None or error.symbol == symbol:
                raise
            raise error.about(symbol) from error.__cause__
        finally:
            self._leave(request, caller)
            del caller

    def _leave(self, request: SharedRequest[T], caller: asyncio.Future[T]) -> None:
        """Remove a caller; without any, the request is cancelled."""
        if caller in request.callers:
            del request.callers[caller]
            if not request.callers:
                self._cancel(request)

    def _start(self, request: SharedRequest[Any]) -> None:
        """Give a request a task."""
        if self._closed:
            self._open.close(request)
            raise ClientClosedError("this client is closed", symbol=request.symbol)
        request.task = task = asyncio.get_running_loop().create_task(self._run(request))
        if not task.done():  # as one of an eager factory may be
            self._running[task] = request

    async def _run(self, request: SharedRequest[Any]) -> None:
        """Start, retry and end a request."""
        try:
            try:
                answer = await self._attempt(request)
                if self._retries.quota.spent:
                    self._retries.quota.refund()
            except InsuranceError as error:
                answer = await self._retry(request, error)
        except asyncio.CancelledError:
            if request.task is asyncio.current_task():  # and was not replaced
                for each in self._open.close(request):
                    self._open.close(each)
                    each.cancel()
                request.cancel()
            raise
        except Exception as error:
            self._fail(request, error)
        else:
            for each in self._open.close(request):
                self._answer_replaced(each, answer.get(each.symbol))
            request.answer(answer)
        finally:
            task = asyncio.current_task()
            if task is not None:
                self._running.pop(task, None)

    async def _retry(self, request: SharedRequest[Any], error: InsuranceError) -> Any:
        attempts = self._retries.after(error, request)
        try:
            async for attempt in attempts:
                with attempt:
                    return await self._attempt(request)
            raise attempts.error
        finally:
            del attempts, error  # the error refers to this frame

    async def _attempt(self, request: SharedRequest[Any]) -> Any:
        """Make one attempt, and learn from its answer."""
        symbol = request.symbol
        if symbol is None:
            if request.endpoint == INFO:
                return await self._without_symbol.request_weight(request)
            return await self._snapshot_attempt(request)
        outcome = None
        while outcome is None:  # as long as no grant holds until the request can be sent
            if not request.exclusive:
                if (self._open.waiting or self._open.snapshot is not None) and self._merge(request):
                    raise asyncio.CancelledError  # this task ends as theirs do
                self._open.waiting.add(request)
            try:
                lease = await self._attempts.acquire(LIGHT, request)
            finally:
                self._open.waiting.discard(request)
            outcome = await self._attempts.send(POOLS, lease, request)
        pool = decode_pool(outcome.body, symbol, outcome.report)
        self.knowledge.learn_pool(pool, outcome.asked_at)
        if self._open.waiting:
            self._answer_waiting([pool])
        return pool

    async def _snapshot_attempt(self, request: SharedRequest[Any]) -> InsuranceSnapshot:
        try:
            snapshot = await self._without_symbol.snapshot(request)
        except DecodeError as error:
            self._answer_waiting(error.pools)
            raise
        self._answer_waiting(snapshot.pools)
        return snapshot

    def _answer_waiting(self, pools: Iterable[InsurancePool]) -> None:
        """Complete the requests that wait for weight and whose symbols a pool names."""
        for pool in pools:
            for request in self._open.waiting_for(pool):
                self._open.close(request)
                request.answer(pool)
                self._end_task(request)

    def _merge(self, request: SharedRequest[InsurancePool]) -> bool:
        """Let the snapshot request replace a request and all that wait, if that is lighter."""
        weight = self.knowledge.affordable_snapshot_weight(self._budget.capacity)
        if not self._open.would_merge(weight):
            return False
        for each in self._open.waiting:
            self._end_task(each)
        snapshot = self._open.merge(request)
        if snapshot.task is None:
            self._start(snapshot)
        return True

    def _answer_replaced(
        self, request: SharedRequest[InsurancePool], pool: InsurancePool | None
    ) -> None:
        """Complete a request that was replaced; without a pool, start it again by itself."""
        if pool is not None:
            self._open.close(request)
            request.answer(pool)
        else:
            request.replaced_by, request.exclusive = None, True
            self._start(request)

    def _fail(self, request: SharedRequest[Any], error: Exception) -> None:
        """End a request with an error, and what it replaced with the same."""
        for each in self._open.close(request):
            if isinstance(error, DecodeError):  # one bad pool among all
                self._answer_replaced(each, error.pool_of(each.symbol))
            else:
                self._fail(each, error)
        request.fail(error)

    def _cancel(self, request: SharedRequest[Any]) -> None:
        """End a request that has no callers, unless it replaced one that has."""
        snapshot = self._open.snapshot
        if request is snapshot and self._open.replaced:
            return
        self._open.close(request)
        self._end_task(request)
        if request in self._open.replaced:
            self._open.replaced.discard(request)
            if snapshot is not None and not snapshot.callers:
                self._cancel(snapshot)

    def _end_task(self, request: SharedRequest[Any]) -> None:
        """Cancel the task of a request."""
        if request.task is not None:
            request.task.cancel()
            # One that is cancelled before its first step never runs.
            request.task.add_done_callback(self._forget)

    def _forget(self, task: asyncio.Task[None]) -> None:
        self._running.pop(task, None)
