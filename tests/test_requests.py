"""Many symbols for little weight, and overlapping calls that share requests, over TCP."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Sequence
from decimal import Decimal
from functools import partial
from math import inf
from typing import Any

import pytest

from binance_insurance import (
    AssetBalance,
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
    ClientClosedError,
    ConnectError,
    DecodeError,
    ForbiddenError,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    InvalidSymbolError,
    IPBannedError,
    LocalBudget,
    RequestTimeoutError,
    Runtime,
    TransportError,
)
from binance_insurance.budget import Report
from binance_insurance.sandbox import Fault, Market, Sandbox, Scenario

from .conftest import Singles, loop_time, wall_time

NAMES = [f"S{number}USDT" for number in range(1, 41)]
SYMBOLS = [symbol for pool in Market().pools(0) for symbol in pool.symbols]


class Moving(Scenario):
    """Two pools; a test moves symbols between them."""

    def __init__(self) -> None:
        self.groups = [["A", "B", "C"], ["D", "E"]]

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        held = (AssetBalance("USDT", Decimal(1), int(at * 1000)),)
        return tuple(InsurancePool(tuple(group), held) for group in self.groups)


async def test_600_symbols_cost_41_and_then_at_most_1_for_each_pool(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    pools = await client.fetch_pools(SYMBOLS[:600])
    assert list(pools) == SYMBOLS[:600]
    assert all(symbol in pool for symbol, pool in pools.items())
    assert exchange.accounting.weight == 41
    again = await client.fetch_pools(SYMBOLS[:600])
    assert exchange.accounting.weight - 41 <= min(40, len(set(again.values())))
    assert len({id(pool) for pool in again.values()}) == len(set(again.values()))
    print(f"weight 41, then {exchange.accounting.weight - 41}")


async def test_a_call_for_each_symbol_of_the_exchange_at_once_costs_at_most_80(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    pools = await asyncio.gather(*(client.fetch_pool(symbol) for symbol in SYMBOLS))
    assert all(symbol in pool for symbol, pool in zip(SYMBOLS, pools, strict=True))
    assert exchange.accounting.weight <= 80
    assert exchange.accounting.verdicts == {200: len(exchange.requests)}
    print(f"{len(SYMBOLS)} symbols: weight {exchange.accounting.weight}")


async def test_ten_symbols_of_two_known_pools_take_two_requests(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    snapshot = await client.fetch_snapshot()
    first, second = snapshot[SYMBOLS[0]], snapshot[SYMBOLS[20]]
    before = len(exchange.requests)
    pools = await client.fetch_pools([*first.symbols[:5], *second.symbols[:5]])
    assert len(exchange.requests) - before == 2
    assert set(pools.values()) == {first, second}


async def test_a_few_symbols_of_unknown_pools_cost_at_most_8(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    await client.fetch_pools(SYMBOLS[:13])  # all of one pool
    assert exchange.accounting.weight <= 8


async def test_10_000_coroutines_on_600_symbols_cost_at_most_80(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    calls = [client.fetch_pool(SYMBOLS[number % 600]) for number in range(10_000)]
    pools = await asyncio.gather(*calls)
    assert all(SYMBOLS[number % 600] in pool for number, pool in enumerate(pools))
    assert exchange.accounting.weight <= 80
    assert client.stats().calls_shared >= 9_900
    print(f"weight {exchange.accounting.weight}, {len(exchange.requests)} requests")


async def test_a_symbol_that_no_pool_names_gets_the_error_of_the_exchange(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    with pytest.raises(BulkFetchError) as caught:
        await client.fetch_pools([*SYMBOLS[:100], "NOPE", "NADA"])
    assert len(caught.value.pools) == 100
    assert {name: type(e) for name, e in caught.value.errors.items()} == {
        "NOPE": InvalidSymbolError,
        "NADA": InvalidSymbolError,
    }
    assert exchange.accounting.weight == 43


async def test_a_symbol_that_moved_to_another_pool_is_requested_again(runtime: Runtime) -> None:
    market = Moving()
    async with (
        Sandbox(market, clock=wall_time) as exchange,
        InsuranceClient(exchange.url, runtime=runtime) as client,
    ):
        await client.fetch_pools(["A", "B", "C", "D", "E"])
        known = len(exchange.requests)
        market.groups = [["A", "B"], ["D", "E", "C"]]
        pools = await client.fetch_pools(["A", "B", "C"])
        assert pools["C"].symbols == ("D", "E", "C")
        assert len(exchange.requests) - known == 2


async def test_overlapping_calls_share_one_request(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.latency = 0.2
    same = await asyncio.gather(*[client.fetch_pool("BTCUSDT") for _ in range(50)])
    assert len(exchange.requests) == 1
    assert len({id(pool) for pool in same}) == 1
    await asyncio.gather(*[client.fetch_pool(symbol) for symbol in SYMBOLS[:13]])
    assert len(exchange.requests) == 2, "all of one pool, which is known now"
    assert client.stats().calls_shared == 49 + 12


async def test_a_snapshot_request_in_flight_answers_calls_for_symbols_too(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.latency = 0.2
    snapshots = [asyncio.create_task(client.fetch_snapshot()) for _ in range(2)]
    await asyncio.sleep(0.1)
    pool = await client.fetch_pool("BTCUSDT")
    with pytest.raises(InvalidSymbolError):
        await client.fetch_pool("NOPE")
    first, second = await asyncio.gather(*snapshots)
    assert first is second
    assert pool is first["BTCUSDT"]
    assert [seen.weight for seen in exchange.requests] == [1, 40, 1]


async def test_a_caller_that_leaves_does_not_affect_the_other_callers(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.latency = 0.5
    cancelled = asyncio.create_task(client.fetch_pool("BTCUSDT"))
    timed_out = asyncio.create_task(client.fetch_pool("BTCUSDT", timeout=0.2))
    staying = asyncio.create_task(client.fetch_pool("BTCUSDT"))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    with pytest.raises(RequestTimeoutError):
        await timed_out
    assert "BTCUSDT" in await staying
    assert len(exchange.requests) == 1


async def test_when_all_callers_have_left_the_request_is_cancelled_and_a_new_call_sends_its_own(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(Fault.stall())
    calls = [asyncio.create_task(client.fetch_pool("BTCUSDT")) for _ in range(3)]
    await asyncio.sleep(0.1)
    for call in calls:
        call.cancel()
    results = await asyncio.gather(*calls, return_exceptions=True)
    assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
    assert loop_time() < 1, "the new call did not join the stalled request"
    assert all(isinstance(result, asyncio.CancelledError) for result in results)
    assert client.budget.state().waiting == 0


async def test_each_caller_gets_its_own_error_with_its_own_symbol(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    await client.fetch_snapshot()
    exchange.inject(*[Fault.of_status(500)] * 4)
    results = await asyncio.gather(
        *[client.fetch_pool(symbol) for symbol in SYMBOLS[:3] * 2], return_exceptions=True
    )
    assert [getattr(error, "symbol", None) for error in results] == SYMBOLS[:3] * 2
    assert len({id(error) for error in results}) == 6


async def test_a_lighter_snapshot_request_replaces_waiting_requests(runtime: Runtime) -> None:
    async with Sandbox(Singles(300), clock=wall_time) as exchange:
        exchange.spend_elsewhere(1919)
        budget = LocalBudget(runtime=runtime)
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            await client.fetch_pool("S0USDT")
            calls = [
                asyncio.create_task(client.fetch_pool(f"S{n}USDT", timeout=None if n % 2 else 90))
                for n in range(300)
            ]
            unknown = asyncio.create_task(client.fetch_pool("NOPE"))
            await asyncio.sleep(1)
            calls.pop().cancel()
            with pytest.raises(BudgetTimeoutError):
                await client.fetch_pool("S1USDT", timeout=5)
            pools = await asyncio.gather(*calls)
            with pytest.raises(InvalidSymbolError):
                await unknown
        assert [pool.symbols[0] for pool in pools] == [f"S{n}USDT" for n in range(299)]
        # The snapshot request has to wait for the next window, where a light one goes first.
        assert [seen.weight for seen in exchange.requests] == [1, 1, 40, 1]
        assert exchange.accounting.verdicts == {200: 4}


async def test_a_failed_snapshot_request_does_not_fail_a_call_for_a_symbol(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.latency = 0.2
    exchange.inject(Fault.html())
    snapshot = asyncio.create_task(client.fetch_snapshot())
    await asyncio.sleep(0.1)
    assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
    assert snapshot.done()
    assert snapshot.exception() is not None


async def test_max_age_returns_recent_answers_without_a_request(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    snapshot = await client.fetch_snapshot()
    await asyncio.sleep(30)
    assert await client.fetch_snapshot(max_age=31) is snapshot
    assert await client.fetch_pool("btcusdt", max_age=31) is snapshot["BTCUSDT"]
    pools = await client.fetch_pools(SYMBOLS, max_age=31)
    assert len(pools) == len(SYMBOLS)
    assert len(exchange.requests) == 2, "a light one and the first snapshot"
    assert client.stats().calls_shared >= 3
    assert await client.fetch_pool("BTCUSDT", max_age=29) is not snapshot["BTCUSDT"]
    assert await client.fetch_pool("BTCUSDT") is not None
    assert len(exchange.requests) == 4
    pools = await client.fetch_pools(SYMBOLS[:20], max_age=20)
    assert len(exchange.requests) == 5, "the answer for one of the two pools is recent"
    assert await client.fetch_snapshot(max_age=29) is not snapshot
    with pytest.raises(ValueError, match="max_age"):
        await client.fetch_pool("BTCUSDT", max_age=-1)


async def test_max_age_counts_from_the_question_and_the_younger_question_wins(
    runtime: Runtime,
) -> None:
    market: Sandbox

    def latency() -> float:
        return 3.0 if market.requests[-1].symbol == "A" else 0.0

    async with (
        Sandbox(Moving(), clock=wall_time) as exchange,
        InsuranceClient(exchange.url, runtime=runtime) as client,
    ):
        await client.fetch_pool("D")
        market, exchange.latency = exchange, latency
        asked = asyncio.create_task(client.fetch_pool("A"))
        await asyncio.sleep(1)
        snapshot = await client.fetch_snapshot()
        answer = await asked
        assert loop_time() == pytest.approx(3, abs=0.01)
        assert answer.assets != snapshot["A"].assets
        assert await client.fetch_pool("A", max_age=2.5) is snapshot["A"]
        assert await client.fetch_pools(["A", "B"], max_age=2.5) == {
            "A": snapshot["A"],
            "B": snapshot["A"],
        }
        assert await client.fetch_snapshot(max_age=2.5) is snapshot
        await asyncio.sleep(0.5)
        before = len(exchange.requests)
        assert (await client.fetch_pool("A", max_age=0.3)).assets != snapshot["A"].assets
        assert len(exchange.requests) == before + 1
        # An answer is as old as its question, so this one, 3 s under way, is not recent.
        assert await client.fetch_pool("A", max_age=2.9) is not snapshot["A"]
        assert len(exchange.requests) == before + 2


class Flawed(Singles):
    """60 pools of 10 symbols, of which one is without assets."""

    def __init__(self) -> None:
        super().__init__(60)
        held = self._pools[0].assets
        self.symbols = [f"S{number}USDT" for number in range(600)]
        self._pools = tuple(
            InsurancePool(tuple(self.symbols[10 * n : 10 * n + 10]), () if n == 7 else held)
            for n in range(60)
        )


@pytest.fixture
async def flawed(runtime: Runtime) -> AsyncIterator[Sandbox]:
    async with Sandbox(Flawed(), clock=wall_time) as sandbox:
        yield sandbox


async def test_one_bad_pool_costs_its_own_symbols(flawed: Sandbox, runtime: Runtime) -> None:
    symbols, bad = Flawed().symbols, Flawed().symbols[70:80]
    async with InsuranceClient(flawed.url, runtime=runtime) as client:
        with pytest.raises(BulkFetchError) as caught:
            await client.fetch_pools(symbols)
        pools, errors = caught.value.pools, caught.value.errors
        assert list(pools) == [symbol for symbol in symbols if symbol not in bad]
        assert all(symbol in pool for symbol, pool in pools.items())
        assert list(errors) == bad == [error.symbol for error in errors.values()]
        assert {type(error) for error in errors.values()} == {DecodeError}
        asked = [seen.symbol for seen in flawed.requests]
        assert asked[:2] == [None, None], "the light one and the snapshot request"
        assert sorted(filter(None, asked[2:])) == sorted(bad)
        assert flawed.accounting.weight == 41 + 10
        with pytest.raises(DecodeError, match=r"length >= 1 - at `\$\[7\]\.assets`") as whole:
            await client.fetch_snapshot()
        assert len(whole.value.pools) == 59
        assert whole.value.pool_of(bad[0]) is None


async def test_a_call_that_joins_a_snapshot_with_a_bad_pool_gets_its_good_pool(
    flawed: Sandbox, runtime: Runtime
) -> None:
    async with InsuranceClient(flawed.url, runtime=runtime) as client:
        await client.fetch_request_weight()
        flawed.latency = 0.1
        calls = [
            client.fetch_snapshot(),
            client.fetch_pool("S0USDT"),
            client.fetch_pool("S70USDT"),
        ]
        snapshot, good, bad = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(snapshot, DecodeError)
        assert good is snapshot.pools[0]
        assert isinstance(bad, DecodeError)
        assert (bad.symbol, bad.pools) == ("S70USDT", ())
        assert [seen.symbol for seen in flawed.requests[1:]] == [None, "S70USDT"]


async def test_requests_that_a_snapshot_with_a_bad_pool_replaced_get_their_good_pools(
    flawed: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(flawed, runtime, "S599USDT")
    async with merged.client:
        calls = await merged.begin(names=[f"S{number}USDT" for number in range(69, 109)])
        calls.append(asyncio.create_task(merged.client.fetch_pool("S109USDT")))
        await steps(5)
        merged.budget.release(merged.taken)
        results = await asyncio.gather(*calls, return_exceptions=True)
    bad = [each for each in results if isinstance(each, DecodeError)]
    assert [error.symbol for error in bad] == [f"S{number}USDT" for number in range(70, 80)]
    assert len([each for each in results if isinstance(each, InsurancePool)]) == 31
    assert [seen.weight for seen in flawed.requests] == [1, 40] + [1] * 10


@pytest.mark.parametrize("pause", [0, 3, 70])
async def test_the_weight_of_the_snapshot_request_is_learned_from_three(
    runtime: Runtime, pause: float
) -> None:
    async with (
        Sandbox("market", snapshot_weight=1, clock=wall_time) as exchange,
        InsuranceClient(
            exchange.url, budget=LocalBudget(runtime=runtime), runtime=runtime
        ) as client,
    ):
        charged: list[int] = []
        for _ in range(6):
            before = client.stats()
            await client.fetch_snapshot()
            after = client.stats()
            light = after.requests_sent - before.requests_sent - 1
            charged.append(after.weight_spent - before.weight_spent - light)
            await asyncio.sleep(pause)
        assert charged == [40, 40, 40, 1, 1, 1]
        spent = client.stats().weight_spent
        await client.fetch_pools(SYMBOLS[::40])
        assert client.stats().weight_spent - spent == 1
        exchange.snapshot_weight = 40
        await client.fetch_snapshot()
        before = client.stats()
        await client.fetch_pool("BTCUSDT")
        await client.fetch_snapshot()
        assert client.stats().weight_spent - before.weight_spent == 41, "that was contradicted"


async def test_one_report_that_lags_does_not_make_the_snapshot_request_light(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = LocalBudget(reserve=0, runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        for _ in range(2):
            await client.fetch_request_weight()
        exchange.node_lag = 38  # of every second answer
        await client.fetch_snapshot()
        assert client.stats().used_weight == 4
        exchange.node_lag = 0
        await asyncio.sleep(60)
        exchange.spend_elsewhere(2400 - 11)
        with pytest.raises(BudgetTimeoutError):
            await client.fetch_snapshot(timeout=5)
    assert exchange.accounting.verdicts[429] == 0


@pytest.mark.parametrize("reserve", [480, 2300])
async def test_what_others_spend_during_a_snapshot_does_not_make_it_too_heavy(
    exchange: Sandbox, runtime: Runtime, reserve: int
) -> None:
    def others() -> float:  # after the light request was counted
        if len(exchange.requests) == 1:
            exchange.spend_elsewhere(2400 - 1 - 40)
        return 0.0

    exchange.latency = others
    budget = LocalBudget(reserve=reserve, runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        await client.fetch_snapshot()
        assert client.stats().used_weight == 2400
        await asyncio.sleep(120)
        assert len(await client.fetch_snapshot(timeout=5)) > 50
    assert exchange.accounting.verdicts[429] == 0


async def test_a_cancelled_bulk_call_leaves_no_tasks(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(*[Fault.stall()] * 8)
    call = asyncio.create_task(client.fetch_pools(SYMBOLS[::90]))
    await asyncio.sleep(0.5)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert client.budget.state().waiting == 0
    await asyncio.sleep(0)
    assert len(asyncio.all_tasks()) <= 8, "only the tasks of the test and of the server"


async def test_no_snapshot_request_if_it_weighs_more_than_the_budget_holds(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = LocalBudget(60, reserve=30, runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        assert len(await client.fetch_pools(SYMBOLS[:60])) == 60
    assert all(seen.weight == 1 for seen in exchange.requests)


async def test_a_refused_connection_fails_every_symbol(runtime: Runtime) -> None:
    async with InsuranceClient("http://127.0.0.1:9", runtime=runtime) as client:
        with pytest.raises(BulkFetchError) as caught:
            await client.fetch_pools(SYMBOLS[:100])
    assert {type(error) for error in caught.value.errors.values()} == {ConnectError}
    assert [error.symbol for error in caught.value.errors.values()] == SYMBOLS[:100]


async def test_weight_of_other_clients_does_not_count_as_weight_of_the_snapshot_request(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    for _ in range(3):
        await client.fetch_snapshot()
        await asyncio.sleep(5)
        exchange.spend_elsewhere(100)
    before = client.stats().weight_spent
    await client.fetch_snapshot()
    assert client.stats().weight_spent - before == 41, "after 5 s, a light request goes first"


def tasks_of_requests() -> list[asyncio.Task[Any]]:
    """The tasks that work for requests, which are none when nothing is left behind."""
    return [task for task in asyncio.all_tasks() if "Requests." in repr(task.get_coro())]


async def steps(count: int) -> None:
    """Let the loop turn so many times."""
    for _ in range(count):
        await asyncio.sleep(0)


@pytest.mark.parametrize("symbol", ["BTCUSDT", "NOPE"])
@pytest.mark.parametrize("timeout", [None, 30])
async def test_a_caller_may_be_cancelled_at_any_moment(
    client: InsuranceClient, symbol: str, timeout: float | None
) -> None:
    unhandled: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context["message"]))
    await client.fetch_pool("BTCUSDT")
    whole = 0
    for moment in range(400):
        call = asyncio.create_task(client.fetch_pool(symbol, timeout=timeout))
        await steps(moment)
        whole += call.done()
        call.cancel()
        await asyncio.wait([call])
        if not call.cancelled():
            call.exception()
        del call
        await steps(8)
        assert tasks_of_requests() == []
        assert client.budget.state().waiting == 0
        if whole > 3:
            break
    assert whole > 3, "the last moments came after the answer"
    gc.collect()
    assert unhandled == []
    assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")


@pytest.mark.parametrize("moment", range(12))
async def test_closing_at_any_moment_leaves_no_task(
    exchange: Sandbox, runtime: Runtime, moment: int
) -> None:
    exchange.latency = 0.2
    budget = LocalBudget(100, reserve=0, runtime=runtime)
    client = InsuranceClient(exchange.url, budget=budget, max_concurrency=2, runtime=runtime)
    await client.fetch_pool("BTCUSDT")
    taken = await budget.acquire(95)
    calls = [asyncio.create_task(client.fetch_pool(symbol)) for symbol in SYMBOLS[::15]]
    calls.append(asyncio.create_task(client.fetch_snapshot()))  # type: ignore[arg-type]
    await steps(moment)
    await client.aclose()
    assert tasks_of_requests() == []
    for call in calls:
        with pytest.raises(ClientClosedError, match="closed"):
            await call
    state = budget.state()
    assert state.waiting == 0
    assert state.in_flight - 95 <= 2, "what was sent before"
    budget.release(taken)


async def test_a_call_that_fails_before_its_task_began_leaves_nothing(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(Fault.of_status(418))
    for _ in range(2):  # the second knows the ban at once
        with pytest.raises(IPBannedError):
            await client.fetch_pool("BTCUSDT", timeout=1)
    await steps(3)
    assert tasks_of_requests() == []
    assert not client._requests._running  # pyright: ignore[reportPrivateUsage]
    assert len(exchange.requests) == 1


class Merged:
    """A client whose budget is used up, and 40 calls that wait for weight."""

    def __init__(
        self, exchange: Sandbox, runtime: Runtime, first: str = "S0USDT", limit: int = 100
    ) -> None:
        self.budget = LocalBudget(limit, reserve=0, runtime=runtime)
        self.client = InsuranceClient(exchange.url, budget=self.budget, runtime=runtime)
        self.first = first

    async def begin(
        self, timeout: float | None = None, names: Sequence[str] = NAMES
    ) -> list[asyncio.Task[InsurancePool]]:
        await self.client.fetch_pool(self.first)
        self.taken = await self.budget.acquire(self.budget.state().available)
        calls = [asyncio.create_task(self.client.fetch_pool(n, timeout=timeout)) for n in names]
        await steps(5)
        assert self.budget.state().waiting == len(names)
        return calls


@pytest.fixture
async def singles() -> AsyncIterator[Sandbox]:
    async with Sandbox(Singles(300), clock=wall_time) as sandbox:
        yield sandbox


async def test_a_request_that_is_replaced_as_it_gets_its_weight_gives_it_back(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin()
        loop = asyncio.get_running_loop()
        # Weight is granted in the very turn in which the last request starts, just before it.
        loop.call_soon(loop.call_soon, merged.budget.release, merged.taken)
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT")))
        pools = await asyncio.gather(*calls)
    assert [pool.symbols[0] for pool in pools] == [f"S{number}USDT" for number in range(1, 42)]
    assert [seen.weight for seen in singles.requests] == [1, 40]
    state = merged.budget.state()
    assert (state.in_flight, state.available) == (0, 59)


async def test_a_waiting_request_that_is_answered_as_it_gets_its_weight_is_not_sent(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = LocalBudget(100, reserve=0, runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        # The first request of all is the probe; the second gets its weight with its answer.
        first, second = await asyncio.gather(*map(client.fetch_pool, SYMBOLS[:2]))
    assert first is second
    assert len(exchange.requests) == 1
    assert budget.state().in_flight == 0


async def test_when_all_callers_have_left_what_was_replaced_the_snapshot_request_is_cancelled(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin()
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT")))
        await steps(5)
        assert merged.budget.state().waiting == 1, "the snapshot request"
        for call in calls:
            call.cancel()
        await asyncio.wait(calls)
        await steps(5)
        assert tasks_of_requests() == []
        assert merged.budget.state().waiting == 0
        merged.budget.release(merged.taken)
    assert len(singles.requests) == 1


async def test_a_loop_that_ends_cancels_the_callers_of_what_was_replaced(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin()
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT")))
        await steps(5)
        for task in tasks_of_requests():
            task.cancel()
        await asyncio.wait(calls, timeout=1)
        assert all(call.cancelled() for call in calls)
        assert tasks_of_requests() == []


@pytest.mark.parametrize(
    ("fault", "kind", "sent"),
    [(Fault.of_status(403), ForbiddenError, [40]), (Fault.reset(), TransportError, [40] * 4)],
)
async def test_50_callers_of_one_failed_snapshot_request_get_50_symbols(
    singles: Sandbox,
    runtime: Runtime,
    fault: Fault,
    kind: type[InsuranceError],
    sent: list[int],
) -> None:
    merged = Merged(singles, runtime, limit=400)
    names = [f"S{number}USDT" for number in range(1, 51)]
    async with merged.client as client:
        calls = await merged.begin()
        calls += [asyncio.create_task(client.fetch_pool(name)) for name in names[40:]]
        await steps(5)
        singles.inject(*[fault] * 4)
        merged.budget.release(merged.taken)
        errors = await asyncio.gather(*calls, return_exceptions=True)
    assert {type(error) for error in errors} == {kind}
    assert [str(error).split(":")[0] for error in errors] == names
    assert [getattr(error, "symbol", None) for error in errors] == names
    assert len({id(error) for error in errors}) == 50
    chained = {getattr(error, "__cause__", None) is not None for error in errors}
    assert chained == {kind is TransportError}
    assert [seen.weight for seen in singles.requests] == [1, *sent]


async def test_one_bad_pool_in_a_snapshot_does_not_fail_what_it_replaced(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin()
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT")))
        await steps(5)
        singles.inject(Fault.html())
        merged.budget.release(merged.taken)
        pools = await asyncio.gather(*calls)
    assert [pool.symbols[0] for pool in pools] == [f"S{number}USDT" for number in range(1, 42)]
    assert [seen.weight for seen in singles.requests] == [1, 40] + [1] * 41


async def test_a_call_without_timeout_outlives_one_with_it_whose_request_was_replaced(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin(timeout=100)
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT", timeout=100)))
        await steps(5)
        patient = asyncio.create_task(client.fetch_pools(["S1USDT"]))
        await asyncio.sleep(101)
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in failed} == {BudgetTimeoutError}
        assert not patient.done()
        merged.budget.release(merged.taken)
        assert "S1USDT" in await patient


async def test_callers_of_one_symbol_keep_their_own_timeouts_when_its_request_is_replaced(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime, "S0USDT")
    async with merged.client as client:
        calls = await merged.begin(names=[f"S{number}USDT" for number in range(2, 42)])
        hasty = asyncio.create_task(client.fetch_pool("S1USDT", timeout=1))
        await steps(5)
        assert merged.budget.state().waiting == 1, "the snapshot request"
        patient = asyncio.create_task(client.fetch_pools(["S1USDT", "S2USDT"]))
        with pytest.raises(BudgetTimeoutError, match=r"^S1USDT: "):
            await hasty
        assert loop_time() == pytest.approx(1, abs=0.01)
        await asyncio.sleep(19)
        assert not patient.done()
        merged.budget.release(merged.taken)
        assert list(await patient) == ["S1USDT", "S2USDT"]
        await asyncio.gather(*calls)
    assert singles.accounting.verdicts[429] == 0


@pytest.mark.parametrize("snapshot", [False, True])
async def test_a_call_without_timeout_outlives_all_that_share_its_request(
    singles: Sandbox, runtime: Runtime, snapshot: bool
) -> None:
    merged = Merged(singles, runtime)

    def ask(timeout: float | None) -> asyncio.Task[object]:
        client = merged.client
        call = client.fetch_snapshot if snapshot else partial(client.fetch_pool, "S1USDT")
        return asyncio.create_task(call(timeout=timeout))

    async with merged.client:
        await merged.begin(names=[])
        taken = await merged.budget.acquire(merged.budget.state().available)
        hasty = [ask(timeout) for timeout in (1, 2, 3)]
        await asyncio.sleep(0.5)
        patient = ask(None)
        await asyncio.sleep(3)
        assert [call.done() for call in [*hasty, patient]] == [True, True, True, False]
        assert {type(call.exception()) for call in hasty} == {BudgetTimeoutError}
        await asyncio.sleep(16)
        merged.budget.release(taken)
        merged.budget.release(merged.taken)
        await patient
    assert singles.accounting.verdicts[429] == 0


async def test_an_exclusive_call_that_joins_what_was_replaced_extends_the_wait(
    singles: Sandbox, runtime: Runtime
) -> None:
    merged = Merged(singles, runtime)
    async with merged.client as client:
        calls = await merged.begin(timeout=100)
        calls.append(asyncio.create_task(client.fetch_pool("S41USDT", timeout=100)))
        await steps(5)
        # As fetch_pools asks for a symbol that has left its group.
        patient = asyncio.create_task(client._requests.pool("S1USDT", inf, exclusive=True))  # pyright: ignore[reportPrivateUsage]
        await asyncio.sleep(101)
        failed = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in failed} == {BudgetTimeoutError}
        assert not patient.done()
        merged.budget.release(merged.taken)
        assert "S1USDT" in await patient


JOIN = ["the same symbol", "its group", "the snapshot request"]


@pytest.mark.parametrize("joined", JOIN)
@pytest.mark.parametrize("state", ["refused", "before a slot", "before a slot, again"])
async def test_a_call_that_joins_one_that_waits_out_a_freeze_fails_at_once(
    runtime: Runtime, joined: str, state: str
) -> None:
    market = Moving()
    async with (
        Sandbox(market, clock=wall_time) as exchange,
        InsuranceClient(exchange.url, max_concurrency=1, runtime=runtime) as client,
    ):

        def join(symbol: str, timeout: float | None = None) -> asyncio.Task[object]:
            every = joined == JOIN[2] and timeout is None
            call = client.fetch_snapshot() if every else client.fetch_pool(symbol, timeout=timeout)
            return asyncio.create_task(call)

        await client.fetch_snapshot()
        if state == "refused":
            exchange.inject(Fault.of_status(429, headers={"Retry-After": "30"}))
            calls = [join("A")]
            await asyncio.sleep(0.1)
        else:
            calls = []
            if state == "before a slot, again":
                exchange.inject(Fault.of_status(503))
                calls = [join("A")]
                await asyncio.sleep(0.1)  # it is asked again after 0.2 s
            exchange.latency = 5.0
            calls.append(asyncio.create_task(client.fetch_request_weight()))
            await asyncio.sleep(0.3)
            calls = calls if len(calls) > 1 else [join("A"), *calls]
            await asyncio.sleep(0.1)
            # Somebody else's answer, through the same budget.
            client.budget.settle(await client.budget.acquire(), Report(429, retry_after=30))
        before = loop_time()
        with pytest.raises(BudgetTimeoutError, match=r"^[AB]: "):
            await join("B" if joined == JOIN[1] else "A", timeout=2)
        assert loop_time() - before < 0.3
        await asyncio.gather(*calls)


async def test_an_error_for_a_caller_that_is_cancelled_in_the_same_moment_is_not_logged(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    unhandled: list[str] = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: unhandled.append(context["message"]))
    exchange.inject(Fault.stall())
    call = asyncio.create_task(client.fetch_pool("BTCUSDT"))
    await asyncio.sleep(0.1)
    closing = asyncio.create_task(client.aclose())
    loop.call_soon(call.cancel)  # after the error was given, before the caller has seen it
    await closing
    assert call.cancelled()
    del call
    gc.collect()
    assert unhandled == []


@pytest.mark.parametrize("timeout", [None, 30])
async def test_a_failed_call_leaves_nothing_to_the_garbage_collector(
    client: InsuranceClient, timeout: float | None
) -> None:
    async def fail() -> weakref.ref[InvalidSymbolError] | None:
        try:
            await client.fetch_pool("NOPE", timeout=timeout)
        except InvalidSymbolError as error:
            return weakref.ref(error)
        return None

    gc.collect()
    gc.disable()
    try:
        error = await fail()
        await steps(3)
        assert error is not None
        assert error() is None
    finally:
        gc.enable()


def test_an_eager_task_factory_changes_nothing() -> None:
    factory = getattr(asyncio, "eager_task_factory", None)
    if factory is None:
        pytest.skip("eager tasks came with Python 3.12")

    async def main() -> None:
        asyncio.get_running_loop().set_task_factory(factory)
        budget = LocalBudget(100, interval=2, reserve=0)
        async with (
            Sandbox("market", interval=2) as exchange,
            InsuranceClient(exchange.url, budget=budget) as client,
        ):
            await client.fetch_pool("BTCUSDT")
            taken = await budget.acquire(99)
            with pytest.raises(BulkFetchError):
                await client.fetch_pools(SYMBOLS[:3], timeout=0.01)
            budget.release(taken)
            calls = [asyncio.create_task(client.fetch_pool(symbol)) for symbol in SYMBOLS[:200]]
            assert len(await asyncio.gather(*calls)) == 200
        assert tasks_of_requests() == []

    asyncio.run(main())


def test_it_runs_on_uvloop() -> None:
    uvloop = pytest.importorskip("uvloop", reason="uvloop does not support this system")

    async def main() -> None:
        async with Sandbox("market") as exchange, InsuranceClient(exchange.url) as client:
            callers = [asyncio.create_task(client.fetch_pool(symbol)) for symbol in SYMBOLS[:200]]
            await asyncio.sleep(0)
            callers[0].cancel()
            pools = await asyncio.gather(*callers, return_exceptions=True)
            assert isinstance(pools[0], asyncio.CancelledError)
            assert all(isinstance(pool, InsurancePool) for pool in pools[1:])
            assert len(await client.fetch_pools(SYMBOLS[:600])) == 600
            exchange.inject(Fault.of_status(400))
            with pytest.raises(BadRequestError):
                await client.fetch_pool("BTCUSDT", timeout=30)

    uvloop.run(main())
