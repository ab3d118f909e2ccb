"""One request and the callers that share it: a value, without clock, network or callbacks."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from msgspec import Struct

from .errors import InsuranceError

if TYPE_CHECKING:
    from ._knowledge import Group

T = TypeVar("T")

POOLS, INFO, PING = "insuranceBalance", "exchangeInfo", "ping"
LIGHT = 1  # the weight of every request but the snapshot request


class SharedRequest(Struct, Generic[T], eq=False):
    """One request, its retries included, and the callers that await its answer.

    Attributes:
        symbol: what it asks for; None for everything.
        endpoint: the last part of the path.
        group: the known group that its answer should describe, or None.
        exclusive: whether no other request's answer will do.
        deadline: the latest deadline of its callers, in local monotonic time.
        waiting: whether it waits for request weight.
        in_flight: whether an attempt of it was sent and is not answered yet.
        sent: whether any attempt of it was sent.
        replaced_by: the snapshot request that is to answer it, or None. No task works for a
            request that was replaced.
        callers: the future of each caller, in the order in which they joined.
        task: the task that works for it.
    """

    symbol: str | None
    endpoint: str = POOLS
    group: Group | None = None
    exclusive: bool = False
    deadline: float = -inf
    waiting: bool = False
    in_flight: bool = False
    sent: bool = False
    replaced_by: SharedRequest[Any] | None = None
    callers: dict[asyncio.Future[T], None] = {}  # msgspec makes a new one for each
    task: asyncio.Task[None] | None = None

    def join(self, deadline: float) -> asyncio.Future[T]:
        """Add a caller; return its future."""
        caller: asyncio.Future[T] = asyncio.get_running_loop().create_future()
        self.callers[caller] = None
        if deadline > self.deadline:
            self.deadline = deadline
            if self.replaced_by is not None and deadline > self.replaced_by.deadline:
                self.replaced_by.deadline = deadline
        return caller

    def replace(self, snapshot_request: SharedRequest[Any]) -> None:
        """Let the snapshot request answer it, in time for its callers."""
        self.task = None
        self.replaced_by = snapshot_request
        snapshot_request.deadline = max(snapshot_request.deadline, self.deadline)

    def answer(self, answer: T) -> None:
        """Complete the calls of all callers."""
        for caller in self.callers:
            if not caller.done():
                caller.set_result(answer)
        self.callers.clear()

    def fail(self, error: Exception) -> None:
        """Fail the calls of all callers, each with an error of its own."""
        if self.symbol is not None and isinstance(error, InsuranceError):
            error = error.about(self.symbol)
        for number, caller in enumerate(self.callers):
            if not caller.done():
                # Of one exception, each of many tasks would lengthen the traceback.
                if number and isinstance(error, InsuranceError):
                    error = error.copy()
                caller.set_exception(error)
        self.callers.clear()

    def cancel(self) -> None:
        """Cancel the calls of all callers."""
        for caller in self.callers:
            caller.cancel()
        self.callers.clear()
