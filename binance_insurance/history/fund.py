"""What all pools together hold of an asset, through time. Pure."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

from msgspec import Struct

from ..models import exact_sum
from .times import in_order
from .values import Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from .timeline import Pools, Run

# Of one asset, the order in which its values replace each other: update time, first report, balance
Newest: TypeAlias = tuple[int, int, Decimal]


class Reported(Struct, frozen=True, gc=False):
    """A value of a pool, when it was first reported."""

    pool: str
    update_time: int
    observed_time: int
    balance: Decimal

    @property
    def newness(self) -> Newest:
        """Which of two values of the pool is the newer one."""
        return self.update_time, self.observed_time, self.balance


def totals(
    asset: str,
    runs: Iterable[Run],
    layouts: Mapping[int, Pools],
    values: Iterable[Reported],
) -> Iterator[Point]:
    """Yield what all pools hold of an asset, wherever that changes.

    Args:
        asset: as the exchange spells it.
        runs: in order of time.
        layouts: the pools of each layout.
        values: of the asset, of all pools, in any order.
    """
    holders = {
        layout: frozenset(pool.key for pool in pools.pools if asset in pool.assets)
        for layout, pools in layouts.items()
    }
    begun = {run.first // 1000: holders[run.layout] for run in runs}
    reported: defaultdict[int, list[Reported]] = defaultdict(list)
    for value in values:
        reported[value.observed_time].append(value)
    held: frozenset[str] = frozenset()
    newest: dict[str, Newest] = {}
    before: Decimal | None = None
    for time in in_order({*begun, *reported}):
        held = begun.get(time, held)
        for value in reported.get(time, ()):
            newest[value.pool] = max(newest.get(value.pool, value.newness), value.newness)
        total = exact_sum(newest[pool][2] for pool in held) if held else None
        if total is not None and total != before:
            yield Point(time, time, total, ())
        before = total
