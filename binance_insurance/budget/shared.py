"""The queue of one process in front of a ledger that many processes share.

While one change of the shared value is under way, what happens is gathered for the next, so a
process has one change in flight at a time.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Literal

from msgspec.structs import replace

from ..errors import StoreError
from .change import HEARTBEATS, Ended, copy
from .holding import Holding
from .ledger import Ledger
from .queueing import QueueingBudget, ban_error
from .window import TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

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


class SharedBudget(QueueingBudget):
    """A budget whose ledger lies in a store that processes share."""

    def __init__(self, settings: Settings, store: Store, monotonic: Callable[[], float]) -> None:
        super().__init__(settings, TokenBucket(settings, Ledger()), monotonic)
        self._store = store
        self._holding = Holding(settings)
        self._changing: asyncio.Task[None] | None = None
        self._again = False
        self._life: Literal["open", "closing", "closed"] = "open"

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent by this process, and take it.

        First come, first served among the callers of this process; which process is served next
        is not defined. Each lease must come back once: to `settle` when its request was sent, to
        `release` when it certainly was not. A cancelled call leaves no trace.

        Raises:
            IPBannedError: at once, while the IP is banned, whichever process met the ban.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
            StoreError: the store is out of reach, and no share was configured for that case.
        """
        loop = asyncio.get_running_loop()
        if loop is not self._loop:
            self._enter(loop)
        self.check(weight, timeout=timeout)
        return await self._wait(weight, timeout)

    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now, and count it as sent from now on."""
        if not self._bucket.confirm(lease, self._now(), self._settings.reserve):
            return False
        lease.sent_at = self._monotonic()
        return True

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Record what the answer reported; None if the request was sent without one."""
        bounds = self._holding.bounds
        if lease.open and bounds is not None and report is not None and report.status != _OK:
            # Until the change is made, this is what is known here of a ban or a freeze. The
            # weight is settled by the change alone.
            self._bucket = TokenBucket(self._settings, copy(self._bucket.ledger))
            ended = replace(lease, sent_at=lease.sent_at + bounds.low)
            self._bucket.observe(ended, self._now(), report, spread=bounds.high - bounds.low)
        self._end(Ended(lease, self._monotonic(), report))

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        self._end(Ended(lease, self._monotonic(), unused=True))

    async def aclose(self) -> None:
        """Write down what has ended, fail the callers that wait, and let go of the store."""
        self._life = "closing"
        self._close()
        while self._changing is not None or self._holding.ended:
            if self._changing is None:
                self._serve()
            if self._changing is not None:
                await asyncio.wait([self._changing])
            if self._holding.failing or self._store.apart:
                break  # it counts as lost, like the answers of a process that died
        self._life = "closed"
        self._set_timer(inf)
        await self._store.aclose()

    @property
    def _least_reserve(self) -> int:
        return self._store.least_reserve

    def _now(self) -> float:
        bounds = self._holding.bounds
        return self._monotonic() + (0.0 if bounds is None else bounds.low)

    def _end(self, ended: Ended) -> None:
        if not ended.lease.open:
            return
        ended.lease.open = False
        if self._life == "closed":
            return  # it counts as lost, like the answers of a process that died
        if not self._holding.end(ended):
            return
        ordinary = ended.report is not None and ended.report.status == _OK
        probing = self._now() < self._bucket.ledger.probe_until
        if not ordinary or self._queue.length or probing:
            self._serve()
        elif len(self._holding.ended) == 1 and self._changing is None:
            # No caller waits for this to be known, so it may go with the next decision.
            self._set_timer(_TOGETHER)

    def _serve(self) -> None:
        """Start a change, or have the one under way be followed by another."""
        if self._changing is None:
            self._changing = asyncio.get_running_loop().create_task(self._change())
        else:
            self._again = True

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
        finally:
            self._changing = None
            self._rest()

    async def _change_once(self) -> None:
        holding = self._holding
        waiters = [waiter for waiter in self._queue if not waiter.granted.done()]
        change = holding.begin(waiters, apart=self._store.apart)
        try:
            await self._store.change(change)
        except StoreError as error:
            holding.undo(change)
            self._queue.fail_all(error.copy)
            return
        except BaseException:
            holding.undo(change)
            raise
        if change.outcome is None:
            raise RuntimeError("the store did not apply the change")
        holding.done(change.outcome)
        self._take_over(change.outcome, change.ended, waiters)

    def _take_over(self, outcome: Outcome, ended: list[Ended], waiters: list[Waiter]) -> None:
        """Know what a change came to, and hand out what it granted."""
        self._bucket = TokenBucket(self._settings, outcome.ledger)
        for end in ended:
            self._warn(end.report)
        for waiter, lease in zip(waiters, outcome.leases, strict=False):
            if waiter in self._queue:
                self._queue.remove(waiter)
            if waiter.granted.done():
                self.release(lease)
            else:
                waiter.granted.set_result(lease)
        banned = outcome.ledger.refusals.banned_until(self._now())
        if banned is not None:
            self._queue.fail_all(lambda: ban_error(banned))
        first = self._queue.first
        self._fail_late()
        if first is not self._queue.first:
            self._again = True  # the next may be lighter

    def _joined(self, waiter: Waiter) -> None:
        # A caller that joins while a change is under way was not asked for in it.
        if self._queue.first is waiter or self._changing is not None:
            self._serve()

    def _woken(self) -> None:
        if self._queue.length:
            self._serve()

    def _rest(self) -> None:
        """Set the timer for what comes next by itself."""
        if self._life == "closed":
            return
        seconds, first, store = inf, self._queue.first, self._store
        if first is not None:
            now, bucket = self._now(), self._bucket
            reserve = max(first.reserve, store.least_reserve)
            seconds = min(bucket.wake_at(first.weight, now, reserve) - now, _LONGEST_WAIT)
            probing = now < bucket.ledger.probe_until
            seconds = min(seconds, store.polling * (1 if probing else _SELDOM))
            store.watch(self._woken)
        if self._holding.held or first is not None:
            seconds = min(seconds, self._bucket.transit / HEARTBEATS)
        if self._holding.ended:
            seconds = min(seconds, _TRY_AGAIN if self._holding.failing else _TOGETHER)
        seconds = min(seconds, store.look_at - self._monotonic())
        self._set_timer(max(seconds, 0.001))
