"""What moved between two snapshots.

Pools have no name on the wire: a later pool continues the earlier one with which it shares most
symbols.
"""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from itertools import repeat
from operator import itemgetter
from typing import TYPE_CHECKING, TypeAlias

from ._pydantic import PydanticStruct
from .models import InsurancePool, exact_difference

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .models import InsuranceSnapshot

__all__ = [
    "BalanceChanged",
    "Change",
    "PoolAppeared",
    "PoolVanished",
    "SymbolDelisted",
    "SymbolListed",
    "SymbolMoved",
    "diff",
]


_NOWHERE = -1


class _Change(PydanticStruct, frozen=True, gc=False, tag_field="change", tag=True):
    def to_dict(self) -> dict[str, object]:
        """Return the change as JSON's own types, under the names of its fields.

        Its kind is under `change`, balances are strings of plain digits, pools are as by their
        `to_dict()`. `msgspec.convert(…, Change)` makes an equal change of it.
        """
        fields = {name: _plain(getattr(self, name)) for name in self.__struct_fields__}
        return {"change": type(self).__name__, **fields}

    _as_dict = to_dict


class BalanceChanged(_Change, frozen=True, gc=False):
    """The balance of an asset changed in a pool that goes on.

    Attributes:
        pool: the pool after the change.
        asset: the name of the asset.
        before: its balance, in units of the asset; None where the pool did not hold it.
        after: its balance now; None where the pool does not hold it any more.
        delta: `after - before`, exact; None where one of them is.
        before_time: the update time of `before`, in milliseconds since 1970 UTC, or None.
        after_time: the update time of `after`, or None.
        regrouped: whether symbols came from or went to another pool, so that `delta` is not a gain
            or a loss.
    """

    pool: InsurancePool
    asset: str
    before: Decimal | None
    after: Decimal | None
    delta: Decimal | None
    before_time: int | None
    after_time: int | None
    regrouped: bool


class SymbolMoved(_Change, frozen=True, gc=False):
    """A symbol went from one pool to another.

    Attributes:
        symbol: the symbol.
        origin: the pool that it left, as it was before.
        pool: the pool in which it is now.
    """

    symbol: str
    origin: InsurancePool
    pool: InsurancePool


class SymbolListed(_Change, frozen=True, gc=False):
    """A symbol that was in no pool is in one.

    Attributes:
        symbol: the symbol.
        pool: the pool in which it is now.
    """

    symbol: str
    pool: InsurancePool


class SymbolDelisted(_Change, frozen=True, gc=False):
    """A symbol is in no pool any more.

    Attributes:
        symbol: the symbol.
        pool: the pool in which it was, as it is now; as it was, if it is gone.
    """

    symbol: str
    pool: InsurancePool


class PoolAppeared(_Change, frozen=True, gc=False):
    """A pool that continues none.

    Attributes:
        pool: the pool; what it holds is told here only.
    """

    pool: InsurancePool


class PoolVanished(_Change, frozen=True, gc=False):
    """A pool that no other continues.

    Attributes:
        pool: the pool as it was; what it held is told here only.
    """

    pool: InsurancePool


Change: TypeAlias = (
    BalanceChanged | SymbolMoved | SymbolListed | SymbolDelisted | PoolAppeared | PoolVanished
)


def diff(before: InsuranceSnapshot, after: InsuranceSnapshot) -> tuple[Change, ...]:
    """Return what changed from one snapshot to a later one.

    A pool of `after` continues a pool of `before`. Pairs are taken greedily, most shared symbols
    first; each pool is in one pair at most. Balances are compared within pairs. An update time that
    moves alone is no change.

    If either snapshot is not `complete`, coming and going cannot be told from moving: nothing is
    listed or delisted, a pool appears or vanishes only if all its symbols are in pools of the other
    snapshot, and a pool whose symbols changed is `regrouped`.

    Returns:
        The changes by kind: balances, moves, listings, delistings, pools that appeared, pools that
        vanished. Within a kind they are in the order of `after`; what is only in `before` is in the
        order of `before`.
    """
    return _Comparison(before, after).changes()


class _Grouping:
    """Which symbols each pool names, and which pools name each symbol; pools by their number."""

    def __init__(self, pools: tuple[InsurancePool, ...]) -> None:
        self.pools = pools
        self.symbols = [set(pool.symbols) for pool in pools]
        self.home: dict[str, int] = {}  # the first pool that names the symbol
        self.more: dict[str, list[int]] = {}  # others that name it too; the exchange has none
        for number, pool in enumerate(pools):
            self.home.update(dict.fromkeys(pool.symbols, number))
        if len(self.home) < sum(map(len, self.symbols)):
            self._correct()

    def _correct(self) -> None:
        """Tell the first pool of a symbol from others that name it."""
        for number, symbols in reversed(list(enumerate(self.symbols))):
            for symbol in symbols:
                later, self.home[symbol] = self.home[symbol], number
                if later != number:
                    self.more.setdefault(symbol, []).append(later)

    def shared(self, symbols: set[str]) -> list[tuple[int, int]]:
        """Return the pools that name some of these symbols, in order, and how many they name."""
        found = Counter(map(self.home.get, symbols, repeat(_NOWHERE)))
        found.pop(_NOWHERE, None)
        for symbol in self.more.keys() & symbols if self.more else ():
            found.update(self.more[symbol])
        return sorted(found.items())


