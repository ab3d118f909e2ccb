"""The requests that callers can join, and which may be answered by another's answer.

A value without tasks, clock or network: `Requests` acts on what it says.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._planner import snapshot_is_lighter
from ._shared_request import SharedRequest

if TYPE_CHECKING:
    from collections.abc import Collection

    from ._knowledge import Group
    from .models import InsurancePool, InsuranceSnapshot


class OpenRequests:
    """The open requests of one client.

    Attributes:
        by_symbol: the request for each symbol.
        by_group: the request whose answer should describe each group.
        snapshot: the snapshot request, or None.
        waiting: requests that wait for weight, and that another's answer may complete.
        replaced: requests that the snapshot request is to answer.
    """

    def __init__(self) -> None:
        self.by_symbol: dict[str, SharedRequest[InsurancePool]] = {}
        self.by_group: dict[Group, SharedRequest[InsurancePool]] = {}
        self.snapshot: SharedRequest[InsuranceSnapshot] | None = None
        self.waiting: set[SharedRequest[InsurancePool]] = set()
        self.replaced: set[SharedRequest[InsurancePool]] = set()

    def waiting_for(self, pool: InsurancePool) -> list[SharedRequest[InsurancePool]]:
        """Return the requests that wait for weight and whose symbols a pool names."""
        named = (self.by_symbol.get(symbol) for symbol in pool.symbols)
        return [request for request in named if request in self.waiting]

    def would_merge(self, snapshot_weight: int | None) -> bool:
        """Return whether the snapshot request should answer one more and all that wait.

        Args:
            snapshot_weight: its weight; None if the budget can never afford it.
        """
        if self.snapshot is not None:
            return snapshot_weight is not None
        return snapshot_is_lighter(snapshot_weight, len(self.waiting) + 1)

    def merge(self, request: SharedRequest[InsurancePool]) -> SharedRequest[InsuranceSnapshot]:
        """Let the snapshot request replace a request and all that wait; return it.

        One that was not open before has no task yet.
        """
        if self.snapshot is None:
            self.snapshot = SharedRequest(None)
        self.replaced |= {request, *self.waiting}
        for each in [request, *self.waiting]:
            each.replace(self.snapshot)
        self.waiting.clear()
        return self.snapshot

    def close(self, request: SharedRequest[Any]) -> Collection[SharedRequest[InsurancePool]]:
        """Let no caller join a request any more; return those that it replaced."""
        symbol, group = request.symbol, request.group
        if symbol is not None:
            if self.by_symbol.get(symbol) is request:
                del self.by_symbol[symbol]
            if group is not None and self.by_group.get(group) is request:
                del self.by_group[group]
        elif self.snapshot is request:
            self.snapshot = None
            replaced, self.replaced = self.replaced, set()
            return replaced
        return ()
