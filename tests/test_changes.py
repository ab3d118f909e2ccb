"""What moved between two snapshots: a regrouping is no loss, and what is not known is not said."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from fractions import Fraction
from random import Random
from statistics import median

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot, diff
from binance_insurance._decoding import decode_pools
from binance_insurance.changes import (
    BalanceChanged,
    Change,
    PoolAppeared,
    PoolVanished,
    SymbolDelisted,
    SymbolListed,
    SymbolMoved,
)
from binance_insurance.sandbox import Market

from .scale import sample

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def pool(symbols: str, *, at: int = 0, **balances: str) -> InsurancePool:
    """A pool of symbols such as `"A B"` that holds assets such as `USDT="1.5"`."""
    held = balances or {"USDT": "100"}
    return InsurancePool(
        tuple(symbols.split()),
        tuple(AssetBalance(asset, Decimal(text), at) for asset, text in held.items()),
    )


def whole(*pools: InsurancePool) -> InsuranceSnapshot:
    return InsuranceSnapshot(pools, NOON)


def part(*pools: InsurancePool) -> InsuranceSnapshot:
    return InsuranceSnapshot(pools, NOON, complete=False)


def change(
    after: InsurancePool, before: str, now: str, *, regrouped: bool = False
) -> BalanceChanged:
    """A change of USDT, at the update times of these tests."""
    was, new = Decimal(before), Decimal(now)
    return BalanceChanged(after, "USDT", was, new, new - was, 0, 0, regrouped)


# --- Each kind ---


def test_nothing_moved() -> None:
    before = whole(pool("A B"), pool("C", USDT="0E-8", BTC="-1"))
    assert diff(before, before) == ()
    again = whole(pool("C", USDT="0.00", BTC="-1.0"), pool("B A"))
    assert diff(before, again) == (), "neither order nor trailing zeros are a change"


def test_an_update_time_that_moves_alone_is_no_change() -> None:
    assert diff(whole(pool("A", at=1)), whole(pool("A", at=2))) == ()


def test_a_balance_changes_by_an_exact_delta_with_both_times() -> None:
    long = "123456789012345678901234567890.123456789012345678"
    before, after = pool("A", at=1, USDT=long), pool("A", at=2, USDT="-0.000000000000000001")
    delta = Decimal("-123456789012345678901234567890.123456789012345679")
    assert diff(whole(before), whole(after)) == (
        BalanceChanged(
            after, "USDT", Decimal(long), Decimal("-1E-18"), delta, 1, 2, regrouped=False
        ),
    )


def test_an_asset_comes_and_goes() -> None:
    before, after = pool("A", USDT="1", BTC="2"), pool("A", BNB="3", USDT="1")
    assert diff(whole(before), whole(after)) == (
        BalanceChanged(after, "BNB", None, Decimal(3), None, None, 0, regrouped=False),
        BalanceChanged(after, "BTC", Decimal(2), None, None, 0, None, regrouped=False),
    )


def test_a_moved_symbol_makes_both_pools_regrouped() -> None:
    first, second = pool("A B C"), pool("D E F")
    left, grown = pool("A B", USDT="60"), pool("D E F C", USDT="140")
    assert diff(whole(first, second), whole(left, grown)) == (
        change(left, "100", "60", regrouped=True),
        change(grown, "100", "140", regrouped=True),
        SymbolMoved("C", first, grown),
    )


def test_a_split_is_a_move_to_a_pool_that_appeared() -> None:
    before, left, new = pool("A B C"), pool("A B", USDT="70"), pool("C", USDT="30")
    assert diff(whole(before), whole(new, left)) == (
        change(left, "100", "70", regrouped=True),
        SymbolMoved("C", before, new),
        PoolAppeared(new),
    )


def test_a_merge_is_a_move_from_a_pool_that_vanished() -> None:
    first, second, merged = pool("A B"), pool("C"), pool("A B C", USDT="200")
    assert diff(whole(first, second), whole(merged)) == (
        change(merged, "100", "200", regrouped=True),
        SymbolMoved("C", second, merged),
        PoolVanished(second),
    )


def test_a_listing_and_a_delisting_make_nothing_regrouped() -> None:
    before, after = pool("A B"), pool("A C", USDT="90")
    assert diff(whole(before), whole(after)) == (
        change(after, "100", "90"),
        SymbolListed("C", after),
        SymbolDelisted("B", after),
    )


def test_a_delisting_with_its_pool_names_the_pool_as_it_was() -> None:
    staying, gone, new = pool("A"), pool("B"), pool("C")
    assert diff(whole(staying, gone), whole(staying, new)) == (
        SymbolListed("C", new),
        SymbolDelisted("B", gone),
        PoolAppeared(new),
        PoolVanished(gone),
    )


def test_ties_go_to_the_larger_share_of_the_later_pool_then_to_the_order() -> None:
    before = whole(pool("A B"), pool("C D"))
    small, large = pool("B"), pool("A E F", USDT="7")
    assert change(large, "100", "7", regrouped=True) not in diff(before, whole(large, small))
    assert PoolAppeared(large) in diff(before, whole(large, small))
    first, second = pool("A C", USDT="1"), pool("B D", USDT="2")
    assert diff(before, whole(first, second)) == (
        change(first, "100", "1", regrouped=True),
        change(second, "100", "2", regrouped=True),
        SymbolMoved("C", before["C"], first),
        SymbolMoved("B", before["A"], second),
    )


def test_a_symbol_that_two_pools_name_has_not_moved_while_one_of_them_goes_on() -> None:
    one, other = pool("A B"), pool("A C")
    assert diff(whole(one, other), whole(other, one)) == ()
    assert diff(whole(one, pool("A")), whole(one, pool("A"))) == ()
    lone = pool("C")
    assert diff(whole(one, other), whole(one, lone)) == ()
    assert diff(whole(one, lone), whole(one, pool("A C", USDT="1"))) == (
        change(pool("A C", USDT="1"), "100", "1", regrouped=True),
    )
    third = pool("A D E")
    assert diff(whole(pool("B"), pool("C"), pool("A D")), whole(one, other, third)) == (
        SymbolListed("E", third),
    )


# --- Parts of the exchange ---


@pytest.mark.parametrize(
    ("earlier", "later"), [(part, whole), (whole, part), (part, part)], ids=["1", "2", "both"]
)
def test_of_a_part_coming_and_going_is_not_said(
    earlier: Callable[..., InsuranceSnapshot], later: Callable[..., InsuranceSnapshot]
) -> None:
    before, after = pool("A B"), pool("A C", USDT="90")
    other, new = pool("D"), pool("E")
    assert diff(earlier(before, other), later(after, new)) == (
        change(after, "100", "90", regrouped=True),
    )
    same = pool("A B", USDT="90")
    assert diff(earlier(before, other), later(same)) == (change(same, "100", "90"),)


def test_of_a_part_moves_between_known_pools_are_said() -> None:
    first, second = pool("A B C"), pool("D E")
    split, grown = pool("C"), pool("D E B")
    left = pool("A")
    assert diff(part(first, second), part(grown, left, split)) == (
        SymbolMoved("B", first, grown),
        SymbolMoved("C", first, split),
        PoolAppeared(split),
    )
    assert diff(part(left, split), part(pool("A C"))) == (
        SymbolMoved("C", split, pool("A C")),
        PoolVanished(split),
    )
    unknown = pool("C X")
    assert diff(part(first), part(left, unknown)) == (SymbolMoved("C", first, unknown),)


# --- All groupings ---

SYMBOLS = "ABCDEFGHIJ"
amounts = st.sampled_from(["0", "0E-8", "1.0", "-3"]).map(Decimal) | st.decimals(
    -(10**40), 10**40, places=18
)


@st.composite
def groupings(draw: st.DrawFn) -> tuple[InsurancePool, ...]:
    """Each symbol in one of six pools, or in none; the pools in any order."""
    places = draw(st.lists(st.integers(0, 6), min_size=len(SYMBOLS), max_size=len(SYMBOLS)))
    groups = [
        tuple(name for name, place in zip(SYMBOLS, places, strict=True) if place == number)
        for number in range(6)
    ]
    held = st.dictionaries(
        st.sampled_from(["USDT", "BTC", "BNB"]), st.tuples(amounts, st.integers(0, 3)), min_size=1
    )
    pools = [
        InsurancePool(
            group, tuple(AssetBalance(asset, *each) for asset, each in draw(held).items())
        )
        for group in groups
        if group
    ]
    return tuple(draw(st.permutations(pools)))


snapshots = st.builds(InsuranceSnapshot, groupings(), st.just(NOON), st.booleans())
Pairs = list[tuple[InsurancePool, InsurancePool]]


@dataclass
class Reference:
    """What `diff` must say, by comparing everything with everything."""

    before: InsuranceSnapshot
    after: InsuranceSnapshot

    def pairs(self) -> Pairs:
        old, new = list(self.before), list(self.after)
        pairs: Pairs = []
        while True:
            best = None
            for later in new:
                for earlier in old:
                    shared = len(set(later.symbols) & set(earlier.symbols))
                    rank = (shared, Fraction(shared, len(later.symbols)))
                    if shared and (best is None or rank > best[0]):
                        best = rank, earlier, later
            if best is None:
                return pairs
            pairs.append(best[1:])
            old.remove(best[1])
            new.remove(best[2])

    def expected(self) -> list[Change]:
        pairs, complete = self.pairs(), self.before.complete and self.after.complete
        pairs.sort(key=lambda pair: self.after.pools.index(pair[1]))
        return [
            *(each for old, new in pairs for each in self.balances(old, new, complete=complete)),
            *self.moves(pairs),
            *(self.arrivals() if complete else ()),
            *(self.departures(pairs) if complete else ()),
            *map(PoolAppeared, alone(self.after, self.before, [new for _, new in pairs])),
            *map(PoolVanished, alone(self.before, self.after, [old for old, _ in pairs])),
        ]

    def moves(self, pairs: Pairs) -> Iterator[SymbolMoved]:
        for new in self.after:
            for symbol in new.symbols:
                old = self.before.get(symbol)
                if old is not None and (old, new) not in pairs:
                    yield SymbolMoved(symbol, old, new)

    def arrivals(self) -> Iterator[SymbolListed]:
        for new in self.after:
            yield from (SymbolListed(name, new) for name in new.symbols if name not in self.before)

    def departures(self, pairs: Pairs) -> Iterator[SymbolDelisted]:
        for old in self.before:
            place = next((new for earlier, new in pairs if earlier is old), old)
            for name in old.symbols:
                if name not in self.after:
                    yield SymbolDelisted(name, place)

    def balances(
        self, old: InsurancePool, new: InsurancePool, *, complete: bool
    ) -> Iterator[BalanceChanged]:
        changed = set(old.symbols) ^ set(new.symbols)
        known = {symbol for symbol in changed if symbol in self.before and symbol in self.after}
        regrouped = bool(known if complete else changed)
        for asset in dict.fromkeys(held.asset for held in (*new.assets, *old.assets)):
            was, was_time = value(old, asset)
            now, now_time = value(new, asset)
            if was is None or now is None:
                delta = None
            elif was == now:
                continue
            else:
                units = (Fraction(now) - Fraction(was)) * 10**18
                delta = Decimal(f"{int(units)}E-18")
            yield BalanceChanged(new, asset, was, now, delta, was_time, now_time, regrouped)


def value(pool: InsurancePool, asset: str) -> tuple[Decimal | None, int | None]:
    for held in pool.assets:
        if held.asset == asset:
            return held.margin_balance, held.update_time
    return None, None


def alone(
    side: InsuranceSnapshot, other: InsuranceSnapshot, paired: list[InsurancePool]
) -> list[InsurancePool]:
    """The pools of one side without a partner; of a part, those with known symbols only."""
    complete = side.complete and other.complete
    return [
        pool
        for pool in side
        if pool not in paired and (complete or all(name in other for name in pool.symbols))
    ]


@pytest.mark.campaign
@settings(max_examples=sample(150, 1000), deadline=None)
@given(snapshots, snapshots)
def test_diff_explains_every_pair_of_groupings(
    before: InsuranceSnapshot, after: InsuranceSnapshot
) -> None:
    changes = diff(before, after)
    assert list(changes) == Reference(before, after).expected()
    assert diff(after, after) == ()


@pytest.mark.campaign
@settings(max_examples=sample(150, 1000), deadline=None)
@given(snapshots, snapshots)
def test_a_move_is_never_a_plain_fall_and_each_symbol_is_said_once(
    before: InsuranceSnapshot, after: InsuranceSnapshot
) -> None:
    changes = diff(before, after)
    moved = {each.symbol for each in changes if isinstance(each, SymbolMoved)}
    said = [
        each.symbol
        for each in changes
        if isinstance(each, (SymbolMoved, SymbolListed, SymbolDelisted))
    ]
    assert len(said) == len(set(said))
    listed = [each.symbol for each in changes if isinstance(each, SymbolListed)]
    delisted = [each.symbol for each in changes if isinstance(each, SymbolDelisted)]
    if before.complete and after.complete:
        assert set(listed) == {s for one in after for s in one.symbols if s not in before}
        assert set(delisted) == {s for one in before for s in one.symbols if s not in after}
    else:
        assert not listed
        assert not delisted
    for each in changes:
        if isinstance(each, BalanceChanged):
            assert each.regrouped or not moved & set(each.pool.symbols)
            if each.before is not None and each.after is not None:
                assert each.delta is not None
                assert Fraction(each.before) + Fraction(each.delta) == Fraction(each.after)


# --- As values ---


@settings(max_examples=30, deadline=None)
@given(snapshots, snapshots)
def test_a_change_comes_back_from_its_dict(
    before: InsuranceSnapshot, after: InsuranceSnapshot
) -> None:
    for each in diff(before, after):
        text = msgspec.json.encode(each.to_dict())
        again: Change = msgspec.json.decode(text, type=Change)
        assert again == each
        assert hash(again) == hash(each)


def test_the_dict_of_a_change_has_its_fields_and_its_kind() -> None:
    before, after = pool("A", USDT="1"), pool("A", USDT="0E-8")
    (only,) = diff(whole(before), whole(after))
    content = {
        "change": "BalanceChanged",
        "pool": after.to_dict(),
        "asset": "USDT",
        "before": "1",
        "after": "0.00000000",
        "delta": "-1.00000000",
        "before_time": 0,
        "after_time": 0,
        "regrouped": False,
    }
    assert only.to_dict() == content
    adapter = TypeAdapter(BalanceChanged)
    assert adapter.validate_python(content) == only
    assert adapter.dump_python(BalanceChanged(*msgspec.structs.astuple(only))) == content


# --- Speed ---


def test_diff_takes_less_than_ten_times_the_decoding_of_one_snapshot() -> None:
    market, chance = Market(), Random(1)
    body = msgspec.json.encode(market.pools(0))
    before = whole(*decode_pools(body, NOON))
    groups = [list(each.symbols) for each in before]
    for _ in range(20):
        group, other = chance.sample([each for each in groups if len(each) > 1], 2)
        other.append(group.pop())
    after = whole(
        *(
            InsurancePool(tuple(group), each.assets)
            for group, each in zip(groups, market.pools(60), strict=True)
        )
    )
    assert len(diff(before, after)) >= 60, "every pool has changed"

    def measure(work: Callable[[], object]) -> float:
        start = time.process_time()
        for _ in range(10):
            work()
        return time.process_time() - start

    decoding: list[float] = []
    comparing: list[float] = []
    for _ in range(15):
        decoding.append(measure(lambda: decode_pools(body, NOON)))
        comparing.append(measure(lambda: diff(before, after)))
    assert median(comparing) < 10 * median(decoding)
