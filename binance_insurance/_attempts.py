"""One attempt from end to end: weight, a slot, the request, and what its answer reports."""

from __future__ import annotations

import asyncio
from collections import deque
from math import inf
from typing import TYPE_CHECKING, Protocol

from msgspec import Struct

from ._decoding import status_error
from .budget.report import Report, read_report, used_weight_header
from .errors import BudgetTimeoutError, ConnectError, InsuranceError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Callable

    from ._runtime import Runtime
    from ._transport import Answer, Transport
    from .budget import Lease, WeightBudget

_OK = 200
_TRUST_SHARE = 12  # an answer shows what was used just before, for a twelfth of a window


class Request(Protocol):
    """What is sent."""

    waiting: bool
    """Whether it waits for request weight."""
    in_flight: bool
    """Whether an attempt of it was sent and is not answered yet."""
    sent: bool
    """Whether any attempt of it was sent."""

    @property
    def symbol(self) -> str | None:
        """The query parameter, or None."""
        ...

    @property
    def deadline(self) -> float:
        """Local monotonic time until which it may wait for weight; it may move."""
        ...


class Slots:
    """So many requests at once; first come, first served.

    A free slot is taken without a coroutine: `slots.free -= 1`.

    Attributes:
        count: how many there are.
        free: slots that nothing holds and nothing waits for.
    """

    __slots__ = ("_waiters", "count", "free")

    def __init__(self, count: int) -> None:
        self.count = self.free = count
        self._waiters: deque[asyncio.Future[None]] = deque()

    async def wait(self) -> None:
        """Wait for a slot and take it."""
        granted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(granted)
        try:
            await granted
        except asyncio.CancelledError:
            if not granted.cancelled():  # granted in the same moment
                self.give_back()
            raise

    def give_back(self) -> None:
        """Give a slot back, to the first that waits for one."""
        waiters = self._waiters
        while waiters:
            granted = waiters.popleft()
            if not granted.done():
                granted.set_result(None)
                return
        self.free += 1


class Outcome(Struct, frozen=True, gc=False):
    """A good answer.

    Attributes:
        report: what it reports of weight and time.
        body: the whole body.
        asked_at: when its request was sent, in local monotonic time.
        used_before: the used weight just before it, if it was reported in the same window and
            nothing else of ours was in flight since; else None.
    """

    report: Report
    body: bytes
    asked_at: float
    used_before: int | None


class _Reported(Struct, frozen=True, gc=False):
    """The used weight that an answer reported, its date, and when it came."""

    used_weight: int
    date: float | None
    at: float


class Attempts:
    """Makes the attempts of one client, no more than so many at once.

    Attributes:
        sent: requests that left.
        weight: request weight that was charged for them.
    """

    def __init__(
        self, transport: Transport, budget: WeightBudget, runtime: Runtime, *, max_concurrency: int
    ) -> None:
        self.sent = 0
        self.weight = 0
        self._transport = transport
        self._budget = budget
        self._confirm: Callable[[Lease], bool] = getattr(budget, "confirm", self._hold)
        self._weight_header = used_weight_header(budget.interval)
        self._monotonic = runtime.monotonic
        self._wall = runtime.wall
        self._slots = Slots(max_concurrency)
        self._started = 0
        self._last: _Reported | None = None

    @property
    def used_weight(self) -> int | None:
        """Used weight of the whole IP as last reported, or None."""
        return None if self._last is None else self._last.used_weight

    def restart(self, *, forked: bool) -> None:
        """Leave what belonged to a loop that has ended, or to the parent of a forked process."""
        self._slots = Slots(self._slots.count)
        self._transport.restart(forked=forked)

    def left(self, deadline: float) -> float | None:
        """Return the seconds until a deadline, None if it is never.

        Raises:
            RequestTimeoutError: none are left.
        """
        if deadline == inf:
            return None
        left = deadline - self._monotonic()
        if left <= 0:
            raise RequestTimeoutError("the call's time was up before the request could be sent")
        return left

    async def acquire(self, weight: int, request: Request) -> Lease:
        """Wait for request weight, until the deadline of the request.

        Raises:
            BudgetTimeoutError, IPBannedError: as the budget says.
        """
        request.waiting = True
        try:
            while True:
                deadline = request.deadline
                try:
                    left = None if deadline == inf else self.left(deadline)
                    return await self._budget.acquire(weight, timeout=left)
                except BudgetTimeoutError:
                    if request.deadline <= deadline:
                        raise  # else a caller joined meanwhile that can wait longer
        except InsuranceError as error:
            error.symbol = request.symbol  # the budget does not know what its weight is for
            raise
        finally:
            request.waiting = False

    async def send(self, endpoint: str, lease: Lease, request: Request) -> Outcome | None:
        """Take a slot, send, report to the budget, and return a good answer.

        None if the budget does not stand by its grant any more: a ban, a freeze or a long pause
        came in between. Then nothing was sent and the weight is back, to be acquired again.
        However it ends, the lease is settled or given back.

        Raises:
            InsuranceError: there was no good answer; each failure of its own kind.
        """
        slots, symbol = self._slots, request.symbol
        try:
            if slots.free:
                slots.free -= 1
            else:
                await slots.wait()
        except BaseException:
            self._budget.release(lease)
            raise
        alone = slots.free == slots.count - 1
        before = self._last if symbol is None and alone else None
        self._started += 1
        started = self._started
        try:
            if not self._confirm(lease):
                self._budget.release(lease)
                return None
            request.sent = request.in_flight = True
            asked_at = self._monotonic()
            answer = await self._transport.get(endpoint, symbol)
        except ConnectError:
            self._budget.release(lease)
            raise
        except BaseException:
            self.sent += 1
            self.weight += lease.weight
            self._budget.settle(lease, None)
            raise
        finally:
            request.in_flight = False
            slots.give_back()
        self.sent += 1
        self.weight += lease.weight
        report = self._receive(answer, symbol, lease)
        used_before = None
        if before is not None and started == self._started:
            used_before = self._clean_before(before, asked_at, report)
        return Outcome(report, answer.body, asked_at, used_before)

    def _hold(self, lease: Lease) -> bool:
        """Confirm every grant, for a budget that was written for 0.1.0 and cannot."""
        lease.sent_at = self._monotonic()
        return True

    def _clean_before(self, before: _Reported, asked_at: float, report: Report) -> int | None:
        """Return the used weight before a request, if its answer reports on the same window."""
        interval = self._budget.interval
        same = (
            before.date is not None
            and report.date is not None
            and before.date // interval == report.date // interval
        )
        recent = asked_at - before.at <= interval / _TRUST_SHARE
        return before.used_weight if same and recent else None

    def _receive(self, answer: Answer, symbol: str | None, lease: Lease) -> Report:
        """Give an answer's report to the budget, then raise the answer unless it is good."""
        try:
            report = read_report(
                answer.status,
                answer.headers,
                answer.body,
                weight_header=self._weight_header,
                wall=self._wall(),
            )
        except BaseException:
            self._budget.settle(lease, None)
            raise
        self._budget.settle(lease, report)
        if report.used_weight is not None:
            self._last = _Reported(report.used_weight, report.date, self._monotonic())
        if answer.status != _OK:
            raise status_error(report, answer.body, symbol, self._budget.state())
        if answer.failure is not None:
            raise answer.failure
        return report
