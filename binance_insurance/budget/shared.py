"""The queue of one process in front of a ledger that many processes share.

A process has one change of the shared value under way at a time; what happens waits for the next.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct

from .._ended import end_task
from ..errors import IPBannedError, StoreError
from .change import HEARTBEATS, Ended
from .failures import ban_error
from .holding import Holding
from .ledger import Ledger
from .queueing import QueueingBudget
from .window import TokenBucket

if TYPE_CHECKING:
    from .._runtime import Runtime
    from .change import Outcome
    from .ledger import Lease
    from .queue import Waiter
    from .report import Report
    from .settings import Settings
    from .store import Store

_TRY_AGAIN = 1.0  # seconds until what ended is written down after the store was out of reach
_TOGETHER = 0.005  # seconds that an answer may wait to be written down with the next decision
_OK = 200
_LONGEST_WAIT = 30.0  # seconds that callers go without a look at what others have learned
_SELDOM = 10  # without a probe in flight, others learn less that matters to callers that wait
_BETWEEN_LOOKS = 1.0  # seconds between two looks whether the store still has a ban


class _Look(Struct):
    """Whether to look if the store has a ban that is known here, and when that was last done."""

    asked: bool = False
    at: float = -inf


class SharedBudget(QueueingBudget):
    """A budget that knows the shared ledger after its last change, and what ended here since."""

    def __init__(self, settings: Settings, store: Store, runtime: Runtime, group: str) -> None:
        super().__init__(settings, TokenBucket(settings, Ledger()), runtime.monotonic)
        self._store = store
        self._holding = Holding(settings, runtime, group)
        self._changing: asyncio.Task[None] | None = None
        self._again = False
        self._look = _Look()

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which it was used last, by this process."""
        return None if self._holding.forked else self._loop

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a client; the first client decides which.

        What was learned before of the exchange that is served without any client is dropped where
        that is another one.

        Raises:
            ValueError: it serves another exchange, or base_url is no URL.
        """
        before = self.exchange
        super().serve(base_url)
        if self.exchange != before:
            self._holding = self._holding.again()
            self._bucket = TokenBucket(self._settings, Ledger())

    async def acquire_within(self, reserve: int, weight: int, timeout: float | None) -> Lease:
        """Acquire for a caller that leaves `reserve` of the limit to others."""
        self._holding.check()
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        self.check_within(reserve, weight, timeout)
        return await self._wait(weight, timeout, reserve)

    def check_within(self, reserve: int, weight: int, timeout: float | None) -> None:
        """Check for a caller that leaves `reserve` of the limit to others."""
        try:
            super().check_within(reserve, weight, timeout)
        except IPBannedError:
            # The store may have lost the ban: look soon.
            if not self._look.asked and self._is_here() and not self._holding.forked:
                self._look.asked = True
                if self._changing is None:
                    self._rest()
            raise

    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now, and count it as sent from now on.

        Not if the other processes may have taken this one for dead, since it did not write for
        long: then they no longer count what it holds.
        """
        if not (
            self._holding.counts(lease, apart=self._store.apart)
            and self._bucket.confirm(lease, self._now())
        ):
            return False
        lease.sent_at = self._monotonic()
        return True

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Record what the answer reported; None if the request was sent without one."""
        self._end(Ended(lease, self._monotonic(), report))

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        self._end(Ended(lease, self._monotonic(), unused=True))

    async def recorded(self, lease: Lease) -> None:
        """Wait until the other processes can know that a lease came back, or the store fails."""
        ended = self._holding.unwritten(lease)
        if ended is not None:
            ended.written = written = asyncio.get_running_loop().create_future()
            self._serve()
            await written

    async def aclose(self) -> None:
        """Fail the callers that wait, write down what has ended, and let go of the store.

        In a process that was forked from the one that used it, it does nothing.
        """
        holding, loop = self._holding, asyncio.get_running_loop()
        if holding.forked or holding.closed:
            return
        if loop is not self._loop and not self._closed:
            self._enter(loop)
        self._close()
        while self._changing is not None or holding.ended or self._look.asked:
            await asyncio.wait([self._changing or self._start()])
            if holding.failing or self._store.apart:
                break  # it counts as lost, like the answers of a process that died
        holding.closed = True
        await self._store.aclose()

    @property
    def _least_reserve(self) -> int:
        return self._store.least_reserve

    def _now(self) -> float:
        return self._monotonic() + self._holding.bounds.low

    def _is_here(self) -> bool:
        """Whether this is the loop that the budget belongs to."""
        try:
            return asyncio.get_running_loop() is self._loop
        except RuntimeError:
            return False  # a lease came back when its loop had ended

    def _restart(self) -> None:
        super()._restart()
        if self._changing is not None:
            end_task(self._changing)
        self._changing, self._again = None, False
        self._holding.undo()
        self._store.restart()

    def _end(self, ended: Ended) -> None:
        """Know that a lease has come back; the next change writes it down."""
        lease, report, holding = ended.lease, ended.report, self._holding
        if not lease.open:
            return
        lease.open = False
        probing = self._now() < self._bucket.ledger.probe_until
        if not holding.end(ended):
            return  # the budget is closed, or served another exchange, or this is a forked process
        ended.apply(self._bucket, holding.bounds)
        ordinary = report is not None and report.status == _OK
        if not ordinary:
            self._warn(report)
            self._fail_if_banned()
        if not ordinary or self._queue.length or probing:
            self._serve()
        elif len(holding.ended) == 1 and self._changing is None and self._is_here():
            # No caller waits for this to be known, so it may go with the next decision.
            self._set_timer(_TOGETHER)

    def _fail_if_banned(self) -> None:
        banned = ban_error(self._bucket.ledger.refusals, self._now())
        if banned is not None:
            self._queue.fail_all(banned.copy)

    def _serve(self) -> None:
        """Start a change, or have the one under way be followed by another."""
        if self._changing is not None:
            self._again = True
        elif self._is_here():  # else the next caller in another loop starts it
            task = asyncio.current_task()
            perhaps = not self._queue.length if task is None else task.cancelling()
            if perhaps and is_ending():
                self._set_timer(_TRY_AGAIN)
            else:
                self._start()

    def _start(self) -> asyncio.Task[None]:
        self._changing = asyncio.get_running_loop().create_task(self._change())
        self._changing.add_done_callback(self._changed)
        return self._changing

    def _changed(self, task: asyncio.Task[None]) -> None:
        if task is not self._changing:
            return  # of a loop that has ended
        self._changing = None
        cancelled = task.cancelled() or task.cancelling()  # redis-py on 3.11 can swallow that
        if cancelled or (self._again and is_ending()):
            self._set_timer(_TRY_AGAIN)
        elif self._again:
            self._serve()
        else:
            self._rest()

    async def _change(self) -> None:
        try:
            while True:
                self._again = False
                await self._change_once()
                if not self._again:
                    return
        except Exception as error:  # a defect of ours: no caller may wait without end
            defect = error
            self._queue.fail_all(lambda: defect)
            raise

    async def _change_once(self) -> None:
        holding, look = self._holding, self._look.asked
        waiters = [waiter for waiter in self._queue if not waiter.granted.done()]
        change = holding.begin(self.exchange, waiters, apart=self._store.apart)
        if look:
            self._look.at = self._monotonic()
        try:
            await self._store.change(change)
        except StoreError as error:
            self._fail(error, again=holding.failing)
            holding.undo(change)
            return
        except BaseException:
            holding.undo(change)
            raise
        if change.outcome is None:
            raise RuntimeError("the store did not apply the change")
        if look:
            self._look.asked = False
        change.tell()
        holding.done(change.outcome)
        if holding is self._holding:
            self._take_over(change.outcome, waiters)
        else:
            self._again = True  # a client has named another exchange

    def _take_over(self, outcome: Outcome, waiters: list[Waiter]) -> None:
        """Know what a change came to, and hand out what it granted."""
        self._bucket = TokenBucket(self._settings, outcome.ledger)
        for ended in self._holding.ended:
            ended.apply(self._bucket, outcome.bounds)
        for waiter, lease in zip(waiters, outcome.leases, strict=False):
            if waiter in self._queue:
                self._queue.remove(waiter)
            if waiter.granted.done():
                self.release(lease)
            else:
                waiter.granted.set_result(lease)
        self._fail_if_banned()
        first = self._queue.first
        self._fail_late()
        if first is not self._queue.first:
            self._again = True  # the next may be lighter

    def _joined(self, waiter: Waiter) -> None:
        if self._changing is not None:
            self._again = True  # it was not asked for in the change that is under way
        elif self._queue.first is waiter:
            self._start()

    def _woken(self) -> None:
        if self._queue.length:
            self._serve()

    def _rest(self) -> None:
        """Set the timer for what comes next by itself."""
        if not self._is_here():
            return
        seconds, first, store, holding = inf, self._queue.first, self._store, self._holding
        local, now, bucket = self._monotonic(), self._now(), self._bucket
        if first is not None:
            reserve = max(first.reserve, store.least_reserve)
            seconds = min(bucket.wake_at(first.weight, now, reserve) - now, _LONGEST_WAIT)
            probing = now < bucket.ledger.probe_until
            seconds = min(seconds, store.polling * (1 if probing else _SELDOM))
            store.watch(self._woken)
        if holding.held or first is not None:
            heartbeat = bucket.transit / HEARTBEATS
            seconds = min(seconds, max(holding.told_at + heartbeat - local, heartbeat / 4))
        if holding.ended:
            seconds = min(seconds, _TRY_AGAIN if holding.failing else _TOGETHER)
        if self._look.asked:
            seconds = min(seconds, self._look.at + _BETWEEN_LOOKS - local)
        self._set_timer(max(min(seconds, store.look_at - local), 0.001))


def is_ending() -> bool:
    """Whether the running loop seems to end, since all its tasks are being cancelled.

    A new task would then be destroyed while it is pending.
    """
    return all(task.cancelling() for task in asyncio.all_tasks())
