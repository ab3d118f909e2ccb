"""One process's budget: a queue of waiters and one timer around the token bucket."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING

from .._headers import used_weight_header, utc
from .._runtime import Runtime
from ..errors import BudgetTimeoutError, IPBannedError
from .bucket import TokenBucket
from .state import BudgetState

if TYPE_CHECKING:
    from .._headers import Report
    from .bucket import Lease


_log = logging.getLogger(__name__)
_TOO_MANY_REQUESTS, _BANNED = 429, 418


class _Waiter:
    __slots__ = ("deadline", "granted", "weight")

    def __init__(self, weight: int, deadline: float) -> None:
        self.weight = weight
        self.deadline = deadline
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class LocalBudget:
    """The weight budget of one process: it alone spends, beside the strangers on its IP.

    Args:
        limit: weight that the exchange grants the IP in one window; 2,400 is documented, VIP
            accounts can differ.
        interval: seconds of a window, a whole number; the exchange's is the UTC clock minute.
        reserve: weight in each window that is left to the other clients on the IP.
        runtime: clocks, for tests in virtual time.

    Raises:
        ValueError: unless 0 <= reserve < limit and interval is a whole number >= 1.

    Several clients in one event loop can share a budget, and should if they share an IP. It needs
    no closing. It belongs to the loop in which it is first awaited.
    """

    def __init__(
        self,
        limit: int = 2400,
        *,
        interval: float = 60.0,
        reserve: int = 480,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        self._bucket = TokenBucket(limit, interval=interval, reserve=reserve)
        self._monotonic = runtime.monotonic
        self._waiters: OrderedDict[_Waiter, None] = OrderedDict()
        self._queued = 0  # weight of all waiters
        self._outlook = -inf  # when the first waiter could be served, as last checked
        self._timer: asyncio.TimerHandle | None = None
        self.weight_header = used_weight_header(self._bucket.interval)

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return self._bucket.interval

    @property
    def capacity(self) -> int:
        """Weight that it grants in one window at the most: limit - reserve."""
        return self._bucket.capacity

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent, and take it. First come, first served.

        Each lease must come back once: to `settle` when its request was sent, to `release` when
        it certainly was not. A cancelled call leaves no trace.

        Raises:
            IPBannedError: at once, while the IP is banned.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
        """
        now = self._monotonic()
        if not self._waiters:
            lease = self._bucket.take(weight, now)
            if lease is not None:
                return lease
        self.check(weight, timeout=timeout)
        waiter = _Waiter(weight, inf if timeout is None else now + timeout)
        self._waiters[waiter] = None
        self._queued += weight
        if len(self._waiters) == 1:
            self._set_timer(now)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.granted
        except TimeoutError:
            self._take_back(waiter)
            now = self._monotonic()
            raise BudgetTimeoutError(
                f"no request weight came free within {timeout:.3g} s",
                wait=self._bucket.ready_at(self._queued + weight, now) - now,
            ) from None
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Tell the budget what the answer reported; None if the request was sent without one."""
        now = self._monotonic()
        self._bucket.settle(lease, now, report)
        if report is not None and report.status in {_TOO_MANY_REQUESTS, _BANNED}:
            _log.warning("the exchange answered %d; %s", report.status, self._bucket.outlook(now))
        if self._waiters:
            self._pump()

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        self._bucket.give_back(lease)
        if self._waiters:
            self._pump()

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        now, bucket = self._monotonic(), self._bucket
        bucket.refresh(now)
        resets_at, frozen = bucket.resets_at(now), bucket.frozen_until(now)
        banned = bucket.banned_until(now)
        return BudgetState(
            limit=bucket.limit,
            reserve=bucket.reserve,
            used_weight=bucket.used_weight,
            available=bucket.available if frozen is None and banned is None else 0,
            in_flight=bucket.unsettled,
            waiting=len(self._waiters),
            resets_at=None if resets_at is None else utc(resets_at),
            frozen_until=None if frozen is None else utc(frozen),
            banned_until=None if banned is None else utc(banned),
        )

    def check(self, weight: int, *, timeout: float | None = None) -> None:
        """Raise what a caller who would have to wait for `weight` can know at once.

        Raises:
            IPBannedError: the IP is banned.
            BudgetTimeoutError: the wait would surely outlast `timeout` seconds, or for ever.
        """
        now = self._monotonic()
        banned = self._bucket.banned_until(now)
        if banned is not None:
            raise ban_error(banned)
        if weight > self._bucket.capacity:
            raise BudgetTimeoutError(
                f"a request of weight {weight} never fits into a budget of "
                f"{self._bucket.capacity} per window (limit minus reserve)",
                wait=inf,
            )
        ready_at = self._bucket.ready_at(self._queued + weight, now)
        if timeout is not None and ready_at > now + timeout:
            raise _hopeless(ready_at - now, timeout)

    def _take_back(self, waiter: _Waiter) -> None:
        """Forget a waiter that gave up; return what it was granted in the same moment."""
        granted = waiter.granted
        if waiter in self._waiters:
            self._remove(waiter)
            self._pump()
        elif not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def _remove(self, waiter: _Waiter) -> None:
        del self._waiters[waiter]
        self._queued -= waiter.weight

    def _pump(self) -> None:
        """Serve the waiters in order as far as the bucket goes, then set the timer for the rest."""
        now, bucket, waiters = self._monotonic(), self._bucket, self._waiters
        banned = bucket.banned_until(now)
        while waiters:
            waiter = next(iter(waiters))
            if not waiter.granted.done():  # else it was cancelled and is about to take itself back
                if banned is not None:
                    waiter.granted.set_exception(ban_error(banned))
                else:
                    lease = bucket.take(waiter.weight, now)
                    if lease is None:
                        self._fail_hopeless(now)
                        if next(iter(waiters), None) is waiter:
                            break
                        continue  # it was hopeless; the next may be lighter
                    waiter.granted.set_result(lease)
            self._remove(waiter)
        self._set_timer(now)

    def _fail_hopeless(self, now: float) -> None:
        """Fail the waiters that cannot be served before their deadlines, if that has worsened."""
        ready_at = self._bucket.ready_at(next(iter(self._waiters)).weight, now)
        if ready_at <= max(now, self._outlook):
            return
        self._outlook = ready_at
        queued = 0
        for waiter in list(self._waiters):
            ready_at = self._bucket.ready_at(queued + waiter.weight, now)
            if ready_at <= waiter.deadline:
                queued += waiter.weight
                continue
            self._remove(waiter)
            if not waiter.granted.done():
                waiter.granted.set_exception(_hopeless(ready_at - now, waiter.deadline - now))

    def _set_timer(self, now: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if self._waiters:
            wake_at = self._bucket.wake_at(next(iter(self._waiters)).weight, now)
            if wake_at < inf:
                loop = asyncio.get_running_loop()
                self._timer = loop.call_later(max(0.0, wake_at - now), self._pump)


def ban_error(end: float) -> IPBannedError:
    """Build the error for a call that is refused here, while the exchange bans this IP."""
    banned_until = utc(end)
    return IPBannedError(
        f"the exchange bans this IP until {banned_until:%Y-%m-%d %H:%M:%S} UTC; "
        "nothing is sent until then",
        message="not sent: the IP is banned",
        banned_until=banned_until,
    )


def _hopeless(wait: float, timeout: float) -> BudgetTimeoutError:
    return BudgetTimeoutError(
        f"the request weight would be there in {wait:.1f} s at the earliest, "
        f"but the call may take {timeout:.1f} s more",
        wait=wait,
    )
