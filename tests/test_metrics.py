"""What the collector exposes: what is known, exactly once, and nothing else."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from datetime import UTC, datetime
from decimal import Decimal
from math import isclose
from typing import Self, cast

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from binance_insurance import (
    AssetBalance,
    BudgetState,
    ClientStats,
    InsuranceClient,
    InsurancePool,
    InsuranceSnapshot,
    LocalBudget,
    WeightBudget,
)
from binance_insurance.errors import InsuranceError
from binance_insurance.metrics import InsuranceCollector
from binance_insurance.sandbox import Fault, Sandbox

from .exchange import offset_to_begin
from .scripts import script

PREFIX = "binance_insurance_"
Labels = tuple[str, ...]


def scraped(collector: InsuranceCollector) -> dict[str, dict[Labels, float]]:
    """All values, by metric and by the values of the labels in order of their names."""
    found: dict[str, dict[Labels, float]] = {}
    for metric in collector.collect():
        for sample in metric.samples:
            labels = tuple(value for _, value in sorted(sample.labels.items()))
            series = found.setdefault(sample.name.removeprefix(PREFIX), {})
            assert labels not in series, "Prometheus refuses a series that is there twice"
            series[labels] = sample.value
    return found


def value(collector: InsuranceCollector, name: str) -> float | None:
    """The value of a metric without labels; None where it is absent."""
    return scraped(collector).get(name, {}).get(())


async def test_what_is_not_known_is_absent(client: InsuranceClient) -> None:
    assert scraped(InsuranceCollector(client)) == {
        "requests_sent_total": {(): 0},
        "retries_total": {(): 0},
        "calls_shared_total": {(): 0},
        "weight_spent_total": {(): 0},
        "weight_limit": {(): 2400},
        "weight_reserve": {(): 480},
        "weight_available": {(): 1920},
        "weight_in_flight": {(): 0},
        "callers_waiting": {(): 0},
        "ip_banned": {(): 0},
        "ip_frozen": {(): 0},
    }


class Told:
    """A client and its budget, of which each number is another one."""

    stats = staticmethod(
        lambda: ClientStats(
            requests_sent=1, retries=2, calls_shared=3, weight_spent=4, used_weight=5
        )
    )

    @property
    def budget(self) -> Self:
        return self

    def state(self) -> BudgetState:
        return BudgetState(
            limit=6,
            reserve=7,
            used_weight=8,
            available=9,
            in_flight=10,
            waiting=11,
            resets_at=None,
            frozen_until=None,
            banned_until=datetime(2026, 11, 28, tzinfo=UTC),
        )


def test_each_metric_shows_its_own_number() -> None:
    assert scraped(InsuranceCollector(cast("InsuranceClient", Told()))) == {
        "requests_sent_total": {(): 1},
        "retries_total": {(): 2},
        "calls_shared_total": {(): 3},
        "weight_spent_total": {(): 4},
        "weight_limit": {(): 6},
        "weight_reserve": {(): 7},
        "weight_used": {(): 8},
        "weight_available": {(): 9},
        "weight_in_flight": {(): 10},
        "callers_waiting": {(): 11},
        "ip_banned": {(): 1},
        "ip_frozen": {(): 0},
    }


async def test_a_snapshot_is_one_series_for_each_asset_of_each_pool(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    collector = InsuranceCollector(client)
    snapshot = await client.fetch_snapshot()
    collector.observe(snapshot)
    sent = len(exchange.requests)
    found = scraped(collector)
    assert len(exchange.requests) == sent, "a scrape sends nothing"
    assert len(found["pool_balance"]) == sum(len(pool.assets) for pool in snapshot) == 63
    for asset, total in snapshot.totals().items():
        amounts = [amount for labels, amount in found["pool_balance"].items() if labels[0] == asset]
        assert isclose(sum(amounts), total, rel_tol=1e-12)
    # Each symbol leads to its pool.
    assert len(found["pool_symbol"]) == sum(len(pool.symbols) for pool in snapshot)
    for pool, symbol in found["pool_symbol"]:
        for held in snapshot[symbol].assets:
            assert found["pool_balance"][held.asset, pool] == float(held.margin_balance)
    assert found["observed_timestamp_seconds"] == {(): snapshot.observed_at.timestamp()}
    assert (found["weight_spent_total"], found["weight_used"]) == ({(): 41}, {(): 41})


async def test_the_newest_snapshot_takes_the_place_of_the_last(client: InsuranceClient) -> None:
    def snapshot(*names: str) -> InsuranceSnapshot:
        balance = AssetBalance("USDT", Decimal("0.1"), 0)
        pools = tuple(InsurancePool(tuple(each), (balance,)) for each in names)
        return InsuranceSnapshot(pools, datetime(2026, 11, 28, tzinfo=UTC))

    collector = InsuranceCollector(client)
    collector.observe(snapshot("AB", "C"))
    first = scraped(collector)["pool_balance"]
    collector.observe(snapshot("A", "BC"))  # a regrouping: other pools, and no fall of one
    assert not first.keys() & scraped(collector)["pool_balance"].keys()
    collector.observe(snapshot("AB", "BA", "C"))  # twice the same symbols
    twice = scraped(collector)
    assert twice["pool_balance"].keys() == first.keys()
    assert sorted(twice["pool_balance"].values()) == [0.1, 0.2]


async def test_what_is_no_snapshot_is_an_error_at_once(client: InsuranceClient) -> None:
    collector = InsuranceCollector(client)
    async with client.watch(60) as updates:
        update = await anext(updates)
    with pytest.raises(TypeError, match=r"such as update\.snapshot, not Update"):
        collector.observe(update)  # type: ignore[arg-type]
    assert "pool_balance" not in scraped(collector)


@pytest.mark.parametrize(("status", "refused"), [(429, "ip_frozen"), (418, "ip_banned")])
async def test_a_freeze_and_a_ban_are_1_until_they_end(
    exchange: Sandbox, client: InsuranceClient, status: int, refused: str
) -> None:
    collector = InsuranceCollector(client)
    exchange.inject(Fault.of_status(status, b"", {"Retry-After": "300"}))
    with pytest.raises(InsuranceError):
        await client.fetch_pool("BTCUSDT", timeout=5)
    assert value(collector, refused) == 1
    assert value(collector, "weight_available") == 0
    await asyncio.sleep(310)
    assert value(collector, refused) == 0


async def test_prometheus_registers_and_reads_it(client: InsuranceClient) -> None:
    registry = CollectorRegistry(auto_describe=True)
    registry.register(collector := InsuranceCollector(client))
    assert collector.describe() == [], "registering asks for no values"
    text = generate_latest(registry).decode()
    assert "# TYPE binance_insurance_retries_total counter\n" in text
    assert "\nbinance_insurance_weight_limit 2400.0\n" in text


class Threads(LocalBudget):
    """Knows in which threads its state was asked for."""

    def __init__(self) -> None:
        super().__init__()
        self.asked: list[int] = []

    def state(self) -> BudgetState:
        self.asked.append(threading.get_ident())
        return super().state()


class Own:
    """A budget of a user's own: no more than the protocol."""

    def __init__(self, budget: LocalBudget) -> None:
        self._budget = budget

    def __getattr__(self, name: str) -> object:
        return getattr(self._budget, name) if name in dir(WeightBudget) else None


