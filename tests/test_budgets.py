"""What every budget keeps, on real files and a real server: one contract, in real time.

The exchange's clock stands at second 10 of a minute when a test begins, and no test waits for the
next.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field, replace
from math import inf
from pathlib import Path
from random import Random
from typing import Any, Literal, TypeVar, cast
from uuid import uuid4

import msgspec
import pytest
import redis

from benchmarks.redis_server import RedisServer
from binance_insurance import (
    BudgetTimeoutError,
    InsuranceClient,
    IPBannedError,
    LocalBudget,
    Runtime,
    StoreError,
)
from binance_insurance.budget import (
    Budget,
    Lease,
    RedisBudget,
    Report,
    SqliteBudget,
    WeightBudget,
    create_budget,
)
from binance_insurance.sandbox import Sandbox

from .conftest import EVERY_SERVER, IN_CAMPAIGN, SERVERS, StartServer

Kind = Literal["memory", "sqlite", "redis"]
E = TypeVar("E", bound=Exception)


@dataclass
class Place:
    """Where the budgets of a test are kept: 100 per minute, of which 10 are left to others."""

    kind: Kind
    path: Path
    url: str
    group: str
    started: float
    runtime: Runtime = field(default_factory=Runtime)
    share: float | None = None
    _local: Budget | None = None

    def open(self) -> Budget:
        """One more process's budget; in memory there is but one."""
        if self.kind == "sqlite":
            return SqliteBudget(self.path, 100, reserve=10, group=self.group, runtime=self.runtime)
        if self.kind == "redis":
            return RedisBudget(
                self.url,
                100,
                reserve=10,
                group=self.group,
                share=self.share,
                runtime=self.runtime,
            )
        self._local = self._local or LocalBudget(100, reserve=10, runtime=self.runtime)
        return self._local

    def report(self, used: int | None, status: int = 200, **more: Any) -> Report:
        """What the exchange would say now."""
        date = 1_790_000_040 // 60 * 60 + 10 + self.runtime.monotonic() - self.started
        return Report(status, used, float(int(date)), **more)


Body = Callable[[Any, Any, Place], Awaitable[None]]


def place_for(kind: Kind, path: Path, url: str) -> Place:
    return Place(kind, path / "deep" / "budget.sqlite", url, uuid4().hex, time.monotonic())


def place_of(request: pytest.FixtureRequest, path: Path) -> Place:
    if request.param not in SERVERS:
        return place_for(request.param, path, "")
    start: StartServer = request.getfixturevalue("redis_servers")
    return place_for("redis", path, start(request.param).url)


@pytest.fixture(params=["memory", "sqlite", *EVERY_SERVER])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request, tmp_path)


