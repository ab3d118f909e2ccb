"""One request and the callers that share it: a value, without clock, network or callbacks."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Generic, TypeVar

from msgspec import Struct

from .errors import InsuranceError

if TYPE_CHECKING:
    from ._knowledge import Group

T = TypeVar("T")

POOLS = "insuranceBalance"


class SharedRequest(Struct, Generic[T], eq=False):
    """One request, its retries included, and the callers that await its answer.

    Attributes:
        symbol: what it asks for; None for everything.
        endpoint: the last part of the path.
        group: the known group that its answer should describe, or None.
        exclusive: whether no other request's answer will do.
        deadline: the latest deadline of its callers, in local monotonic time.
        waiting: whether it waits for request weight.
        sent: whether any attempt of it was sent.
        replaced: whether the snapshot request answers it; no task works for it meanwhile.
        callers: the future of each caller, in the order in which they joined.
        task: the task that works for it.
    """

    symbol: str | None
    endpoint: str = POOLS
    group: Group | None = None
    exclusive: bool = False
    deadline: float = -inf
    waiting: bool = False
    sent: bool = False
    replaced: bool = False
    callers: dict[asyncio.Future[T], None] = {}  # msgspec makes a new one for each
    task: asyncio.Task[None] | None = None

    def join(self, deadline: float) -> asyncio.Future[T]:
        """Add a caller; return its future."""
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.callers[caller] = None
        if deadline > self.deadline:
            self.deadline = deadline
        return caller

    def answer(self, answer: T) -> None:
        """Complete the calls of all callers."""
        callers, self.callers = self.callers, {}
        for caller in callers:
            if not caller.done():
                caller.set_result(answer)

    def fail(self, error: Exception) -> None:
        """Fail the calls of all callers, each with an error of its own."""
        callers, self.callers = self.callers, {}
        for number, caller in enumerate(callers):
            if not caller.done():
                # Of one exception, each of many tasks would lengthen the traceback.
                if number and isinstance(error, InsuranceError):
                    error = error.copy()
                caller.set_exception(error)
                caller.exception()  # not logged, should its caller be cancelled in this moment

    def cancel(self) -> None:
        """Cancel the calls of all callers."""
        callers, self.callers = self.callers, {}
        for caller in callers:
            caller.cancel()
