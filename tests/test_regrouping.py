"""The scenario "regrouping": all that can be seen in a day happens in a minute, every minute."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterable
from datetime import UTC, datetime

import pytest

from binance_insurance import (
    DecodeError,
    InsuranceClient,
    InsuranceSnapshot,
    LocalBudget,
    Runtime,
    ServerError,
    diff,
)
from binance_insurance.changes import BalanceChanged, Change, SymbolMoved
from binance_insurance.cli._options import Scenario
from binance_insurance.sandbox import Fault, Regrouping, Sandbox

from .conftest import wall_time

DAY = 1_790_000_040.0  # a full minute
HOUR = 2.5


def at(second: float, scenario: Regrouping | None = None) -> InsuranceSnapshot:
    pools = (scenario or Regrouping()).pools(second)
    return InsuranceSnapshot(pools, datetime.fromtimestamp(second, UTC))


def shown(changes: Iterable[Change]) -> list[tuple[str, str]]:
    """The kinds of change and what they are about, balances apart."""
    return [
        (type(change).__name__, getattr(change, "symbol", " ".join(change.pool.symbols)))
        for change in changes
        if not isinstance(change, BalanceChanged)
    ]


@pytest.mark.parametrize(
    ("hour", "expected"),
    [
        (3, [("SymbolMoved", "DOGEUSDT")]),
        (6, [("SymbolListed", "HYPEUSDT")]),
        (9, [("SymbolMoved", "LTCUSDT"), ("PoolAppeared", "LTCUSDT")]),
        (13, [("SymbolMoved", "XRPUSDT")]),
        (16, [("SymbolDelisted", "HYPEUSDT")]),
        (18, [("SymbolMoved", "LTCUSDT"), ("PoolVanished", "LTCUSDT")]),
        (24, []),
    ],
)
def test_what_happens_at_an_hour(hour: int, expected: list[tuple[str, str]]) -> None:
    before, after = at(DAY + hour * HOUR - 0.1), at(DAY + hour * HOUR)
    assert shown(diff(before, after)) == expected


def test_the_day_ends_as_it_began_and_only_balances_differ() -> None:
    changes = diff(at(DAY), at(DAY + 59.9))
    assert changes
    assert shown(changes) == []
    assert not any(change.regrouped for change in changes if isinstance(change, BalanceChanged))
    assert diff(at(DAY), at(DAY + 60)), "the next day has other balances"


def test_every_pool_is_updated_and_a_regrouped_one_is_no_plain_fall() -> None:
    seen: Counter[bool] = Counter()
    for hour in range(24):
        before, after = at(DAY + hour * HOUR), at(DAY + (hour + 1) * HOUR)
        changes = diff(before, after)
        moved = {change.symbol for change in changes if isinstance(change, SymbolMoved)}
        for change in changes:
            if isinstance(change, BalanceChanged):
                seen[change.regrouped] += 1
                assert change.after_time is not None
                assert change.after_time <= int((DAY + (hour + 1) * HOUR) * 1000)
                assert change.regrouped or not moved & set(change.pool.symbols)
    assert seen[True] >= 5
    assert seen[False] >= 24


def test_the_same_seed_gives_the_same_pools_at_the_same_time() -> None:
    one, other = Regrouping(7), Regrouping(7)
    other.pools(DAY)
    assert one.pools(DAY + 33) == other.pools(DAY + 33) != Regrouping(8).pools(DAY + 33)
    assert one.pools(DAY + 33) is one.pools(DAY + 34.9)
    assert shown(diff(at(86_400 * 3 - 1, Regrouping(day=86_400)), at(86_400 * 3))) == []


async def test_at_noon_the_exchange_is_not_there_for_two_hours_and_counts_nothing(
    runtime: Runtime,
) -> None:
    budget = LocalBudget(runtime=runtime)
    async with (
        Sandbox("regrouping", clock=wall_time) as exchange,
        InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client,
    ):
        await asyncio.sleep((29 - exchange.now) % 60)
        await client.fetch_snapshot()
        await asyncio.sleep(1.1)
        sent = len(exchange.requests)
        with pytest.raises(ServerError, match="503") as failed:
            await client.fetch_snapshot()
        assert failed.value.status == 503
        outage = exchange.requests[sent:]
        assert len(outage) > 1
        assert {seen.weight for seen in outage} == {0}
        exchange.inject(Fault.html())
        with pytest.raises(DecodeError):  # a fault that was injected goes first
            await client.fetch_pool("BTCUSDT")
        await asyncio.sleep((35 - exchange.now) % 60)
        assert "XRPUSDT" in await client.fetch_pool("BTCUSDT")


async def test_a_watch_sees_it_all_in_a_minute(runtime: Runtime) -> None:
    budget = LocalBudget(runtime=runtime)
    kinds: set[str] = set()
    missed = 0
    async with (
        Sandbox("regrouping", clock=wall_time) as exchange,
        InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client,
        client.watch(2) as updates,
    ):
        end = exchange.now + 62
        async for update in updates:
            kinds |= {type(change).__name__ for change in update.changes}
            missed += update.missed
            if exchange.now > end:
                break
    assert len(kinds) == 6
    assert 1 <= missed <= 4


def test_the_command_line_knows_every_scenario() -> None:
    for scenario in Scenario:
        Sandbox(scenario.value)
    assert Scenario("regrouping") in Scenario