def test_a_scrape_from_a_thread_reads_the_budget_in_its_event_loop() -> None:
    async def main(budget: Threads, given: WeightBudget) -> Iterator[int]:
        async with (
            Sandbox(clock_offset=offset_to_begin()) as exchange,
            InsuranceClient(exchange.url, budget=given) as client,
        ):
            await client.fetch_pool("BTCUSDT")
            collector = InsuranceCollector(client)
            assert await asyncio.to_thread(value, collector, "weight_used") == 1
        return iter(budget.asked)

    ours, foreign = Threads(), Threads()
    assert set(asyncio.run(main(ours, ours))) == {threading.get_ident()}
    own = cast("WeightBudget", Own(foreign))
    assert threading.get_ident() not in asyncio.run(main(foreign, own))


WITHOUT = """
import sys
import binance_insurance
print([name for name in ("pytest", "prometheus_client", "matplotlib", "pandas", "pydantic")
       if name in sys.modules])
sys.modules["prometheus_client"] = None
try:
    import binance_insurance.metrics
except ModuleNotFoundError as error:
    print(error)
"""


def test_the_core_does_without_prometheus_and_says_what_is_missing() -> None:
    assert script(WITHOUT) == (
        "[]\nbinance_insurance.metrics needs prometheus_client: "
        "pip install 'binance-insurance[metrics]'\n"
    )
