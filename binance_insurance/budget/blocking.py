"""The same budget for threads: a caller blocks while the event loop waits for its weight."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from .calling import Caller, Looped
from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping
    from types import TracebackType

T = TypeVar("T")


class _Spending(Protocol):
    weight: int

    @property
    def lease(self) -> object: ...
    def confirm(self) -> bool: ...
    def settle(self, report: Report | None) -> None: ...
    def unsent(self) -> None: ...
    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class _Spends(Looped, Protocol):
    @property
    def interval(self) -> int: ...
    def serve(self, base_url: str) -> None: ...
    def spend(self, weight: int = 1, *, timeout: float | None = None) -> _Spending: ...


class BlockingBudget:
    """A budget whose calls block, from any thread but the event loop's own.

    `with budget.blocking() as sync, sync.spend(5) as spending: …` with the methods of `spend`.
    """

    def __init__(self, budget: _Spends) -> None:
        self._budget = budget
        self._caller = Caller(budget)

    @property
    def budget(self) -> _Spends:
        """The budget that it is for threads."""
        return self._budget

    @property
    def caller(self) -> Caller:
        """What calls into the event loop of the budget."""
        return self._caller

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return self._budget.interval

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a program; see `WeightBudget.serve`."""
        self._budget.serve(base_url)

    def spend(self, weight: int = 1, *, timeout: float | None = None) -> BlockingSpending:
        """Take weight for one request: `with sync.spend(5) as spending: …`; see `Budget.spend`.

        Raises:
            RuntimeError: it is entered, or left, in the thread of the event loop, which would stand
                still.
            StoreError: the event loop has ended during the wait, or its store has failed.
        """
        spending = self._budget.spend(weight, timeout=timeout)
        return BlockingSpending(spending, self._caller, self.interval)

    def close(self) -> None:
        """End the thread, if this was the last that used one.

        What a thread still holds can be reported; who still waits gets a `StoreError`.
        """
        self._caller.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()


class BlockingSpending:
    """The weight of one request, for a thread.

    What became of the request counts too where the event loop has ended meanwhile.
    """

    def __init__(self, spending: _Spending, caller: Caller, interval: int) -> None:
        self.weight: int = spending.weight
        self._spending = spending
        self._caller = caller
        self._interval = interval

    def confirm(self) -> bool:
        """Return whether the request may still be sent; see `Spending.confirm`."""
        return self._held_call(self._spending.confirm)

    def report(
        self, status: int, headers: Mapping[str, str], body: bytes | str | None = b""
    ) -> None:
        """Record an answer; see `Report.from_response`."""
        self.settle(Report.from_response(status, headers, body, interval=self._interval))

    def settle(self, report: Report | None) -> None:
        """Record what an answer reported; None if it was lost."""
        self._held_call(lambda: self._spending.settle(report))

    def unsent(self) -> None:
        """Give the weight back: the request was certainly never sent."""
        self._held_call(self._spending.unsent)

    def __enter__(self) -> Self:
        self._caller.run(self._enter, self._give_up)
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.settle(None)  # does nothing if it has come back
        if exc_type is None or issubclass(exc_type, Exception):  # else the next change writes it
            self._caller.finish(lambda: self._spending.__aexit__(None, None, None))

    async def _enter(self) -> None:
        await self._spending.__aenter__()

    def _give_up(self) -> None:
        if self._spending.lease is not None:  # it was granted in the same moment
            self._spending.unsent()

    def _held_call(self, function: Callable[[], T]) -> T:
        if self._spending.lease is None:
            raise RuntimeError("use it as `with sync.spend(…) as spending`")
        return self._caller.call(function)
