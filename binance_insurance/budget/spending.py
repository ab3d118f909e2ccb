"""Weight for any request on the IP, whichever program sends it."""

from __future__ import annotations

from abc import abstractmethod
from time import time
from typing import TYPE_CHECKING, Self

from msgspec.structs import replace

from .blocking import BlockingBudget
from .protocol import WeightBudget
from .report import Report

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop
    from collections.abc import Mapping
    from types import TracebackType

    from .ledger import Lease


class Budget(WeightBudget):
    """A weight budget that any program on the IP can spend from.

    `LocalBudget`, `SqliteBudget`, `RedisBudget`, and what `view` returns.
    """

    def spend(self, weight: int = 1, *, timeout: float | None = None) -> Spending:
        """Take weight for one request: `async with budget.spend(5) as spending: …`.

        Args:
            weight: the request weight; 0 (placing an order) waits for no weight, but for the end of
                a freeze.
            timeout: seconds to wait for it; None waits as long as it takes.

        Entering raises what `acquire` raises; ValueError unless weight is an int >= 0. The first
        call of the block to `report`, `settle` or `unsent` counts. Without any, the request counts
        as sent and its answer as lost.
        """
        return Spending(self, weight, timeout)

    @abstractmethod
    def view(self, *, reserve: int) -> Budget:
        """Return the same budget for callers that leave another part of the limit to others.

        Among those that wait in a process, the smallest reserve goes first. Closing it closes
        nothing.

        Raises:
            ValueError: unless 0 <= reserve < limit.
        """

    def blocking(self) -> BlockingBudget:
        """Return the same budget for threads: `with budget.blocking() as sync: …`.

        It runs in the event loop in which the budget is in use, else in the running one, else in
        one of its own, in a daemon thread. Then asyncio code can use the budget once each
        `blocking()` is closed.
        """
        return BlockingBudget(self)

    @abstractmethod
    def check_exchange(self, base_url: str) -> str:
        """Return the exchange of a base URL; ValueError if `serve` would refuse it."""

    @abstractmethod
    async def recorded(self, lease: Lease) -> None:
        """Wait until other processes can know what became of a lease, or the store fails."""

    @property
    @abstractmethod
    def whole(self) -> Budget:
        """The budget that this is a view of, or itself."""

    @property
    @abstractmethod
    def loop(self) -> AbstractEventLoop | None:
        """The event loop in which it was used last."""

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()


class Spending:
    """The weight of one request, from the grant until what the answer reported is recorded."""

    def __init__(self, budget: Budget, weight: int, timeout: float | None) -> None:
        if type(weight) is not int or weight < 0:
            raise ValueError(f"weight must be an int of 0 or more, not {weight!r}")
        if timeout is not None and not timeout > 0:
            raise ValueError(f"timeout must be positive, or None for no bound, not {timeout}")
        self.weight = weight
        self._budget = budget
        self._timeout = timeout
        self._lease: Lease | None = None

    @property
    def lease(self) -> Lease | None:
        """What was granted; None before that."""
        return self._lease

    def confirm(self) -> bool:
        """Return whether the request may still be sent, and count it as sent from now on.

        For code that holds it back after the grant. If not, call `unsent`.
        """
        return self._budget.confirm(self._held())

    def report(
        self, status: int, headers: Mapping[str, str], body: bytes | str | None = b""
    ) -> None:
        """Record an answer; see `Report.from_response`."""
        interval = self._budget.interval
        self.settle(Report.from_response(status, headers, body, interval=interval))

    def settle(self, report: Report | None) -> None:
        """Record what an answer reported; None if it was lost."""
        lease = self._held()
        if not isinstance(report, (Report, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"report must be a Report or None, not {type(report).__name__}")
        if report is not None and not report.wall:
            report = replace(report, wall=time())
        self._budget.settle(lease, report)

    def unsent(self) -> None:
        """Give the weight back: the request was certainly never sent."""
        self._budget.release(self._held())

    async def __aenter__(self) -> Self:
        if self._lease is not None:
            raise RuntimeError("one spend is for one request; make another")
        self._lease = await self._budget.acquire(self.weight, timeout=self._timeout)
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        lease = self._held()
        self._budget.settle(lease, None)  # does nothing if it has come back
        if exc_type is None or issubclass(exc_type, Exception):  # else the next change writes it
            await self._budget.recorded(lease)

    def _held(self) -> Lease:
        if self._lease is None:
            raise RuntimeError("use it as `async with budget.spend(…) as spending`")
        return self._lease
