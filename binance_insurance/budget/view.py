"""A budget as callers with another reserve see it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from .spending import Budget

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop

    from .ledger import Lease
    from .report import Report
    from .state import BudgetState


class _Whole(Protocol):
    """What a view needs of the budget that it is a view of."""

    @property
    def interval(self) -> int: ...
    @property
    def whole(self) -> Budget: ...
    @property
    def loop(self) -> AbstractEventLoop | None: ...
    def serve(self, base_url: str) -> None: ...
    def check_exchange(self, base_url: str) -> str: ...
    async def acquire_within(self, reserve: int, weight: int, timeout: float | None) -> Lease: ...
    def capacity_within(self, reserve: int) -> int: ...
    def check_within(self, reserve: int, weight: int, timeout: float | None) -> None: ...
    def state_within(self, reserve: int) -> BudgetState: ...
    def confirm(self, lease: Lease) -> bool: ...
    def settle(self, lease: Lease, report: Report | None) -> None: ...
    def release(self, lease: Lease) -> None: ...
    async def recorded(self, lease: Lease) -> None: ...
    def view(self, *, reserve: int) -> Budget: ...


class View(Budget):
    """The same ledger and queue; only the reserve is its own."""

    def __init__(self, whole: _Whole, reserve: int) -> None:
        self._whole = whole
        self._reserve = reserve

    def __repr__(self) -> str:
        return f"<view of {self._whole!r}, reserve={self._reserve}>"

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return self._whole.interval

    @property
    def capacity(self) -> int:
        """Weight that one window has for its callers."""
        return self._whole.capacity_within(self._reserve)

    @property
    def whole(self) -> Budget:
        """The budget that this is a view of."""
        return self._whole.whole

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop in which the budget was used last."""
        return self._whole.loop

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a client; see `WeightBudget.serve`."""
        self._whole.serve(base_url)

    def check_exchange(self, base_url: str) -> str:
        """Return the exchange of a base URL, unless `serve` would refuse it."""
        return self._whole.check_exchange(base_url)

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent, and take it; see `WeightBudget.acquire`."""
        return await self._whole.acquire_within(self._reserve, weight, timeout)

    def confirm(self, lease: Lease) -> bool:
        """Return whether a granted request may be sent now."""
        return self._whole.confirm(lease)

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Record the answer to a request that was sent."""
        self._whole.settle(lease, report)

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        self._whole.release(lease)

    async def recorded(self, lease: Lease) -> None:
        """Wait until other processes can know what became of a lease."""
        await self._whole.recorded(lease)

    def check(self, weight: int, *, timeout: float | None = None) -> None:
        """Raise what a caller that would have to wait for `weight` can know at once."""
        self._whole.check_within(self._reserve, weight, timeout)

    def state(self) -> BudgetState:
        """Return what the budget knows now."""
        return self._whole.state_within(self._reserve)

    def view(self, *, reserve: int) -> Budget:
        """Return a view of the same budget."""
        return self._whole.view(reserve=reserve)

    async def aclose(self) -> None:
        """Close nothing: the budget stays open."""
