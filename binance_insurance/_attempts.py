"""One attempt from end to end: weight, a place, the request, and what its answer reports."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from ._decoding import status_error
from .budget.report import Report, read_report, used_weight_header
from .errors import BudgetTimeoutError, ConnectError, InsuranceError, RequestTimeoutError

if TYPE_CHECKING:
    from ._flights import Flight
    from ._runtime import Runtime
    from ._transport import Answer, Transport
    from .budget import Lease, WeightBudget

T = TypeVar("T")

_OK = 200
_JUST_BEFORE = 1.0  # seconds in which the other clients on the IP spend little


class Outcome(Struct, frozen=True, gc=False):
    """A good answer.

    Attributes:
        report: what it says about weight and time.
        body: the whole body.
        used_before: the used weight just before it, if it was told in the same window and nothing
            else of ours was under way since; else None.
    """

    report: Report
    body: bytes
    used_before: int | None


class Attempts:
    """Makes the attempts of one client, no more than so many at once.

    Attributes:
        sent: requests that left.
        weight: request weight that was charged for them.
        used_weight: used weight of the whole IP as last reported, or None.
    """

    def __init__(
        self, transport: Transport, budget: WeightBudget, runtime: Runtime, *, max_concurrency: int
    ) -> None:
        self.sent = 0
        self.weight = 0
        self.used_weight: int | None = None
        self._transport = transport
        self._budget = budget
        self._weight_header = used_weight_header(budget.interval)
        self._interval = budget.interval
        self._monotonic = runtime.monotonic
        self._wall = runtime.wall
        self._places = asyncio.Semaphore(max_concurrency)
        self._started = 0
        self._under_way = 0
        self._reported_window: float | None = None
        self._reported_at = -inf

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

    async def acquire(self, weight: int, flight: Flight[T]) -> Lease:
        """Wait for request weight, as long as anybody aboard can wait.

        Raises:
            BudgetTimeoutError, IPBannedError: as the budget says.
        """
        flight.waiting = True
        try:
            while True:
                deadline = flight.deadline
                try:
                    left = None if deadline == inf else self.left(deadline)
                    return await self._budget.acquire(weight, timeout=left)
                except BudgetTimeoutError:
                    if flight.deadline <= deadline:
                        raise  # else somebody boarded meanwhile who can wait longer
        except InsuranceError as error:
            error.symbol = flight.symbol  # the budget does not know what its weight is for
            raise
        finally:
            flight.waiting = False

    async def send(self, endpoint: str, lease: Lease, flight: Flight[T]) -> Outcome:
        """Take a place, send, report to the budget, and return a good answer.

        Raises:
            InsuranceError: there was none; each failure of its own kind.
        """
        try:
            await self._places.acquire()
        except BaseException:
            self._budget.release(lease)
            raise
        symbol = flight.symbol
        flight.sent = True
        lease.sent_at = self._monotonic()
        self._started += 1
        self._under_way += 1
        started, alone = self._started, self._under_way == 1
        just_before = lease.sent_at - self._reported_at <= _JUST_BEFORE
        used_before, window_before = self.used_weight, self._reported_window
        try:
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
            self._under_way -= 1
            self._places.release()
        self.sent += 1
        self.weight += lease.weight
        report = self._receive(answer, symbol, lease)
        alone = alone and started == self._started
        clean = alone and just_before and window_before == self._reported_window
        return Outcome(report, answer.body, used_before if clean else None)

    def _receive(self, answer: Answer, symbol: str | None, lease: Lease) -> Report:
        """Report what an answer says to the budget, then raise it unless it is good."""
        report = read_report(
            answer.status,
            answer.headers,
            answer.body,
            weight_header=self._weight_header,
            wall=self._wall(),
        )
        self._budget.settle(lease, report)
        used, date = report.used_weight, report.date
        if used is not None:
            self.used_weight = used
            self._reported_at = self._monotonic()
            self._reported_window = None if date is None else date // self._interval
        if answer.status != _OK:
            raise status_error(report, answer.body, symbol, self._budget.state().banned_until)
        if answer.failure is not None:
            raise answer.failure
        return report
