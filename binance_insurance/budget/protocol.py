"""What a client needs of a weight budget. A backend of your own keeps this, and no more."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol, Self

if TYPE_CHECKING:
    from types import TracebackType

    from .ledger import Lease
    from .report import Report
    from .state import BudgetState


class WeightBudget(Protocol):
    """Weight that callers share. Its methods are called in one event loop.

    A client calls `acquire` before each attempt, and then, once, `settle` or `release`. What the
    answers report is all that a budget learns of the exchange and of the other clients on the IP.
    """

    @property
    def interval(self) -> int:
        """Seconds of a window; decides which used-weight header is read for `Report`."""
        ...

    @property
    def capacity(self) -> int:
        """The most weight that it can grant in one window now."""
        ...

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent, and take it.

        Raises:
            IPBannedError: at once, while the IP is banned.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
            StoreError: a shared budget cannot be reached.

        A cancelled call must leave no trace.
        """
        ...

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Record the answer to a request that was sent; None if it was lost.

        It does not wait, since callers get their answers after it. A second call for a lease does
        nothing.
        """
        ...

    def release(self, lease: Lease) -> None:
        """Take back the weight of a request that was certainly never sent."""
        ...

    def check(self, weight: int, *, timeout: float | None = None) -> None:
        """Raise what a caller that would have to wait for `weight` can know without waiting.

        Raises:
            IPBannedError: the IP is banned.
            BudgetTimeoutError: the wait would surely outlast `timeout` seconds, or never end.
        """
        ...

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and files. A client does not close the budget that it was given."""
        ...

    async def __aenter__(self) -> Self:
        """Return itself, to be closed at the end of `async with`."""
        ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Close it."""
        ...
