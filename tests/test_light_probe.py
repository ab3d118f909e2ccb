"""No heavy request is the probe: a light one goes first, once for all that wait."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from binance_insurance import (
    BudgetTimeoutError,
    ForbiddenError,
    InsuranceClient,
    InsuranceError,
    LocalBudget,
    RateLimitError,
    RetryPolicy,
    Runtime,
    ServerError,
    StatusError,
)
from binance_insurance.budget import Lease, SqliteBudget, WeightBudget
from binance_insurance.sandbox import Market, Sandbox

from .conftest import EPOCH, loop_time

SYMBOLS = [symbol for pool in Market().pools(0) for symbol in pool.symbols][:600]
PING = "https://fapi.binance.com/fapi/v1/ping"
SNAPSHOT = "https://fapi.binance.com/fapi/v1/insuranceBalance"
HELD = {"asset": "USDT", "marginBalance": "1", "updateTime": 1}
MakeBudget = Callable[[int], WeightBudget]


@pytest.fixture(params=["memory", "sqlite"])
def make_budget(request: pytest.FixtureRequest, tmp_path: Path) -> MakeBudget:
    """Make a budget of 2,400 with a reserve, in real time."""
    if request.param == "memory":
        return lambda reserve: LocalBudget(reserve=reserve)
    return lambda reserve: SqliteBudget(tmp_path / "budget.sqlite", reserve=reserve)


def weights(exchange: Sandbox) -> list[int]:
    return [seen.weight for seen in exchange.requests]


@pytest.mark.parametrize(
    ("used", "reserve"), [(2361, 0), (2370, 0), (2390, 0), (2399, 0), (1915, 480)]
)
def test_a_cold_snapshot_is_never_the_cause_of_a_refusal(
    make_budget: MakeBudget, used: int, reserve: int
) -> None:
    begin = time.monotonic()

    def clock() -> float:  # at second 10 of a minute
        return EPOCH - EPOCH % 60 + 10 + time.monotonic() - begin

    async def main() -> None:
        async with Sandbox("market", clock=clock) as exchange, make_budget(reserve) as budget:
            exchange.spend_elsewhere(used)
            async with InsuranceClient(exchange.url, budget=budget) as client:
                with pytest.raises(BudgetTimeoutError):
                    await client.fetch_snapshot(timeout=9)
            assert weights(exchange) == [1]
            assert exchange.accounting.verdicts == {200: 1}
            state = budget.state()
            assert state.used_weight == used + 1 <= 2400 - reserve

    asyncio.run(main())


def test_it_goes_once_for_all_that_wait(make_budget: MakeBudget) -> None:
    begin = time.monotonic()

    def clock() -> float:
        return EPOCH - EPOCH % 60 + 10 + time.monotonic() - begin

    async def main() -> None:
        async with (
            Sandbox("market", latency=0.05, clock=clock) as exchange,
            make_budget(480) as budget,
            InsuranceClient(exchange.url, budget=budget) as one,
            InsuranceClient(exchange.url, budget=budget) as two,
        ):
            clients = [one, two] * 5
            await asyncio.gather(*[client.fetch_snapshot() for client in clients])
            assert weights(exchange) == [1, 40, 40]
            assert {seen.endpoint for seen in exchange.requests[:1]} == {"ping"}

    asyncio.run(main())


async def test_a_cold_snapshot_costs_41_and_a_warm_one_40(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    await client.fetch_snapshot()
    stats = client.stats()
    assert (stats.requests_sent, stats.weight_spent, stats.retries) == (2, 41, 0)
    await client.fetch_snapshot()
    assert weights(exchange) == [1, 40, 40]
    await asyncio.sleep(6)
    await client.fetch_snapshot()
    assert weights(exchange) == [1, 40, 40, 1, 40], "the last answer is not recent any more"


async def test_600_cold_symbols_cost_41(exchange: Sandbox, client: InsuranceClient) -> None:
    assert len(await client.fetch_pools(SYMBOLS)) == 600
    assert exchange.accounting.weight == 41 == client.stats().weight_spent


async def test_what_weighs_1_needs_none(exchange: Sandbox, client: InsuranceClient) -> None:
    await client.fetch_request_weight()
    await asyncio.sleep(60)
    await client.fetch_pool("BTCUSDT")
    await client.fetch_snapshot()
    assert weights(exchange) == [1, 1, 40], "after a recent answer, neither does the snapshot"


async def test_a_snapshot_that_never_fits_fails_before_anything_is_sent(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = LocalBudget(30, reserve=0, runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        with pytest.raises(BudgetTimeoutError, match="never fits"):
            await client.fetch_snapshot()
    assert weights(exchange) == []


async def test_a_light_request_that_fails_is_a_failed_attempt_whose_report_counts(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(PING, status=503, headers={"X-MBX-USED-WEIGHT-1M": "70"})
    mocked(SNAPSHOT, payload=[{"symbols": ["A"], "assets": [HELD]}])
    budget = LocalBudget(runtime=runtime)
    async with InsuranceClient(budget=budget, runtime=runtime) as client:
        assert "A" in (await client.fetch_snapshot())["A"]
        stats = client.stats()
    assert (stats.requests_sent, stats.retries, stats.weight_spent) == (2, 1, 41)
    assert budget.state().used_weight == 70, "so no second light request was needed"


@pytest.mark.parametrize(
    ("status", "kind", "attempts"), [(503, ServerError, 2), (403, ForbiddenError, 1)]
)
async def test_its_error_is_the_error_of_the_call(
    mocked: Callable[..., None],
    runtime: Runtime,
    status: int,
    kind: type[StatusError],
    attempts: int,
) -> None:
    mocked(PING, status=status, repeat=True)
    budget, retry = LocalBudget(runtime=runtime), RetryPolicy(max_attempts=2)
    async with InsuranceClient(budget=budget, retry=retry, runtime=runtime) as client:
        with pytest.raises(kind, match=f"HTTP {status}") as caught:
            await client.fetch_snapshot()
        stats = client.stats()
    assert caught.value.status == status
    assert (stats.requests_sent, stats.retries) == (attempts, attempts - 1)


async def test_a_light_request_that_is_refused_freezes_the_budget(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.spend_elsewhere(2400)
    with pytest.raises(RateLimitError):
        await client.fetch_snapshot(timeout=5)
    assert weights(exchange) == [1]
    assert len(await client.fetch_snapshot()) > 50
    assert exchange.accounting.verdicts[429] == 1


@pytest.mark.parametrize("header", ["missing", "minus-one"])
async def test_where_no_answer_reports_used_weight_the_snapshot_follows_three(
    exchange: Sandbox, client: InsuranceClient, header: Any
) -> None:
    exchange.used_weight_header = header
    await client.fetch_snapshot()
    assert weights(exchange) == [1, 1, 1, 40]


class Distrustful(LocalBudget):
    """Believes no answer, so that each grant is a probe."""

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        lease = await super().acquire(weight, timeout=timeout)
        lease.number = lease.number or 99
        return lease


async def test_light_requests_that_bring_no_trust_become_rare(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = Distrustful(runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        with pytest.raises(InsuranceError):
            await client.fetch_snapshot(timeout=50)
    assert loop_time() == pytest.approx(50, abs=0.1)
    assert weights(exchange) == [1] * 3 + [1] * 3, "up to a quarter of a minute apart"


async def test_at_the_very_start_of_a_window_a_snapshot_waits_for_its_rollover_alone(
    runtime: Runtime,
) -> None:
    def clock() -> float:  # 0.3 s into a minute
        return EPOCH - EPOCH % 60 + 0.3 + loop_time()

    budget = LocalBudget(runtime=runtime)
    async with (
        Sandbox("market", clock=clock) as exchange,
        InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client,
    ):
        await client.fetch_snapshot()
        await asyncio.sleep(60 - loop_time())
        began = loop_time()
        await client.fetch_snapshot()
        assert loop_time() - began <= 3, "not a part of a window by chance"
