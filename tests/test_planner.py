"""The plan against a model: for any grouping, moves and faults, right answers, least weight."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from binance_insurance import (
    AssetBalance,
    InsuranceError,
    InsurancePool,
    InsuranceSnapshot,
    InvalidSymbolError,
    IPBannedError,
    ServerError,
)
from binance_insurance._knowledge import Knowledge
from binance_insurance._planner import Plan, snapshot_is_lighter

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
BALANCE = (AssetBalance("USDT", Decimal(1), 0),)


class World(Struct, frozen=True):
    """An exchange, what a client believes of it, and a question."""

    pools: tuple[InsurancePool, ...]
    believed: tuple[InsurancePool, ...]
    asked: tuple[str, ...]
    weight: int
    width: int
    seed: int

    def pool_of(self, symbol: str) -> InsurancePool | None:
        return next((pool for pool in self.pools if symbol in pool.symbols), None)


@st.composite
def partitions(draw: st.DrawFn, symbols: list[str]) -> tuple[InsurancePool, ...]:
    """Symbols dealt out to pools in any way."""
    labels = draw(
        st.lists(
            st.integers(0, draw(st.integers(0, len(symbols)))),
            min_size=len(symbols),
            max_size=len(symbols),
        )
    )
    groups: dict[int, list[str]] = {}
    for symbol, label in zip(symbols, labels, strict=True):
        groups.setdefault(label, []).append(symbol)
    return tuple(InsurancePool(tuple(group), BALANCE) for group in groups.values())


@st.composite
def worlds(draw: st.DrawFn, *, unknown: bool = False) -> World:
    """Any grouping; what was learned earlier may be right, outdated, or nothing."""
    symbols = [f"S{number}" for number in range(draw(st.integers(1, 80)))]
    pools = draw(partitions(symbols))
    believed = draw(st.one_of(st.just(()), st.just(pools), partitions(symbols)))
    asked = draw(st.permutations(symbols))[: draw(st.integers(1, len(symbols)))]
    if unknown:
        asked += [f"X{number}" for number in range(draw(st.integers(0, 10)))]
    return World(
        pools=pools,
        believed=believed,
        asked=tuple(asked),
        weight=draw(st.integers(1, 60)),
        width=draw(st.integers(1, 40)),
        seed=draw(st.integers(0, 2**32)),
    )


def play(world: World, faults: float = 0.0) -> tuple[Plan, int]:
    """Carry a plan out, with answers in any order; return it and the weight that it spent."""
    chance = Random(world.seed)
    knowledge = Knowledge()
    for pool in world.believed:
        knowledge.learn_pool(pool, 0.0)
    plan = Plan(world.asked, knowledge, snapshot_weight=world.weight, width=world.width)
    in_flight: list[str | None] = []
    spent = 0
    while True:
        for symbol in plan.next():
            in_flight.append(symbol)
            spent += world.weight if symbol is None else 1
        assert len(in_flight) <= world.width
        if not in_flight:
            return plan, spent
        symbol = in_flight.pop(chance.randrange(len(in_flight)))
        if chance.random() < faults:
            error = ServerError("down", status=503)
            if symbol is None:
                plan.failed_snapshot(error)
            else:
                plan.failed(symbol, error)
        elif symbol is None:
            snapshot = InsuranceSnapshot(world.pools, NOON)
            knowledge.learn_snapshot(snapshot, 1.0)
            plan.answered_snapshot(snapshot.get)
        else:
            found = world.pool_of(symbol)
            if found is None:
                plan.failed(symbol, InvalidSymbolError("no", symbol=symbol))
            else:
                knowledge.learn_pool(found, 1.0)
                plan.answered(symbol, found)


@given(worlds(unknown=True))
@settings(deadline=None, max_examples=300)
def test_every_symbol_gets_a_pool_that_names_it_or_its_own_error(world: World) -> None:
    plan, _ = play(world)
    assert set(plan.pools) | set(plan.errors) == set(world.asked)
    for symbol in world.asked:
        if world.pool_of(symbol) is None:
            assert isinstance(plan.errors[symbol], InvalidSymbolError)
            assert plan.errors[symbol].symbol == symbol
        else:
            assert plan.pools[symbol] == world.pool_of(symbol)


@given(worlds())
@settings(deadline=None, max_examples=300)
def test_it_never_spends_more_than_the_better_plain_strategy_and_what_was_in_flight(
    world: World,
) -> None:
    _, spent = play(world)
    assert spent <= min(len(world.asked), world.weight) + world.width


@given(worlds(unknown=True), st.floats(0, 1))
@settings(deadline=None, max_examples=200)
def test_under_faults_every_symbol_is_still_accounted_for(world: World, faults: float) -> None:
    plan, spent = play(world, faults)
    assert set(plan.pools) | set(plan.errors) == set(world.asked)
    assert not set(plan.pools) & set(plan.errors)
    for symbol, pool in plan.pools.items():
        assert symbol in pool.symbols
    for symbol, error in plan.errors.items():
        assert isinstance(error, InsuranceError)
        assert error.symbol == symbol
    assert spent <= len(world.asked) + world.weight + world.width


def test_a_ban_ends_the_plan_at_once() -> None:
    plan = Plan([f"S{n}" for n in range(30)], Knowledge(), snapshot_weight=40, width=4)
    first, *rest = plan.next()
    assert first is not None
    plan.failed(first, IPBannedError("banned", symbol=first))
    assert plan.next() == []
    for symbol in rest:
        assert symbol is not None
        plan.failed(symbol, IPBannedError("banned", symbol=symbol))
    assert len(plan.errors) == 30


def test_the_snapshot_request_is_lighter_only_where_it_weighs_less_and_can_be_had() -> None:
    assert snapshot_is_lighter(40, 41)
    assert not snapshot_is_lighter(40, 40)
    assert not snapshot_is_lighter(None, 1000)
