"""A granted request asks the budget again before it is sent, and each lease comes back once."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import pytest

from binance_insurance import (
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    IPBannedError,
    LocalBudget,
    Runtime,
)
from binance_insurance.budget import Lease, Report
from binance_insurance.sandbox import Fault, Market, Sandbox

from .conftest import Singles, loop_time, wall_time

NAMES = [f"S{number}USDT" for number in range(40)]


@pytest.fixture
async def exchange() -> AsyncIterator[Sandbox]:
    async with Sandbox(Singles(40), latency=0.05, clock=wall_time) as sandbox:
        yield sandbox


class Counting(LocalBudget):
    """Counts the leases that have not come back; a test may take back its word."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.open = 0
        self.broken: list[Lease] = []
        self.breaks = 0

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        lease = await super().acquire(weight, timeout=timeout)
        self.open += 1
        return lease

    def confirm(self, lease: Lease) -> bool:
        if len(self.broken) < self.breaks:
            self.broken.append(lease)
            return False
        return super().confirm(lease)

    def settle(self, lease: Lease, report: Report | None) -> None:
        self.open -= lease.open
        super().settle(lease, report)

    def release(self, lease: Lease) -> None:
        self.open -= lease.open
        super().release(lease)


@pytest.mark.parametrize(("status", "seconds"), [(418, 5), (429, 2)])
@pytest.mark.parametrize("good", [1, 10])
async def test_what_waits_for_a_slot_is_not_sent_after_a_refusal(
    exchange: Sandbox, runtime: Runtime, status: int, seconds: int, good: int
) -> None:
    refusal = Fault.of_status(status, headers={"Retry-After": str(seconds)})
    exchange.inject(*[Fault()] * good, refusal)
    budget = Counting(runtime=runtime)
    async with InsuranceClient(
        exchange.url, budget=budget, max_concurrency=4, runtime=runtime
    ) as client:
        calls = [asyncio.create_task(client.fetch_pool(name)) for name in NAMES]
        results = await asyncio.gather(*calls, return_exceptions=True)
        assert budget.open == 0
    refused_at = exchange.requests[good].at + 0.05
    late = [seen.at for seen in exchange.requests if refused_at + 0.1 < seen.at]
    assert min(late, default=refused_at + seconds) >= refused_at + seconds
    assert {type(each) for each in results} <= {InsurancePool, IPBannedError}
    errors = [each for each in results if isinstance(each, InsuranceError)]
    assert len(errors) >= 40 - good - 4 if status == 418 else errors == []
    assert [str(error).split(":")[0] for error in errors] == [error.symbol for error in errors]


async def test_a_grant_that_does_not_hold_is_given_back_and_waits_again(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = Counting(runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        await client.fetch_pool("S0USDT")
        budget.breaks = 3
        assert "S1USDT" in await client.fetch_pool("S1USDT")
        assert len(await client.fetch_snapshot()) == 40
        assert (await client.fetch_request_weight()).used_weight == 43
        stats = client.stats()
    assert [lease.weight for lease in budget.broken] == [1, 1, 1]
    assert (stats.requests_sent, stats.retries, stats.weight_spent) == (4, 0, 43)
    assert (budget.open, budget.state().in_flight) == (0, 0)


async def test_while_it_waits_again_another_answer_completes_it(runtime: Runtime) -> None:
    names = Market().pools(0)[0].symbols[:3]
    budget = Counting(runtime=runtime)
    async with (
        Sandbox("market", clock=wall_time) as exchange,
        InsuranceClient(exchange.url, budget=budget, max_concurrency=2, runtime=runtime) as client,
    ):
        await client.fetch_request_weight()
        latencies = iter([0.1, 0.5])
        exchange.latency = lambda: next(latencies)
        one, two, three = [
            asyncio.create_task(client.fetch_pool(names[number])) for number in (0, 1, 2)
        ]
        await asyncio.sleep(0.05)
        taken = await budget.acquire(budget.state().available)
        other = asyncio.create_task(budget.acquire())  # gets what the third gives back
        budget.breaks = 1  # the third has weight, and waits for the slot of the first
        await asyncio.wait([one, two, three])
        assert three.result() is two.result() is not one.result()
        assert [lease.weight for lease in budget.broken] == [1]
        assert len(exchange.requests) == 3
        budget.release(taken)
        budget.release(await other)
        assert budget.open == 0


class OfVersion010:
    """What a budget had to have in version 0.1.0: neither `confirm` nor `serve`."""

    def __init__(self, budget: LocalBudget) -> None:
        for name in ("interval", "capacity", "acquire", "settle", "release", "check", "state"):
            setattr(self, name, getattr(budget, name))


async def test_a_budget_written_for_0_1_0_works(exchange: Sandbox, runtime: Runtime) -> None:
    budget = LocalBudget(runtime=runtime)
    old: Any = OfVersion010(budget)
    async with InsuranceClient(exchange.url, budget=old, runtime=runtime) as client:
        pools = await client.fetch_pools(NAMES[:20])
        assert list(pools) == NAMES[:20]
    assert budget.state().in_flight == 0


async def test_a_defect_in_reading_an_answer_loses_no_lease(
    exchange: Sandbox, runtime: Runtime
) -> None:
    wrong = [True]

    def wall() -> float:
        if wrong:
            raise ArithmeticError(wrong.pop())
        return wall_time()

    budget = Counting(runtime=runtime)
    defective = Runtime(monotonic=loop_time, wall=wall, random=lambda: 1.0)
    async with InsuranceClient(exchange.url, budget=budget, runtime=defective) as client:
        with pytest.raises(ArithmeticError):
            await client.fetch_pool("S0USDT")
        assert budget.open == 0
        await asyncio.sleep(60)
        await client.fetch_pool("S1USDT")
    assert budget.state().in_flight == 0, "a later answer has proved what became of it"


@pytest.mark.parametrize("moment", range(0, 60, 3))
async def test_a_call_that_is_cancelled_at_any_moment_loses_no_lease(
    exchange: Sandbox, runtime: Runtime, moment: int
) -> None:
    budget = Counting(runtime=runtime)
    budget.breaks = 2
    async with InsuranceClient(
        exchange.url, budget=budget, max_concurrency=1, runtime=runtime
    ) as client:
        calls = [asyncio.create_task(client.fetch_pool(name)) for name in NAMES[:3]]
        for _ in range(moment):
            await asyncio.sleep(0)
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        for _ in range(9):
            await asyncio.sleep(0)
        assert budget.open == 0
        budget.breaks = 0
        assert "S0USDT" in await client.fetch_pool("S0USDT")
        assert budget.open == 0
