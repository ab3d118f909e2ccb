"""Requests that several callers share: each is a task of its own, and ends with its last caller.

A flight belongs to nobody. Callers board and leave it; when one is cancelled or runs out of time,
the others do not notice. When all have left, the request is cancelled.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from .errors import BudgetTimeoutError, InsuranceError, RequestTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

T = TypeVar("T")


class Flight(Generic[T]):
    """One request, its retries included.

    Attributes:
        symbol: what it asks for; None for everything.
        ended: called once or more when nobody may board any more.
        deadline: the latest deadline of those who boarded, in local monotonic time.
        alone: whether no other request's answer will do.
        waiting: whether it waits for request weight.
        sent: whether any attempt of it was sent.
    """

    __slots__ = (
        "_ended",
        "_seats",
        "_task",
        "alone",
        "deadline",
        "diverted",
        "sent",
        "symbol",
        "waiting",
    )

    def __init__(
        self, symbol: str | None, ended: Callable[[Flight[T]], None], *, alone: bool = False
    ) -> None:
        self.symbol = symbol
        self.deadline = -inf
        self.alone = alone
        self.waiting = False
        self.sent = False
        self.diverted = False
        self._ended = ended
        self._seats: set[asyncio.Future[T]] = set()
        self._task: asyncio.Task[None] | None = None

    def take_off(self, work: Callable[[Flight[T]], Awaitable[T]]) -> asyncio.Task[None]:
        """Start the work that ends with this flight's answer."""
        self._task = asyncio.create_task(self._fly(work))
        self._task.add_done_callback(self._ground)
        return self._task

    async def board(self, deadline: float, timeout: float | None) -> T:
        """Wait for the answer, `timeout` seconds at the most.

        Raises:
            InsuranceError: that of the request.
            BudgetTimeoutError: the time passed while it waited for weight.
            RequestTimeoutError: the time passed while it was under way.
        """
        seat: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._seats.add(seat)
        self.deadline = max(self.deadline, deadline)
        try:
            if timeout is None:
                return await seat
            try:
                async with asyncio.timeout(timeout):
                    return await seat
            except TimeoutError:
                late = BudgetTimeoutError if self.waiting else RequestTimeoutError
                what = "request weight came free" if self.waiting else "complete answer"
                raise late(f"no {what} within {timeout:.3g} s") from None
        finally:
            self._leave(seat)

    @property
    def deserted(self) -> bool:
        """Whether nobody is aboard any more."""
        return not self._seats

    def land(self, answer: T) -> None:
        """Give all aboard an answer; the work ends when they have left."""
        self._ended(self)
        for seat in self._seats:
            if not seat.done():
                seat.set_result(answer)

    def divert(self) -> None:
        """Make the work stop waiting for weight, since another request will answer it."""
        if not self.diverted and self._task is not None:
            self.diverted = True
            self._task.cancel()

    def resume(self) -> None:
        """Let the work go on after it was diverted."""
        self.diverted = False
        if self._task is not None:
            self._task.uncancel()

    async def _fly(self, work: Callable[[Flight[T]], Awaitable[T]]) -> None:
        try:
            self.land(await work(self))
        except InsuranceError as error:
            # Of one exception, each of many tasks would lengthen the traceback.
            self._fail(error, error.copy)
        except Exception as error:
            defect = error  # of ours, shown as it is
            self._fail(error, lambda: defect)

    def _fail(self, error: Exception, copy: Callable[[], Exception]) -> None:
        self._ended(self)
        for number, seat in enumerate(self._seats):
            if not seat.done():
                seat.set_exception(copy() if number else error)

    def _ground(self, task: asyncio.Task[None]) -> None:
        """Let go of those aboard a cancelled flight, even of one that never began."""
        if task.cancelled():
            self._ended(self)
            for seat in self._seats:
                seat.cancel()

    def _leave(self, seat: asyncio.Future[T]) -> None:
        self._seats.discard(seat)
        if seat.done() and not seat.cancelled():
            seat.exception()  # it was seen, even if its owner is cancelled in this moment
        if not self._seats and self._task is not None:
            self._ended(self)
            self._task.cancel()
