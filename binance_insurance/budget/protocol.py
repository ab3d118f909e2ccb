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

    A client calls `acquire` before each attempt, `confirm` right before it is sent, and then, once,
    `settle` or `release`. What the answers report is all that a budget learns of the exchange and
    of the other clients on the IP. A client does without `confirm` and `serve` where a budget that
    was written for 0.1.0 has none.
    """

    @property
    def interval(self) -> int:
        """Seconds of a window; decides which used-weight header is read for `Report`."""
        ...

    @property
    def capacity(self) -> int:
        """The most weight that it can grant in one window now."""
        ...

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a client; the first client decides which.

        Raises:
            ValueError: it serves another exchange.
        """
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

    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now, and count it as sent from now on.

        False after a ban, a freeze, a long pause, or where others have spent the weight meanwhile.
        The caller then releases the lease and acquires again.
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
