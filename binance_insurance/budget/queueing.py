"""What a budget of one process and one of many have in common: callers, state, loop and errors."""

from __future__ import annotations

import asyncio
import logging
from abc import abstractmethod
from math import inf
from typing import TYPE_CHECKING

from ..errors import BudgetTimeoutError
from .calling import leave_loop
from .exchange import DEFAULT_EXCHANGE, agreed_exchange
from .failures import ban_error, closed_error, late
from .queue import FIRST, Queue, Waiter
from .refusals import BANNED
from .report import utc
from .settings import Settings
from .spending import Budget
from .state import BudgetState
from .view import View

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..errors import StoreError
    from .ledger import Lease
    from .report import Report
    from .window import TokenBucket

_log = logging.getLogger("binance_insurance.budget")


class QueueingBudget(Budget):
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
        return self.capacity_within(self._settings.reserve)

    @property
    def _place(self) -> str:
        """Where its ledger is, as an argument."""
        return ""

    @property
    def whole(self) -> Budget:
        """Itself."""
        return self

    @property
    def loop(self) -> asyncio.AbstractEventLoop | None:
        """The event loop in which it was used last; None before that, and once it is closed."""
        return self._loop

    def view(self, *, reserve: int) -> Budget:
        """Return the same budget for callers that leave another part of the limit to others.

        Raises:
            ValueError: unless 0 <= reserve < limit.
        """
        if type(reserve) is not int:
            raise ValueError(f"reserve must be an int, not {reserve!r}")
        return View(self, Settings(self._settings.limit, self._settings.interval, reserve).reserve)

    @property
    def _least_reserve(self) -> int:
        """What each grant must leave now, whatever its caller's reserve."""
        return 0

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a client; the first client decides which.

        Raises:
            ValueError: it serves another exchange, or base_url is no URL.
        """
        self._exchange = self.check_exchange(base_url)

    def check_exchange(self, base_url: str) -> str:
        """Return the exchange of a base URL, unless `serve` would refuse it."""
        return agreed_exchange(self._exchange, base_url)

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent by this process, and take it.

        First come, first served in this process among those with the same reserve. Each lease must
        come back once: to `settle` when its request was sent, to `release` when it certainly was
        not. A cancelled call leaves no trace.

        Raises:
            IPBannedError: at once, while the IP is banned, whichever process met the ban.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
            StoreError: its store is out of reach and it has no share for that case; or it is
                closed, or was in use before this process was forked.
            RuntimeError: another event loop that is running uses it.
        """
        return await self.acquire_within(self._settings.reserve, weight, timeout)

    def check(self, weight: int, *, timeout: float | None = None) -> None:
        """Raise what a caller that would wait can know at once; see `WeightBudget.check`."""
        self.check_within(self._settings.reserve, weight, timeout)

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        return self.state_within(self._settings.reserve)

    @abstractmethod
    async def acquire_within(self, reserve: int, weight: int, timeout: float | None) -> Lease:
        """Acquire for a caller that leaves `reserve` of the limit to others."""

    def capacity_within(self, reserve: int) -> int:
        """Return the weight that one window has for callers with this reserve."""
        return self._settings.limit - max(reserve, self._least_reserve)

    def check_within(self, reserve: int, weight: int, timeout: float | None) -> None:
        """Check for a caller that leaves `reserve` of the limit to others."""
        now = self._now()
        banned = ban_error(self._bucket.ledger.refusals, now)
        if banned is not None:
            raise banned
        capacity = self.capacity_within(reserve)
        if weight > capacity:
            raise BudgetTimeoutError(
                f"a request of weight {weight} never fits into a budget of "
                f"{capacity} per window (limit minus reserve)",
                wait=inf,
            )
        if timeout is not None:
            wait = self._wait_for(weight, now, reserve)
            if wait > timeout:
                raise late(wait, timeout)

    def state_within(self, reserve: int) -> BudgetState:
        """Return what the budget knows now, for callers that leave `reserve` to others."""
        now, bucket, reserve = self._now(), self._bucket, max(reserve, self._least_reserve)
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

    @abstractmethod
    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now."""

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
        leave_loop(self._loop)
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

    async def _wait(self, weight: int, timeout: float | None, reserve: int) -> Lease:
        """Wait in the queue for weight."""
        deadline = inf if timeout is None else self._monotonic() + timeout
        waiter = Waiter(weight, reserve if weight else FIRST, deadline)
        self._queue.add(waiter)
        self._joined(waiter)
        try:
            async with asyncio.timeout(timeout):
                return await waiter.granted
        except TimeoutError:
            self._take_back(waiter)
            raise BudgetTimeoutError(
                f"no request weight came free within {timeout:.3g} s",
                wait=self._wait_for(weight, self._now(), reserve),
            ) from None
        except asyncio.CancelledError:
            self._take_back(waiter)
            raise
        except GeneratorExit:
            self._forget(waiter)
            raise

    def _wait_for(self, weight: int, now: float, reserve: int) -> float:
        """Return the lower bound of a new caller's wait, in seconds."""
        weight += self._queue.weight_before(reserve if weight else FIRST)
        reserve = max(reserve, self._least_reserve)
        return self._bucket.ready_at(weight, now, reserve) - now

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
                self._queue.fail(waiter, late(wait, waiter.deadline - local))

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
        if report is not None and (report.freezes or report.status == BANNED):
            ledger = self._bucket.ledger
            outlook = ledger.refusals.outlook(self._now(), ledger.clock)
            _log.warning("the exchange answered %d; %s", report.status, outlook)