class _Comparison:
    def __init__(self, before: InsuranceSnapshot, after: InsuranceSnapshot) -> None:
        self._complete = before.complete and after.complete
        self._old, self._new = _Grouping(before.pools), _Grouping(after.pools)
        self._origin = _pair(self._old, self._new)
        self._successor = {there: here for here, there in self._origin.items()}

    def changes(self) -> tuple[Change, ...]:
        return (
            *self._balances(),
            *self._moves(),
            *(self._listings() if self._complete else ()),
            *(self._delistings() if self._complete else ()),
            *map(PoolAppeared, self._lone(self._new, self._old, self._origin)),
            *map(PoolVanished, self._lone(self._old, self._new, self._successor)),
        )

    def _balances(self) -> Iterator[BalanceChanged]:
        for here, pool in enumerate(self._new.pools):
            there = self._origin.get(here)
            if there is None:
                continue
            earlier = self._old.pools[there]
            if pool.assets != earlier.assets:
                yield from _compare(earlier, pool, regrouped=self._regrouped(there, here))

    def _regrouped(self, there: int, here: int) -> bool:
        old, new = self._old.symbols[there], self._new.symbols[here]
        if old == new or not self._complete:
            return old != new
        came, went = new - old, old - new
        return not (
            self._old.home.keys().isdisjoint(came) and self._new.home.keys().isdisjoint(went)
        )

    def _moves(self) -> Iterator[SymbolMoved]:
        old, new, stayed = self._old, self._new, self._stayed()
        for symbol, here in new.home.items():
            if symbol not in stayed and symbol in old.home:
                yield SymbolMoved(symbol, old.pools[old.home[symbol]], new.pools[here])

    def _stayed(self) -> set[str]:
        """Return the symbols of a pool that goes on with them."""
        old, new = self._old.symbols, self._new.symbols
        stayed: set[str] = set()
        return stayed.union(*(new[here] & old[there] for here, there in self._origin.items()))

    def _listings(self) -> Iterator[SymbolListed]:
        listed = self._new.home.keys() - self._old.home.keys()
        for symbol in filter(listed.__contains__, self._new.home if listed else ()):
            yield SymbolListed(symbol, self._new.pools[self._new.home[symbol]])

    def _delistings(self) -> Iterator[SymbolDelisted]:
        delisted = self._old.home.keys() - self._new.home.keys()
        for symbol in filter(delisted.__contains__, self._old.home if delisted else ()):
            there = self._old.home[symbol]
            here = self._successor.get(there)
            pool = self._old.pools[there] if here is None else self._new.pools[here]
            yield SymbolDelisted(symbol, pool)

    def _lone(
        self, side: _Grouping, other: _Grouping, paired: dict[int, int]
    ) -> Iterator[InsurancePool]:
        """Yield the pools of one side that surely have no partner on the other."""
        for number, pool in enumerate(side.pools):
            if number not in paired and (
                self._complete or side.symbols[number] <= other.home.keys()
            ):
                yield pool


def _pair(old: _Grouping, new: _Grouping) -> dict[int, int]:
    """Return which earlier pool each later pool continues.

    Most shared symbols first; ties: the larger share of the later pool's symbols, the order of the
    later pools, the order of the earlier pools.
    """
    origin = _unchanged(old, new)
    taken = set(origin.values())
    ranked = [
        (shared, len(symbols), here, there)
        for here, symbols in enumerate(new.symbols)
        if here not in origin
        for there, shared in old.shared(symbols)
    ]
    # Sorting is stable, and fastest with one number as the key.
    ranked.sort(key=itemgetter(1))
    ranked.sort(key=itemgetter(0), reverse=True)
    for _, _, here, there in ranked:
        if here not in origin and there not in taken:
            origin[here] = there
            taken.add(there)
    return origin


def _unchanged(old: _Grouping, new: _Grouping) -> dict[int, int]:
    """Return the pairs with equal symbols: no other pool shares a symbol with them.

    It saves most of the time. Where two pools name a symbol, others may share symbols with them.
    """
    if old.more or new.more:
        return {}
    pairs: dict[int, int] = {}
    for here, pool in enumerate(new.pools):
        there = old.home.get(pool.symbols[0]) if pool.symbols else None
        if there is not None and old.symbols[there] == new.symbols[here]:
            pairs[here] = there
    return pairs


def _compare(
    before: InsurancePool, after: InsurancePool, *, regrouped: bool
) -> Iterator[BalanceChanged]:
    """Compare the balances of a pool, in the later order; then come those that it lost."""
    old = {held.asset: held for held in before.assets}
    for held in after.assets:
        known = old.pop(held.asset, None)
        now, now_time = held.margin_balance, held.update_time
        if known is None:
            yield BalanceChanged(after, held.asset, None, now, None, None, now_time, regrouped)
        elif known.margin_balance != now:
            was, was_time = known.margin_balance, known.update_time
            delta = exact_difference(now, was)
            yield BalanceChanged(after, held.asset, was, now, delta, was_time, now_time, regrouped)
    for asset, gone in old.items():
        was, was_time = gone.margin_balance, gone.update_time
        yield BalanceChanged(after, asset, was, None, None, was_time, None, regrouped)


def _plain(value: object) -> object:
    if isinstance(value, InsurancePool):
        return value.to_dict()
    return f"{value:f}" if isinstance(value, Decimal) else value
