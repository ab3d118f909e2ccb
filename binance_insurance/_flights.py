"""Requests that several callers share: each is a task of its own, and ends with its last caller.

A flight belongs to nobody. Callers board and leave it; when one is cancelled or runs out of time,
the others do not notice. When all have left, the request is cancelled.
"""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

from .errors import InsuranceError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from ._knowledge import Group
    from ._retry import Retrier

T = TypeVar("T")


class Flight(Struct, Generic[T], eq=False):
    """One request, its retries included.

    Attributes:
        symbol: what it asks for; None for everything.
        on_closed: called when nobody may board any more, perhaps more than once.
        on_ended: called when the work is over, perhaps more than once.
        group: the known group that its answer should describe, or None.
        alone: whether no other request's answer will do.
        deadline: the latest deadline of those who boarded, in local monotonic time.
        waiting: whether it waits for request weight.
        sent: whether any attempt of it was sent.
        diverted: whether another request is to answer it, retries and all.
    """

    symbol: str | None
    on_closed: Callable[[Flight[T]], None]
    on_ended: Callable[[Flight[T]], None]
    group: Group | None = None
    alone: bool = False
    deadline: float = -inf
    waiting: bool = False
    sent: bool = False
    diverted: bool = False
    _began: bool = False
    _seats: set[asyncio.Future[T]] = set()  # msgspec makes a new one for each
    _task: asyncio.Task[None] | None = None

    def take_off(self, retrier: Retrier, attempt: Callable[[Flight[T]], Awaitable[T]]) -> None:
        """Start the attempts, the last of which ends with this flight's answer."""
        self._task = asyncio.create_task(self._fly(retrier, attempt))

    def board(self, deadline: float) -> asyncio.Future[T]:
        """Return a seat: a future of the answer, to be awaited and then left."""
        seat: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self._seats.add(seat)
        if deadline > self.deadline:
            self.deadline = deadline
        return seat

    def leave(self, seat: asyncio.Future[T]) -> None:
        """Give up a seat; without any, the work is cancelled."""
        self._seats.discard(seat)
        if seat.done() and not seat.cancelled():
            seat.exception()  # it was seen, even if its owner is cancelled in this moment
        if not self._seats and self._task is not None and not self._task.done():
            self.abort()

    def land(self, answer: T) -> None:
        """Give all aboard an answer; the work ends when they have left."""
        self.on_closed(self)
        for seat in self._seats:
            if not seat.done():
                seat.set_result(answer)

    def fail(self, error: InsuranceError) -> None:
        """Give all aboard an error; the work ends when they have left."""
        # Of one exception, each of many tasks would lengthen the traceback.
        self._give(lambda number: error.copy() if number else error)

    def divert(self) -> None:
        """Make it stop waiting for weight, since another request will answer it."""
        if not self.diverted:
            self.diverted = True
            if self._task is not None and self._task is not asyncio.current_task():
                self._task.cancel()

    def heed(self) -> bool:
        """After a cancellation: tell whether it only meant that it was diverted, and go on."""
        if not self.diverted or not self._seats or self._task is None:
            return False
        self._task.uncancel()
        return True

    def abort(self) -> list[asyncio.Task[None]]:
        """Cancel the work, and all who wait for it; return its task, which may have to clean up."""
        self._dismiss()
        if self._task is None:
            return []
        self._task.cancel()
        if not self._began:  # a task that is cancelled before its first step never runs
            self.on_ended(self)
        return [self._task]

    async def _fly(self, retrier: Retrier, attempt: Callable[[Flight[T]], Awaitable[T]]) -> None:
        self._began = True
        try:
            self.land(await retrier.run(attempt, self))
        except InsuranceError as error:
            self.fail(error)
        except asyncio.CancelledError:
            self._dismiss()
            raise
        except Exception as error:
            defect = error  # of ours, shown as it is
            self._give(lambda _: defect)
        finally:
            self.on_ended(self)

    def _give(self, error_of: Callable[[int], Exception]) -> None:
        self.on_closed(self)
        for number, seat in enumerate(self._seats):
            if not seat.done():
                seat.set_exception(error_of(number))

    def _dismiss(self) -> None:
        self.on_closed(self)
        for seat in self._seats:
            seat.cancel()
