"""What answers taught: groups, the newest pools and snapshot, and the snapshot's weight.

An answer is as old as its question: of two, the one to the younger question counts, whichever came
first. Pure: times are local monotonic seconds that are passed in. Memory is bounded.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .models import InsurancePool, InsuranceSnapshot

_MOST_SYMBOLS = 20_000  # the exchange lists about 900
_DOCUMENTED_WEIGHT = 40
_AGREEING = 3


class Group:
    """The symbols that one answer named together, and the newest answer that did.

    Attributes:
        symbols: the symbols, in the exchange's order.
        pool: the newest answer.
        asked_at: when its request was sent.
        whole: whether none of the symbols is known to be in another group.
    """

    __slots__ = ("asked_at", "pool", "symbols", "whole")

    def __init__(self, pool: InsurancePool, asked_at: float) -> None:
        self.symbols = pool.symbols
        self.pool = pool
        self.asked_at = asked_at
        self.whole = True


class Knowledge:
    """What the answers to one client have shown.

    Attributes:
        groups: the group that each symbol was last seen in.
        snapshot_weight: the request weight to charge for the snapshot request. It is documented as
            1, but was measured as 40 by a third party: 40 is charged until three clean differences
            of the used weight in a row are equal, and again once one of them is larger than what
            is charged. Nodes that lag make a difference smaller, other clients make it larger.
    """

    def __init__(self) -> None:
        self.snapshot_weight = _DOCUMENTED_WEIGHT
        self._differences: deque[int] = deque(maxlen=_AGREEING)
        self.groups: dict[str, Group] = {}
        self._snapshot: tuple[InsuranceSnapshot, float] | None = None

    def pool_since(self, symbol: str, since: float) -> InsurancePool | None:
        """Return the newest pool that names a symbol, if it was not asked for before `since`."""
        group = self.groups.get(symbol)
        return group.pool if group is not None and group.asked_at >= since else None

    def snapshot_since(self, since: float) -> InsuranceSnapshot | None:
        """Return the newest snapshot, if it was not asked for before `since`."""
        if self._snapshot is None or self._snapshot[1] < since:
            return None
        return self._snapshot[0]

    def affordable_snapshot_weight(self, capacity: int) -> int | None:
        """Return the snapshot's weight; None if a budget of this capacity can never afford it."""
        return self.snapshot_weight if self.snapshot_weight <= capacity else None

    def learn_pool(self, pool: InsurancePool, asked_at: float) -> None:
        """Keep a pool as the newest of its symbols, and what it shows of their grouping."""
        group = self.groups.get(pool.symbols[0])
        if group is None or group.symbols != pool.symbols or not group.whole:
            self._regroup(pool, asked_at)
        elif asked_at >= group.asked_at:
            group.pool, group.asked_at = pool, asked_at

    def learn_snapshot(self, snapshot: InsuranceSnapshot, asked_at: float) -> None:
        """Keep a snapshot as the newest, and each of its pools."""
        if self._snapshot is None or asked_at >= self._snapshot[1]:
            self._snapshot = snapshot, asked_at
        for pool in snapshot.pools:
            self.learn_pool(pool, asked_at)

    def learn_snapshot_weight(self, used_before: int, used_after: int) -> None:
        """Learn from a clean difference: one window, and nothing else of ours in flight."""
        difference = used_after - used_before
        self._differences.append(difference)
        if difference > self.snapshot_weight:
            self.snapshot_weight = _DOCUMENTED_WEIGHT
        if difference > 0 and self._differences.count(difference) == _AGREEING:
            self.snapshot_weight = min(difference, _DOCUMENTED_WEIGHT)

    def _regroup(self, pool: InsurancePool, asked_at: float) -> None:
        if len(self.groups) + len(pool.symbols) > _MOST_SYMBOLS:
            self.groups.clear()
        group = Group(pool, asked_at)
        for symbol in pool.symbols:
            other = self.groups.get(symbol)
            if other is None or asked_at >= other.asked_at:
                self.groups[symbol], outdated = group, other
            else:
                outdated = group
            if outdated is not None:
                outdated.whole = False
