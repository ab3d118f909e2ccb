"""One process's budget: the queue and one timer around the token bucket."""

from __future__ import annotations

import os
from asyncio import get_running_loop
from math import inf
from threading import get_ident
from typing import TYPE_CHECKING

from .._forks import in_children
from .._runtime import Runtime
from .failures import ban_error
from .ledger import Ledger
from .queueing import QueueingBudget
from .settings import Settings
from .window import TokenBucket

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Callable

    from .ledger import Lease
    from .report import Report


class LocalBudget(QueueingBudget):
    """The weight budget of one process; other clients on the IP are seen through the header.

    Args:
        limit: weight that the exchange grants the IP in one window; 2,400 is documented, VIP
            accounts can differ.
        interval: seconds of a window, a whole number; the exchange's is the UTC clock minute.
        reserve: weight in each window that is left to the other clients on the IP.
        runtime: clocks, for tests in virtual time.

    Raises:
        ValueError: unless 0 <= reserve < limit and interval is a whole number >= 1.

    Several clients in one event loop can share a budget, and should if they share an IP. It serves
    one loop at a time, and the next one when that has ended. Closing it fails its callers.
    """

    def __init__(
        self,
        limit: int = 2400,
        *,
        interval: float = 60.0,
        reserve: int = 480,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        settings = Settings(limit, interval, reserve)
        bucket = TokenBucket(settings, Ledger())
        super().__init__(settings, bucket, runtime.monotonic)
        self._take = bucket.take
        self._own_reserve = reserve
        self._thread = 0  # in which its loop runs
        self._is_running: Callable[[], bool] = bool  # no: bool() is False
        self._process = os.getpid()
        in_children(self, LocalBudget._forget_loop)

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent, and take it. First come, first served.

        Each lease must come back once: to `settle` when its request was sent, to `release` when
        it certainly was not. A cancelled call leaves no trace.

        Raises:
            IPBannedError: at once, while the IP is banned.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
            StoreError: the budget is or was closed.
            RuntimeError: another event loop that is running uses it.
        """
        # A thread runs one loop at a time. On Python 3.11 to ask for it takes a call of the system.
        if get_ident() != self._thread or not self._is_running():
            self._enter(get_running_loop())
        if not self._queue.length:
            lease = self._take(weight, self._monotonic(), self._own_reserve)
            if lease is not None:
                return lease
        return await self.acquire_within(self._own_reserve, weight, timeout)

    async def acquire_within(self, reserve: int, weight: int, timeout: float | None) -> Lease:
        """Acquire for a caller that leaves `reserve` of the limit to others."""
        if get_ident() != self._thread or not self._is_running():
            self._enter(get_running_loop())
        self.check_within(reserve, weight, timeout)
        return await self._wait(weight, timeout, reserve)

    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now, and count it as sent from now on."""
        now = self._monotonic()
        if not self._bucket.confirm(lease, now):
            return False
        lease.sent_at = now
        return True

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Record what the answer reported; None if the request was sent without one."""
        if not lease.open:
            return
        lease.open = False
        self._bucket.settle(lease, self._monotonic(), report)
        if report is not None and report.status != 200:
            self._warn(report)
        if self._queue.length:
            self._serve()

    async def recorded(self, lease: Lease) -> None:
        """Return at once: no other process has to know."""

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        if not lease.open:
            return
        lease.open = False
        self._bucket.give_back(lease)
        if self._queue.length:
            self._serve()

    async def aclose(self) -> None:
        """Fail the callers that wait with `StoreError`, and refuse later ones."""
        self._close()
        self._is_running = bool

    def _enter(self, loop: AbstractEventLoop) -> None:
        if self._process != os.getpid():
            # A forked child: what the parent has in flight counts as lost here.
            self._process, self._loop = os.getpid(), None
            self._bucket.restart(0, self._monotonic())
        super()._enter(loop)
        self._thread, self._is_running = get_ident(), loop.is_running

    def _forget_loop(self) -> None:
        """Find out in a forked child, where the parent's loop seems to run, that it does not."""
        self._is_running, self._loop = bool, None

    def _serve(self) -> None:
        """Serve the callers in order as far as the weight goes, and set the timer for the rest."""
        if not self._is_running():
            return  # those that wait belong to a loop that has ended
        now, bucket, queue = self._monotonic(), self._bucket, self._queue
        banned = ban_error(bucket.ledger.refusals, now)
        if banned is not None:
            queue.fail_all(banned.copy)
        while (waiter := queue.first) is not None:
            if not waiter.granted.done():  # else it was cancelled and is about to take itself back
                lease = bucket.take(waiter.weight, now, waiter.reserve)
                if lease is None:
                    self._fail_late()
                    if queue.first is waiter:
                        break
                    continue  # it cannot be served in time; the next may be lighter
                waiter.granted.set_result(lease)
            queue.remove(waiter)
        self._set_timer(
            inf if waiter is None else bucket.wake_at(waiter.weight, now, waiter.reserve) - now
        )