@pytest.fixture(params=["sqlite", *EVERY_SERVER])
def shared(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    return place_of(request, tmp_path)


@pytest.fixture
def own_server(tmp_path: Path, redis_server: RedisServer) -> Iterator[RedisServer]:
    """A server that a test starts and stops."""
    server = RedisServer(tmp_path, redis_server.server)
    yield server
    server.stop()


def run(place: Place, body: Body) -> None:
    """Run a test with the budgets of two processes, in real time."""

    async def main() -> None:
        one, other = place.open(), place.open()
        try:
            async with asyncio.timeout(50):
                await body(one, other, place)
        finally:
            await one.aclose()
            await other.aclose()
        left = asyncio.all_tasks() - {asyncio.current_task()}
        assert not left, "a closed budget leaves no task"

    asyncio.run(main())


async def open_window(budget: WeightBudget, place: Place, used: int = 1) -> None:
    """Let the first request of a window go and come back."""
    budget.settle(await budget.acquire(), place.report(used))


async def refusal(budget: WeightBudget, kind: type[E], weight: int = 1, timeout: float = 30) -> E:
    """Ask until it is refused: what one process learns reaches the others a moment later."""
    while True:
        try:
            lease = await budget.acquire(weight, timeout=timeout)
        except kind as error:
            return error
        budget.release(lease)


def test_one_probe_is_sent_and_the_rest_follow_in_whatever_process(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        probe = await one.acquire()
        waiting = [asyncio.create_task(budget.acquire()) for budget in (one, other, other)]
        await asyncio.sleep(0.1)
        assert not any(task.done() for task in waiting)
        one.settle(probe, place.report(40))
        for lease in await asyncio.gather(*waiting):
            assert lease.weight == 1
        await refusal(other, BudgetTimeoutError, weight=51)  # 40 and 3 of 90 are gone

    run(place, body)


def test_what_one_process_learns_holds_for_all(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        other.settle(await other.acquire(), place.report(80))
        one.release(await one.acquire(9))
        error = await refusal(one, BudgetTimeoutError, weight=11)
        assert 45 < error.wait < 52
        state = one.state()
        assert (state.used_weight, state.limit, state.reserve) == (80, 100, 10)
        assert state.resets_at is not None

    run(place, body)


def test_a_refusal_freezes_all(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        one.settle(await one.acquire(), place.report(101, 429, retry_after=60.0))
        for budget in (one, other):
            error = await refusal(budget, BudgetTimeoutError)
            assert 45 < error.wait < 61
            assert budget.state().frozen_until is not None

    run(place, body)


def test_a_ban_and_its_end_are_known_to_all_processes_and_to_later_ones(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        lease = await one.acquire()
        waiting = asyncio.create_task(other.acquire(90))
        await asyncio.sleep(0.1)
        one.settle(lease, place.report(None, 418, retry_after=200.0))
        ends = set[object]()
        with pytest.raises(IPBannedError) as caught:
            await waiting
        ends.add(caught.value.banned_until)
        later = place.open()
        for budget in (other, one, later):
            ends.add((await refusal(budget, IPBannedError)).banned_until)
            with pytest.raises(IPBannedError):
                budget.check(1)
        await later.aclose()
        assert len(ends) == 1
        assert one.state().banned_until in ends

    run(place, body)


def test_a_lease_comes_back_once(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        lease = await one.acquire(30)
        one.release(lease)
        one.release(lease)
        one.settle(lease, None)
        one.release(await one.acquire())
        one.release(await one.acquire())
        assert (one.state().available, one.state().in_flight) == (88, 1) or (
            one.state().available,
            one.state().in_flight,
        ) == (89, 0)

    run(place, body)


def test_a_lost_answer_keeps_its_weight(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        one.settle(await one.acquire(40), None)
        other.settle(await other.acquire(), place.report(2))
        await refusal(other, BudgetTimeoutError, weight=60, timeout=0.05)

    run(place, body)


def test_what_never_fits_is_refused(place: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        assert (one.capacity, one.interval) == (90, 60)
        with pytest.raises(BudgetTimeoutError) as caught:
            await one.acquire(91)
        assert caught.value.wait == inf

    run(place, body)


@pytest.mark.parametrize("seed", range(3))
def test_many_callers_and_random_cancellations_leave_nothing_behind(
    place: Place, seed: int
) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        chance = Random(seed)
        used = 1
        await open_window(one, place)

        async def spend(budget: WeightBudget) -> None:
            nonlocal used
            lease = await budget.acquire()
            try:
                await asyncio.sleep(chance.uniform(0, 0.01))
            except asyncio.CancelledError:
                budget.release(lease)
                raise
            used += 1
            budget.settle(lease, place.report(used))

        callers = [asyncio.create_task(spend(chance.choice((one, other)))) for _ in range(70)]
        for caller in callers:
            if chance.random() < 0.3:
                await asyncio.sleep(chance.uniform(0, 0.002))
                caller.cancel()
        await asyncio.gather(*callers, return_exceptions=True)
        for budget in (one, other, one):  # the last look sees what the others wrote
            budget.settle(await budget.acquire(timeout=10), place.report(used))
        await one.aclose() if place.kind != "memory" else None
        last = await other.acquire(timeout=10)
        state = other.state()
        assert (state.in_flight, state.waiting) == (1, 0)
        other.release(last)

    run(place, body)


def test_a_first_caller_that_cannot_be_served_in_time_lets_the_next_go_at_once(
    place: Place,
) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        held = await one.acquire(20)
        heavy = asyncio.create_task(one.acquire(80, timeout=30))
        light = asyncio.create_task(one.acquire(5))
        await asyncio.sleep(0.1)
        assert not heavy.done()
        assert not light.done()
        started = time.monotonic()
        one.settle(held, place.report(60))
        with pytest.raises(BudgetTimeoutError):
            await heavy
        one.release(await light)
        assert time.monotonic() - started < 10, "not only in the next window"

    run(place, body)


def test_a_cancelled_call_and_a_close_leave_nothing(shared: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        call = asyncio.create_task(one.acquire(50))
        await asyncio.sleep(0)
        call.cancel()
        await one.aclose()
        lease = await other.acquire()
        assert (other.state().available, other.state().in_flight) == (88, 1)
        other.release(lease)

    run(shared, body)


def test_processes_with_different_reserves_share_a_counter(shared: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place, used=60)
        careful = (
            SqliteBudget(place.path, 100, reserve=50, group=place.group)
            if place.kind == "sqlite"
            else RedisBudget(place.url, 100, reserve=50, group=place.group)
        )
        async with careful:
            await refusal(careful, BudgetTimeoutError)
        other.release(await other.acquire(29, timeout=10))

    run(shared, body)


def test_groups_are_kept_apart(shared: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        one.settle(await one.acquire(), place.report(None, 418, retry_after=200.0))
        elsewhere = replace(place, group="203.0.113.7").open()
        elsewhere.release(await elsewhere.acquire(timeout=10))
        await elsewhere.aclose()

    run(shared, body)


def test_a_closed_budget_says_so_and_keeps_what_it_learned(shared: Place) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        one.settle(await one.acquire(), place.report(85))
        await one.aclose()
        with pytest.raises(StoreError, match="closed"):
            await one.acquire()
        await refusal(other, BudgetTimeoutError, weight=6)

    run(shared, body)


def test_the_weight_of_a_dead_process_comes_back_within_a_window(tmp_path: Path) -> None:
    later = 0.0
    runtime = Runtime(monotonic=lambda: time.monotonic() + later, wall=lambda: time.time() + later)

    async def main() -> None:
        nonlocal later
        place = Place("sqlite", tmp_path / "b", "", "x", time.monotonic(), runtime)
        dead, alive = place.open(), place.open()
        await open_window(dead, place)
        held = await dead.acquire(80)
        with pytest.raises(BudgetTimeoutError):
            await alive.acquire(20, timeout=0.05)
        later = 21.0  # it has been silent for longer than a request may take to arrive
        await open_window(alive, place, used=2)
        await open_window(alive, place, used=3)
        alive.release(await alive.acquire(80, timeout=10))
        assert held.open
        await alive.aclose()
        await dead.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "trouble",
    ["directory", *(pytest.param(each, marks=IN_CAMPAIGN) for each in ("garbage", "newer"))],
)
def test_a_file_that_cannot_be_used_is_a_typed_error(tmp_path: Path, trouble: str) -> None:
    path = tmp_path / "budget"
    if trouble == "directory":
        path.mkdir()
    elif trouble == "garbage":
        path.write_bytes(b"not a database, but long enough to be taken for one" * 100)
    else:
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA user_version = 99")

    async def main() -> None:
        async with SqliteBudget(path) as budget, Sandbox() as exchange:
            for _ in range(2):
                with pytest.raises(StoreError, match="cannot be used") as caught:
                    await budget.acquire()
                assert str(path) in str(caught.value)
            symbols = ["BTCUSDT", "ADAUSDT", "OMUSDT"]
            async with InsuranceClient(exchange.url, budget=budget) as client:
                errors = await asyncio.gather(
                    *map(client.fetch_pool, symbols), return_exceptions=True
                )
            assert [getattr(error, "symbol", None) for error in errors] == symbols
            assert exchange.requests == ()

    asyncio.run(main())


@pytest.mark.parametrize("version", [{}, {"version": 99}])
@pytest.mark.parametrize("banned", [True, False])
def test_of_a_ledger_of_another_version_only_the_ban_counts(
    tmp_path: Path, version: dict[str, int], *, banned: bool
) -> None:
    path, end = tmp_path / "budget", time.time() + 200
    ban = {"ban_ends": end, "ban_end_utc": end, "bans": 1} if banned else {}
    ledger: dict[str, float] = {"spent": 90, "unsettled": 90, **ban}
    value = msgspec.msgpack.encode(version | {"ledger": ledger, "owners": {}})

    async def main() -> None:
        async with SqliteBudget(path, 100, reserve=10, group="x") as budget:
            budget.release(await budget.acquire())
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("UPDATE budget SET state = ?", (value,))
            connection.commit()
        async with SqliteBudget(path, 100, reserve=10, group="x") as budget:
            if banned:
                error = await refusal(budget, IPBannedError)
                assert error.banned_until.timestamp() == pytest.approx(end, abs=1)
            else:
                budget.release(await budget.acquire(90, timeout=10))

    asyncio.run(main())


def test_a_process_beside_one_of_another_version_keeps_what_it_knows(tmp_path: Path) -> None:
    path, place = tmp_path / "budget", Place("sqlite", tmp_path, "", "x", time.monotonic())

    async def main() -> None:
        async with SqliteBudget(path, 100, reserve=10, group="x") as budget:
            await open_window(budget, place)
            budget.settle(await budget.acquire(89), place.report(90))
            for _ in range(3):
                await refusal(budget, BudgetTimeoutError)
                with closing(sqlite3.connect(path)) as connection:
                    value = msgspec.msgpack.encode({"ledger": {}, "owners": {}})
                    connection.execute("UPDATE budget SET state = ?", (value,))
                    connection.commit()
            with pytest.raises(BudgetTimeoutError):
                await budget.acquire(timeout=0.2)

    asyncio.run(main())


def test_a_locked_file_does_not_block_the_event_loop(tmp_path: Path) -> None:
    async def main() -> None:
        async with SqliteBudget(tmp_path / "budget") as budget:
            budget.release(await budget.acquire())
            await asyncio.sleep(0.05)
            with closing(sqlite3.connect(tmp_path / "budget", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                waiting = asyncio.create_task(budget.acquire())
                longest = 0.0
                end = time.monotonic() + 0.3
                while (before := time.monotonic()) < end:
                    await asyncio.sleep(0.001)
                    longest = max(longest, time.monotonic() - before)
                assert not waiting.done()
                assert longest < 2, "the lock is waited for during 5 s"
                other.execute("COMMIT")
            budget.release(await waiting)

    asyncio.run(main())


def scripts_run(url: str) -> int:
    """Round trips that decided something."""
    with closing(redis.Redis.from_url(url)) as client:  # pyright: ignore[reportUnknownMemberType]
        info = cast("dict[str, dict[str, int]]", client.info("commandstats"))  # pyright: ignore[reportUnknownMemberType]
    return info["cmdstat_evalsha"]["calls"]


@pytest.mark.pace
def test_an_acquire_takes_one_round_trip_and_waiting_takes_none(redis_server: RedisServer) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        one.release(await one.acquire())
        before = scripts_run(place.url)
        for used in range(2, 42):
            one.settle(await one.acquire(), place.report(used))
        assert scripts_run(place.url) - before <= 42
        other.settle(await other.acquire(), place.report(90))
        await refusal(one, BudgetTimeoutError)
        waiting = [asyncio.create_task(each.acquire()) for each in (one, other) for _ in range(9)]
        before, now = -1, scripts_run(place.url)
        while before != now:  # at first, until all of them wait
            await asyncio.sleep(0.5)
            before, now = now, scripts_run(place.url)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    place = Place("redis", Path(), redis_server.url, uuid4().hex, time.monotonic())
    run(place, body)


def test_without_redis_a_typed_error_if_so_chosen(tmp_path: Path) -> None:
    async def main() -> None:
        async with RedisBudget("redis://127.0.0.1:9", share=None) as budget:
            with pytest.raises(StoreError, match="Redis is out of reach"):
                await budget.acquire()

    asyncio.run(main())


def test_without_redis_a_share_and_back_by_itself(
    tmp_path: Path, own_server: RedisServer, caplog: pytest.LogCaptureFixture
) -> None:
    server = own_server
    place = Place("redis", tmp_path, server.url, "x", time.monotonic(), share=0.25)

    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        server.start()
        await open_window(one, place)
        held: list[Lease] = [await one.acquire(5)]
        server.stop()
        held.append(await one.acquire(10))
        assert one.capacity == 22
        assert one.state().available == 22 - 1 - 15
        one.settle(held.pop(), place.report(12))
        with pytest.raises(BudgetTimeoutError):
            await one.acquire(6, timeout=0.05)  # 12 are reported, 5 in flight, 22 are the share
        held.append(await one.acquire(5))
        server.start()
        while one.state().available < 25:  # noqa: ASYNC110 - it comes back by itself
            await asyncio.sleep(0.001)
        other.settle(await other.acquire(), place.report(18))
        other.release(await other.acquire(60, timeout=10))
        # What the first holds is known again.
        await refusal(other, BudgetTimeoutError, weight=63, timeout=0.05)
        for lease in held:
            one.release(lease)

    with caplog.at_level(logging.WARNING, "binance_insurance"):
        run(place, body)
    # In debug mode asyncio has something to say too: that starting a server blocked its loop.
    ours = [record for record in caplog.records if record.name.startswith("binance_insurance")]
    said = [record.getMessage() for record in ours]
    assert len(said) == 2
    assert "goes on by itself, with 22 of the 90" in said[0]
    assert "is back" in said[1]


def test_a_caller_that_came_without_redis_is_served_when_it_is_back(
    tmp_path: Path, own_server: RedisServer
) -> None:
    server = own_server
    place = Place("redis", tmp_path, server.url, "x", time.monotonic(), share=0.1)

    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        server.start()
        await open_window(one, place)
        server.stop()
        held = await one.acquire(8)  # all that is left of the share
        waiting = asyncio.create_task(one.acquire(5))
        late = [asyncio.create_task(one.acquire(1, timeout=3)) for _ in range(3)]
        await asyncio.sleep(0.1)
        started = time.monotonic()
        one.settle(held, place.report(9))
        for task in late:
            with pytest.raises(BudgetTimeoutError, match="earliest"):
                await task
        assert time.monotonic() - started < 2.5, "they cannot be served in time, and know it"
        server.start()
        one.release(await waiting)
        assert time.monotonic() - started < 20, "not only in the next window"

    run(place, body)


def test_what_was_spent_without_redis_is_known_when_it_is_back(
    tmp_path: Path, own_server: RedisServer
) -> None:
    server = own_server

    async def main() -> None:
        place = Place("redis", tmp_path, server.url, "x", time.monotonic())
        server.start()
        async with RedisBudget(server.url, 100, reserve=0, group="x", share=1.0) as one:
            await open_window(one, place)
            server.stop()
            one.settle(await one.acquire(59), place.report(60))
            one.settle(await one.acquire(), place.report(61))
            server.start()
            await asyncio.sleep(1.1)  # it looks for Redis once a second
            async with RedisBudget(server.url, 100, reserve=0, group="x") as other:
                one.release(await one.acquire())
                await refusal(other, BudgetTimeoutError, weight=41, timeout=0.05)

    asyncio.run(main())


@pytest.mark.parametrize("started", ["before", "while"])
def test_a_ban_met_without_redis_is_known_to_all_when_it_is_back(
    tmp_path: Path, own_server: RedisServer, started: str
) -> None:
    server = own_server
    place = Place("redis", tmp_path, server.url, "x", time.monotonic(), share=0.25)

    async def main() -> None:
        async with place.open() as one:
            if started == "before":
                server.start()
                await open_window(one, place)
                server.stop()
            one.settle(await one.acquire(), place.report(None, 418, retry_after=200.0))
            end = (await refusal(one, IPBannedError)).banned_until
            server.start()
            async with asyncio.timeout(30), place.open() as other:
                error = await refusal(other, IPBannedError)
            assert error.banned_until == end
            assert (await refusal(one, IPBannedError)).banned_until == end

    asyncio.run(main())


@pytest.mark.campaign
@pytest.mark.long
def test_redis_may_lose_its_data(tmp_path: Path, redis_server: RedisServer) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        held = await one.acquire(80)
        other.release(await other.acquire())  # and so it knows what the first one holds
        with closing(redis.Redis.from_url(place.url)) as client:  # pyright: ignore[reportUnknownMemberType]
            client.flushall()  # pyright: ignore[reportUnknownMemberType]
        with pytest.raises(BudgetTimeoutError):
            await other.acquire(20, timeout=0.05)
        one.settle(held, place.report(81))
        await refusal(other, BudgetTimeoutError, weight=20)

    run(place_for("redis", tmp_path, redis_server.url), body)


def test_a_value_that_is_no_ledger_is_a_typed_error(
    tmp_path: Path, redis_server: RedisServer
) -> None:
    async def body(one: WeightBudget, other: WeightBudget, place: Place) -> None:
        await open_window(one, place)
        one.release(await one.acquire())
        with closing(redis.Redis.from_url(place.url)) as client:  # pyright: ignore[reportUnknownMemberType]
            for key in cast("list[bytes]", client.keys(f"*{place.group}*")):  # pyright: ignore[reportUnknownMemberType]
                client.hset(key, mapping={"version": "another", "state": "no ledger"})  # pyright: ignore[reportUnknownMemberType]
        with pytest.raises(StoreError, match="not a ledger"):
            await other.acquire()

    run(place_for("redis", tmp_path, redis_server.url), body)


@pytest.mark.campaign
@pytest.mark.long
@pytest.mark.pace
def test_a_process_far_from_redis_is_served_too(tmp_path: Path, redis_server: RedisServer) -> None:
    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            await asyncio.sleep(0.01)
            writer.write(data)
        writer.close()

    async def connect(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*redis_server.address)
        await asyncio.gather(pump(reader, back), pump(there, writer))

    async def main() -> None:
        proxy = await asyncio.start_server(connect, "127.0.0.1", 0)
        port = proxy.sockets[0].getsockname()[1]
        group, limit = uuid4().hex, 10**6
        near = [RedisBudget(redis_server.url, limit, group=group) for _ in range(3)]
        far = RedisBudget(f"redis://127.0.0.1:{port}/0", limit, group=group)
        place = Place("redis", tmp_path, "", group, time.monotonic())
        granted = 0

        async def spend(budget: RedisBudget) -> None:
            nonlocal granted
            while True:
                budget.settle(await budget.acquire(), place.report(5))
                granted += budget is far

        tasks = [asyncio.create_task(spend(budget)) for budget in (*near, far)]
        await asyncio.sleep(2)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        for budget in (*near, far):
            await budget.aclose()
        proxy.close()
        assert granted >= 5

    asyncio.run(main())


@pytest.mark.parametrize(
    ("url", "kind"),
    [
        ("memory://", LocalBudget),
        ("sqlite:///budget.sqlite", SqliteBudget),
        ("sqlite:////var/lib/budget.sqlite", SqliteBudget),
        ("redis://127.0.0.1:6379/0", RedisBudget),
    ],
)
def test_a_url_names_a_budget(url: str, kind: type[WeightBudget]) -> None:
    async def main() -> None:
        budget = create_budget(url, 1200, interval=60, reserve=200, group="203.0.113.7")
        assert type(budget) is kind
        assert (budget.capacity, budget.interval) == (1000, 60)
        await budget.aclose()

    asyncio.run(main())


@pytest.mark.parametrize(
    "url", ["", "budget.sqlite", "sqlite://host/path", "sqlite:///", "ftp://x"]
)
def test_a_url_that_names_none_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="budget"):
        create_budget(url)
