"""In which pool a symbol was, and when. Pure.

What a pool reports belongs to a symbol only if it was updated while the symbol was in that pool.
Where the pool changed between two observations, the boundary is the end of the second of the
earlier one, since the exchange's dates are whole seconds.
"""

from __future__ import annotations

from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from msgspec import Struct

from .facts import LayoutPool, symbols_of
from .times import FOREVER, aware, next_second
from .values import Regrouping

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping


class Pools(Struct, frozen=True, dict=True):
    """The pools of a layout, looked up by symbol; if two name one, their names decide."""

    pools: tuple[LayoutPool, ...]

    @cached_property
    def by_symbol(self) -> dict[str, LayoutPool]:
        """The pool of each symbol."""
        found = {symbol: pool for pool in self.pools for symbol in pool.symbols}
        if len(found) < sum(len(pool.symbols) for pool in self.pools):
            # The order of pools says nothing.
            pools = sorted(self.pools, key=lambda pool: pool.key, reverse=True)
            found = {symbol: pool for pool in pools for symbol in pool.symbols}
        return found


class Run(Struct, frozen=True, gc=False):
    """Observations of one layout, without those of another in between; in microseconds."""

    first: int
    last: int
    layout: int


class Period(Struct, frozen=True, gc=False):
    """A time in which a symbol was in one pool.

    Attributes:
        pool: what identifies the pool.
        low: the first update time that belongs to it, in milliseconds.
        high: the first update time after it.
        regrouped: whether it began with a regrouping.
    """

    pool: str
    low: int
    high: int
    regrouped: bool

    @property
    def symbols(self) -> tuple[str, ...]:
        """The sorted symbols of the pool."""
        return symbols_of(self.pool)


class Timeline(Struct, frozen=True):
    """The pools of a symbol through time.

    Attributes:
        periods: in order; the first reaches back without limit, the last forward.
        regroupings: in order of time.
        first: the first observation of the symbol, in microseconds.
        last: the last one.
    """

    periods: tuple[Period, ...]
    regroupings: tuple[Regrouping, ...]
    first: int
    last: int


class _Sighting(Struct):
    """A symbol in a pool, from one observation to another.

    Attributes:
        key: what identifies the pool.
        symbols: those of the pool.
        opening: all pools at the first observation.
        closing: all pools at the last one.
        first: the first observation, in microseconds.
        last: the last one.
    """

    key: str
    symbols: frozenset[str]
    opening: Pools
    closing: Pools
    first: int
    last: int


def timeline(symbol: str, runs: Iterable[Run], layouts: Mapping[int, Pools]) -> Timeline | None:
    """Return the pools of a symbol through time; None if it was never observed.

    Args:
        symbol: as the exchange spells it.
        runs: in order of time.
        layouts: the pools of each layout.
    """
    sightings = _sightings(symbol, runs, layouts)
    if not sightings:
        return None
    periods: list[Period] = []
    regroupings: list[Regrouping] = []
    low, regrouped = -FOREVER, False
    for before, after in pairwise(sightings):
        high = next_second(before.last)
        periods.append(Period(before.key, low, high, regrouped))
        low, regrouped = high, _is_regrouping(before, after)
        if regrouped:
            regroupings.append(_regrouping(before, after))
    periods.append(Period(sightings[-1].key, low, FOREVER, regrouped))
    return Timeline(tuple(periods), tuple(regroupings), sightings[0].first, sightings[-1].last)


def _sightings(symbol: str, runs: Iterable[Run], layouts: Mapping[int, Pools]) -> list[_Sighting]:
    """Return where the symbol was seen, in order; once for as long as its pool stays the same."""
    members = {
        layout: pools.by_symbol[symbol]
        for layout, pools in layouts.items()
        if symbol in pools.by_symbol
    }
    keys = {layout: pool.key for layout, pool in members.items()}
    found: list[_Sighting] = []
    for run in runs:
        pool, pools = members.get(run.layout), layouts[run.layout]
        if pool is None:
            continue
        key = keys[run.layout]
        if found and found[-1].key == key:
            found[-1].closing, found[-1].last = pools, run.last
        else:
            symbols = frozenset(pool.symbols)
            found.append(_Sighting(key, symbols, pools, pools, run.first, run.last))
    return found


def _is_regrouping(before: _Sighting, after: _Sighting) -> bool:
    """Whether a symbol of the pool went to another pool, or came from one."""
    gone, come = before.symbols - after.symbols, after.symbols - before.symbols
    return not (
        gone.isdisjoint(after.opening.by_symbol) and come.isdisjoint(before.closing.by_symbol)
    )


def _regrouping(before: _Sighting, after: _Sighting) -> Regrouping:
    return Regrouping(
        aware(before.last),
        aware(after.first),
        tuple(sorted(before.symbols)),
        tuple(sorted(after.symbols)),
    )
