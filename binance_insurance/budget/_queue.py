"""Callers that wait for weight, first come, first served: what all budgets have in common."""

from __future__ import annotations

import asyncio
import logging
from abc import ABC, abstractmethod
from collections import OrderedDict
from math import inf
from typing import TYPE_CHECKING, Self

from .._headers import utc
from ..errors import BudgetTimeoutError, IPBannedError
from .bucket import TokenBucket
from .state import BudgetState

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from .._headers import Report
    from .._runtime import Runtime
    from .bucket import Lease

_log = logging.getLogger("binance_insurance.budget")
_TOO_MANY_REQUESTS, _BANNED = 429, 418


class Waiter:
    """One caller that waits for weight, until a local monotonic time."""

    __slots__ = ("deadline", "granted", "weight")

    def __init__(self, weight: int, deadline: float) -> None:
        self.weight = weight
        self.deadline = deadline
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class QueueingBudget(ABC):
    """A queue in front of a token bucket. Who inherits from it serves the queue."""

    def __init__(self, limit: int, *, interval: float, reserve: int, runtime: Runtime) -> None:
        self._bucket: TokenBucket = TokenBucket(limit, interval=interval, reserve=reserve)
        self._runtime = runtime
        self._monotonic = runtime.monotonic
        self._waiters: OrderedDict[Waiter, None] = OrderedDict()
        self._queued = 0  # weight of all waiters
        self._outlook = -inf  # when the first waiter could be served, as last checked
        self._timer: asyncio.TimerHandle | None = None

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return self._bucket.interval

    @property
    def capacity(self) -> int:
        """Weight that it grants in one window at the most: limit - reserve."""
        return self._bucket.capacity

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        now, bucket = self._now(), self._bucket
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
        now = self._now()
        banned = self._bucket.banned_until(now)
        if banned is not None:
            raise ban_error(banned)
        if weight > self._bucket.capacity:
            raise BudgetTimeoutError(
                f"a request of weight {weight} never fits into a budget of "
                f"{self._bucket.capacity} per window (limit minus reserve)",
                wait=inf,
            )
        wait = self._bucket.ready_at(self._queued + weight, now) - now
        if timeout is not None and wait > timeout:
            raise _hopeless(wait, timeout)

    @abstractmethod
    async def aclose(self) -> None:
        """Let go of what it holds."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    def _now(self) -> float:
        """Return the time by the bucket's clock."""
        return self._monotonic()

    @abstractmethod
    def _serve(self) -> None:
        """Grant what can be granted, or see to it that it will be."""

    def _joined(self) -> None:
        """Take note that somebody has joined the queue."""
        if len(self._waiters) == 1:
            self._serve()

    @abstractmethod
    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""

    async def _wait(self, weight: int, timeout: float | None) -> Lease:
        """Wait in line for weight."""
        deadline = inf if timeout is None else self._monotonic() + timeout
        waiter = Waiter(weight, deadline)
        self._waiters[waiter] = None
        self._queued += weight
        self._joined()
        try:
            async with asyncio.timeout(timeout):
                return await waiter.granted
        except TimeoutError:
            self._take_back(waiter)
            now = self._now()
            raise BudgetTimeoutError(
                f"no request weight came free within {timeout:.3g} s",
                wait=self._bucket.ready_at(self._queued + weight, now) - now,
            ) from None
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise

    def _take_back(self, waiter: Waiter) -> None:
        """Forget a waiter that gave up; return what it was granted in the same moment."""
        granted = waiter.granted
        if waiter in self._waiters:
            self._remove(waiter)
            self._serve()
        elif not granted.cancelled() and granted.exception() is None:
            self.release(granted.result())

    def _remove(self, waiter: Waiter) -> None:
        del self._waiters[waiter]
        self._queued -= waiter.weight

    def _fail_all(self, error: Callable[[], Exception]) -> None:
        """Fail every waiter."""
        for waiter in list(self._waiters):
            self._remove(waiter)
            if not waiter.granted.done():
                waiter.granted.set_exception(error())

    def _fail_hopeless(self) -> None:
        """Fail the waiters that cannot be served before their deadlines, if that has worsened."""
        now, local = self._now(), self._monotonic()
        ready_at = self._bucket.ready_at(next(iter(self._waiters)).weight, now)
        if ready_at <= max(now, self._outlook):
            return
        self._outlook = ready_at
        queued = 0
        for waiter in list(self._waiters):
            wait = self._bucket.ready_at(queued + waiter.weight, now) - now
            if local + wait <= waiter.deadline:
                queued += waiter.weight
                continue
            self._remove(waiter)
            if not waiter.granted.done():
                waiter.granted.set_exception(_hopeless(wait, waiter.deadline - local))

    def _set_timer(self, seconds: float) -> None:
        """Serve again after so many seconds; never if that is infinite."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if seconds < inf:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, seconds), self._serve)

    def _warn(self, report: Report | None) -> None:
        """Log a refusal."""
        if report is not None and report.status in {_TOO_MANY_REQUESTS, _BANNED}:
            outlook = self._bucket.outlook(self._now())
            _log.warning("the exchange answered %d; %s", report.status, outlook)


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
