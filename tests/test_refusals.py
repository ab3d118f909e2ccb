"""After a refusal nothing leaves before its end, with every budget: the exchange is silent."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from binance_insurance import (
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    LocalBudget,
    SqliteBudget,
)
from binance_insurance.budget import RedisBudget
from binance_insurance.sandbox import Fault, Sandbox

from .conftest import IN_CAMPAIGN, SERVERS, Singles, StartServer
from .scale import sample

AnyBudget = LocalBudget | SqliteBudget | RedisBudget
MakeBudget = Callable[[], AnyBudget]
LATENCY = 0.05
# A second is enough to show it; as long as in real life in the campaign.
FREEZE, BAN = sample(1, 2), sample(1, 5)


@pytest.fixture(
    params=["memory", *(pytest.param(kind, marks=IN_CAMPAIGN) for kind in ("sqlite", "redis"))]
)
def make_budget(
    request: pytest.FixtureRequest, tmp_path: Path, redis_servers: StartServer
) -> MakeBudget:
    """Budgets of 2,400 a minute, nothing reserved; those of one test share a ledger."""
    if request.param == "memory":
        return lambda: LocalBudget(reserve=0)
    if request.param == "sqlite":
        return lambda: SqliteBudget(tmp_path / "budget.sqlite", reserve=0)
    url, group = redis_servers(next(iter(SERVERS))).url, str(tmp_path)
    return lambda: RedisBudget(url, reserve=0, group=group)


@pytest.mark.campaign
@pytest.mark.parametrize(("status", "seconds"), [(418, BAN), (429, FREEZE)])
def test_requests_that_wait_for_a_slot_are_not_sent_after_a_refusal(
    make_budget: MakeBudget, status: int, seconds: int
) -> None:
    async def main() -> None:
        async with (
            Sandbox(Singles(60), latency=LATENCY) as exchange,
            make_budget() as budget,
            InsuranceClient(exchange.url, budget=budget, max_concurrency=4) as client,
        ):
            await client.fetch_pool("S59USDT")
            refusal = Fault.of_status(status, b"", {"Retry-After": str(seconds)})
            exchange.inject(Fault(), Fault(), refusal)
            calls = [client.fetch_pool(f"S{number}USDT") for number in range(40)]
            results = await asyncio.gather(*calls, return_exceptions=True)
            assert all(isinstance(each, InsurancePool | InsuranceError) for each in results)
            failed = [each for each in results if isinstance(each, InsuranceError)]
            assert bool(failed) is (status == 418)
            state = budget.state()
            assert state.in_flight == 0, "what was not sent is given back"
            if status == 418:
                await asyncio.sleep(seconds / 2)
            refused_at = exchange.requests[3].at + LATENCY
            early = [
                each.at - refused_at
                for each in exchange.requests
                if refused_at + 0.1 < each.at < refused_at + seconds
            ]
            assert early == []
            assert exchange.accounting.verdicts[429] == exchange.accounting.verdicts[418] == 0

    asyncio.run(main())


def test_a_ban_without_any_end_is_kept_by_every_call_and_client(make_budget: MakeBudget) -> None:
    async def main() -> None:
        async with (
            Sandbox(Singles(9)) as exchange,
            make_budget() as budget,
            InsuranceClient(exchange.url, budget=budget) as client,
            InsuranceClient(exchange.url, budget=budget) as other,
        ):
            await client.fetch_pool("S0USDT")
            exchange.inject(Fault.of_status(418, b"<html>"))
            began = time.time()
            for asker in (client, other, client):
                with pytest.raises(InsuranceError):
                    await asker.fetch_pool("S1USDT")
                with pytest.raises(InsuranceError):
                    await asker.fetch_snapshot()
            banned_until = budget.state().banned_until
            assert banned_until is not None
            assert 119 <= banned_until.timestamp() - began <= 123
            assert len(exchange.requests) == 2

    asyncio.run(main())
