"""A watch asks on a fixed schedule, and says when nobody was looking."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from random import Random
from typing import Any

import pytest

from binance_insurance import (
    AssetBalance,
    ClientClosedError,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    InsuranceSnapshot,
    InvalidSymbolError,
    IPBannedError,
    LocalBudget,
    RetryPolicy,
    Runtime,
)
from binance_insurance.changes import BalanceChanged, SymbolMoved
from binance_insurance.sandbox import Fault, Sandbox, Scenario
from binance_insurance.watch import Watch

from .conftest import loop_time, wall_time
from .scale import sample

UPDATED = 1745366402000


def pool(*symbols: str, usdt: str = "1") -> InsurancePool:
    return InsurancePool(symbols, (AssetBalance("USDT", Decimal(usdt), UPDATED),))


class Pools(Scenario):
    """Pools that a test changes."""

    def __init__(self) -> None:
        self.now = [pool("A", "B"), pool("C")]

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        return tuple(self.now)


class World:
    """An exchange and a client of it in virtual time."""

    def __init__(self, runtime: Runtime) -> None:
        self.scenario = Pools()
        self.jump = 0.0  # of the exchange's clock
        self.exchange = Sandbox(self.scenario, clock=lambda: wall_time() + self.jump)
        self.runtime = runtime

    @property
    def sent(self) -> int:
        """Requests for pools."""
        return len([each for each in self.exchange.requests if each.endpoint == "insuranceBalance"])


@pytest.fixture
async def world(runtime: Runtime) -> AsyncIterator[World]:
    made = World(runtime)
    async with made.exchange:
        yield made


@asynccontextmanager
async def watching(world: World, every: float = 60.0, **options: Any) -> AsyncGenerator[Watch]:
    budget = LocalBudget(runtime=world.runtime)
    async with (
        InsuranceClient(
            world.exchange.url,
            budget=budget,
            retry=RetryPolicy(max_attempts=1),
            runtime=world.runtime,
            max_age=1000,
        ) as client,
        client.watch(every, **options) as updates,
    ):
        yield updates
    left = asyncio.all_tasks() - {asyncio.current_task()}
    assert not [task for task in left if "Requests" in repr(task)]


async def test_the_first_tick_is_at_once_and_the_next_on_time(world: World) -> None:
    async with watching(world) as updates:
        start = loop_time()
        first = await anext(updates)
        assert (first.changes, first.missed, first.since) == ((), 0, None)
        assert first.snapshot.complete
        world.scenario.now[0] = pool("A", "B", usdt="3")
        await asyncio.sleep(30)
        second = await anext(updates)
        assert loop_time() - start == pytest.approx(60, abs=0.1)
        assert second.since == first.observed_at
        (change,) = second.changes
        assert isinstance(change, BalanceChanged)
        assert (change.delta, change.regrouped) == (Decimal(2), False)


async def test_a_snapshot_to_compare_the_first_update_with(world: World) -> None:
    async with watching(world) as updates:
        before = (await anext(updates)).snapshot
    world.scenario.now[1] = pool("C", usdt="9")
    async with watching(world, since=before) as updates:
        first = await anext(updates)
    assert [type(change) for change in first.changes] == [BalanceChanged]
    assert (first.missed, first.since) == (0, None)


@pytest.mark.campaign
async def test_a_thousand_ticks_neither_drift_nor_miss(world: World) -> None:
    random, every, ticks = Random(7), 20.0, sample(200, 1000)
    async with watching(world, every) as updates:
        start, answer, late = wall_time(), 0.0, 0.0
        for tick in range(ticks):
            world.exchange.latency = 0.3 * every * random.random()  # of one of two requests or more
            sent, began = len(world.exchange.requests), loop_time()
            update = await anext(updates)
            asked = world.exchange.requests[sent].at
            late = asked - (start + tick * every)
            assert -0.01 <= late <= answer + 0.01
            answer = wall_time() - asked
            assert loop_time() - began <= every + answer
            assert update.missed == 0
            await asyncio.sleep(max(0.0, 0.9 * every * random.random() - answer))
        assert updates.status.missed == 0
        world.exchange.latency = 0.0
        sent = len(world.exchange.requests)
        await anext(updates)
        asked = world.exchange.requests[sent].at
        assert asked - start == pytest.approx(ticks * every, abs=0.01), "no drift"


async def test_a_tick_is_late_by_no_more_than_the_answer_before_it(world: World) -> None:
    async with watching(world, 10) as updates:
        start = loop_time()
        await anext(updates)
        world.exchange.latency = 6.0  # two requests of 6 s: the answer takes longer than a tick
        assert (await anext(updates)).missed == 0
        assert loop_time() - start == pytest.approx(22, abs=0.01)
        world.exchange.latency = 0.0
        assert (await anext(updates)).missed == 0
        assert loop_time() - start == pytest.approx(22, abs=0.01), "at once"
        assert (await anext(updates)).missed == 0
        assert loop_time() - start == pytest.approx(30, abs=0.01)


FAULTS = [
    Fault.of_status(503),
    Fault.of_status(403),
    Fault.html(),
    Fault.reset(),
]


@pytest.mark.parametrize("fault", FAULTS, ids=["503", "403", "html", "reset"])
async def test_ticks_without_an_observation_are_missed(world: World, fault: Fault) -> None:
    async with watching(world) as updates:
        await anext(updates)
        world.exchange.inject(*[fault] * 3)
        step = asyncio.create_task(anext(updates))
        await asyncio.sleep(150)  # two ticks have failed
        status = updates.status
        assert status.missed == 2
        assert status.blind_since is not None
        assert status.observed_at is not None
        assert (status.blind_since - status.observed_at).total_seconds() == pytest.approx(60, abs=2)
        assert isinstance(status.error, InsuranceError)
        update = await step
        assert (update.missed, update.since) == (3, None)
        assert (updates.status.blind_since, updates.status.error) == (None, None)
        assert (await anext(updates)).since == update.observed_at


async def test_a_consumer_that_sleeps_over_five_ticks_misses_them(world: World) -> None:
    async with watching(world) as updates:
        await anext(updates)
        await asyncio.sleep(60 * 6 + 5)
        asked = loop_time()
        update = await anext(updates)
        assert loop_time() - asked < 1, "at once, for the newest tick"
        assert (update.missed, update.since) == (5, None)
        following = await anext(updates)
        assert loop_time() - asked == pytest.approx(55, abs=0.1)
        assert (following.missed, following.since) == (0, update.observed_at)


async def test_a_jump_of_the_exchange_s_clock_counts_as_missed_ticks(world: World) -> None:
    async with watching(world) as updates:
        await anext(updates)
        world.jump = 600.0
        update = await anext(updates)
        assert (update.missed, update.since) == (10, None)
        assert (await anext(updates)).missed == 0
        world.jump = 0.0
        assert (await anext(updates)).missed == 0


async def test_during_a_ban_nothing_is_sent_and_the_first_tick_after_it_asks(world: World) -> None:
    async with watching(world) as updates:
        await anext(updates)
        world.exchange.inject(Fault.of_status(418, headers={"Retry-After": "600"}))
        sent = world.sent
        step = asyncio.create_task(anext(updates))
        await asyncio.sleep(300)
        assert isinstance(updates.status.error, IPBannedError)
        assert updates.status.blind_since is not None
        update = await step
        assert world.sent == sent + 2, "the one that met it, and the one after it"
        assert 660 <= loop_time() <= 722
        assert update.missed == pytest.approx(10, abs=1)


async def test_a_failed_hourly_tick_is_asked_again_within_a_minute(world: World) -> None:
    async with watching(world, 3600) as updates:
        await anext(updates)
        world.exchange.inject(Fault.of_status(503), Fault.of_status(503))
        update = await anext(updates)
        assert loop_time() == pytest.approx(3600 + 120, abs=1)
        assert update.missed == 0, "the tick brought its observation in the end"
        await anext(updates)
        assert loop_time() == pytest.approx(7200, abs=1)


async def test_a_cancelled_step_loses_nothing(world: World) -> None:
    world.exchange.latency = 0.5
    async with watching(world) as updates:
        phase = wall_time() % 60
        await anext(updates)
        for steps in range(0, 60, 3):
            number = Decimal(steps + 10)
            world.scenario.now[0] = pool("A", "B", usdt=str(number))
            step = asyncio.create_task(anext(updates))
            await asyncio.sleep(0 if steps % 2 else 60 - loop_time() % 60)
            for _ in range(steps):
                await asyncio.sleep(0)
            step.cancel()
            with pytest.raises(asyncio.CancelledError):
                await step
            begun = loop_time()
            update = await anext(updates)
            assert loop_time() - begun <= 60.6
            (change,) = update.changes
            assert isinstance(change, BalanceChanged)
            assert change.after == number
            assert update.missed == 0
        sent = len(world.exchange.requests)
        await anext(updates)
        assert world.exchange.requests[sent].at % 60 == pytest.approx(phase, abs=0.01)


async def test_one_consumer_at_a_time_and_none_after_the_block(world: World) -> None:
    async with watching(world) as updates:
        await anext(updates)
        step = asyncio.create_task(anext(updates))
        await asyncio.sleep(1)
        with pytest.raises(RuntimeError, match="one consumer"):
            await anext(updates)
    with pytest.raises(StopAsyncIteration):
        await step
    with pytest.raises(StopAsyncIteration):
        await anext(updates)
    assert [update async for update in updates] == []


async def test_a_closed_client_ends_it(world: World) -> None:
    client = InsuranceClient(world.exchange.url, runtime=world.runtime)
    updates = client.watch(60)
    await anext(updates)
    await client.aclose()
    with pytest.raises(ClientClosedError):
        await anext(updates)


async def test_symbols_cost_one_request_for_each_of_their_pools(world: World) -> None:
    async with watching(world, symbols=["a", "B", "C"]) as updates:
        first = await anext(updates)
        assert not first.snapshot.complete
        sent = world.sent
        await anext(updates)
        assert world.sent == sent + 2
        world.scenario.now = [pool("B"), pool("C", "A")]
        update = await anext(updates)
        moved = [change for change in update.changes if isinstance(change, SymbolMoved)]
        assert [change.symbol for change in moved] == ["A"]
        world.scenario.now = [pool("C", "A")]
        for _ in range(2):
            update = await anext(updates)
            assert "B" not in update.snapshot
            assert (update.missed, updates.status.missed) == (0, 0)


async def test_a_symbol_that_never_was_ends_it_and_is_named(world: World) -> None:
    async with watching(world, symbols=["A", "NEVER"]) as updates:
        with pytest.raises(InvalidSymbolError, match="NEVER"):
            await anext(updates)


@pytest.mark.parametrize("every", [0, -1, float("nan"), float("inf"), "1", None])
async def test_bad_numbers_are_refused_before_anything_is_sent(every: Any) -> None:
    with pytest.raises(ValueError, match="every"):
        InsuranceClient().watch(every)


@pytest.mark.parametrize("symbols", [[], [""], ["A B"], ["X" * 65], "BTCUSDT", [5], 5])
async def test_bad_symbols_are_refused_before_anything_is_sent(symbols: Any) -> None:
    with pytest.raises(ValueError, match="symbol"):
        InsuranceClient().watch(symbols=symbols)


async def test_since_is_a_snapshot() -> None:
    since: Any = 5
    with pytest.raises(ValueError, match="since"):
        InsuranceClient().watch(since=since)


class Slow(InsuranceClient):
    """Its answers take their time after the exchange's date."""

    async def fetch_snapshot(self, **options: Any) -> InsuranceSnapshot:
        snapshot = await super().fetch_snapshot(**options)
        await asyncio.sleep(1.7 * (int(loop_time()) // 2 % 2))
        return snapshot


async def test_an_answer_that_takes_long_after_its_date_is_no_missed_tick(world: World) -> None:
    async with (
        Slow(world.exchange.url, runtime=world.runtime) as client,
        client.watch(2) as updates,
    ):
        missed = [(await anext(updates)).missed for _ in range(10)]
    assert missed == [0] * 10


async def test_it_is_blind_since_the_first_missed_tick_was_due(world: World) -> None:
    async with watching(world) as updates:
        first = await anext(updates)
        assert updates.status.blind_since is None
        await asyncio.sleep(60 * 3 + 5)  # nobody pulls
        status = updates.status
        assert (status.missed, status.error) == (2, None)
        assert status.blind_since is not None
        blind = (status.blind_since - first.observed_at).total_seconds()
        assert blind == pytest.approx(60, abs=1.1)
        world.exchange.inject(Fault.of_status(403))
        step = asyncio.create_task(anext(updates))
        await asyncio.sleep(1)
        assert updates.status.missed == 3
        assert updates.status.blind_since == status.blind_since
        assert (await step).missed == 3
