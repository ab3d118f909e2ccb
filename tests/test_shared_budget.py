"""What processes that share a budget know of each other: files, servers and processes are real.

The clocks of a budget can be moved on, so nothing waits for a window.
"""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, cast
from uuid import uuid4

import pytest
import redis
from typer.testing import CliRunner

from benchmarks.redis_server import RedisServer
from binance_insurance import (
    Budget,
    BudgetTimeoutError,
    InsuranceClient,
    IPBannedError,
    Runtime,
    StoreError,
)
from binance_insurance.budget import (
    Lease,
    RedisBudget,
    Report,
    SqliteBudget,
    WeightBudget,
    create_budget,
)
from binance_insurance.cli._app import app
from binance_insurance.sandbox import Fault, Sandbox

from .conftest import IN_CAMPAIGN, SERVERS, StartServer
from .exchange import exchange_in_a_thread, offset_to_begin
from .scripts import script

START = 1_790_000_000  # a window of 4 s begins
LIMITED = 3  # exit code
SOON = 1.5  # seconds of real time in which a request leaves that may, before the next window
SERVER = next(iter(SERVERS))
EVERY_KIND = pytest.mark.parametrize("kind", ["memory", "sqlite", "redis"])


class Clocks:
    """The clocks of a test: they run, and can be moved on."""

    def __init__(self) -> None:
        self.later = 0.0  # both clocks
        self.asleep = 0.0  # the wall clock alone, as while a machine sleeps
        self.started = time.monotonic()
        self.runtime = Runtime(monotonic=self.monotonic, wall=self.wall)

    def monotonic(self) -> float:
        return time.monotonic() + self.later

    def wall(self) -> float:
        return time.time() + self.later + self.asleep

    @property
    def passed(self) -> float:
        """Seconds since the test began."""
        return self.monotonic() - self.started


class Place:
    """Where processes share a budget of 60 per 4 s, with nothing reserved."""

    def __init__(self, kind: str, path: Path, server: str) -> None:
        self.kind = kind
        self.path = path / "budget.sqlite"
        self.server = server
        self.group = uuid4().hex
        self.clocks = Clocks()
        self.begun = START + 1.5  # the exchange's time when the test begins

    @property
    def url(self) -> str:
        return f"sqlite:///{self.path}" if self.kind == "sqlite" else self.server

    def open(
        self, limit: int = 60, *, interval: int = 4, share: float | None = None
    ) -> SqliteBudget | RedisBudget:
        """Open the budget of one more process."""
        runtime, group = self.clocks.runtime, self.group
        if self.kind == "sqlite":
            return SqliteBudget(
                self.path, limit, interval=interval, reserve=0, group=group, runtime=runtime
            )
        return RedisBudget(
            self.server,
            limit,
            interval=interval,
            reserve=0,
            group=group,
            share=share,
            runtime=runtime,
        )

    def report(self, used: int | None, status: int = 200, **more: Any) -> Report:
        """Say what the exchange would say now."""
        return Report(status, used, float(int(self.begun + self.clocks.passed)), **more)

    def lose(self) -> None:
        """Let the store lose all that it holds."""
        if self.kind == "sqlite":
            for end in ("", "-wal", "-shm"):
                Path(f"{self.path}{end}").unlink(missing_ok=True)
        else:
            self.empty()

    def empty(self) -> None:
        """Let the store lose it in one step; what goes with its file may be written down twice."""
        if self.kind == "sqlite":
            with closing(sqlite3.connect(self.path)) as connection, connection:
                connection.execute("DELETE FROM budget")
        else:
            with closing(redis.Redis.from_url(self.server)) as client:  # pyright: ignore[reportUnknownMemberType]
                for key in self._keys(client):
                    client.delete(key)

    def writes(self) -> object:
        """Return what changes whenever something is written."""
        if self.kind == "sqlite":
            try:
                with closing(sqlite3.connect(f"file:{self.path}?mode=ro", uri=True)) as connection:
                    return connection.execute("SELECT * FROM budget").fetchall()
            except sqlite3.OperationalError:
                return []  # there is no such file
        with closing(redis.Redis.from_url(self.server)) as client:  # pyright: ignore[reportUnknownMemberType]
            return [client.hgetall(key) for key in self._keys(client)]  # pyright: ignore[reportUnknownMemberType]

    def _keys(self, client: redis.Redis) -> list[bytes]:
        return cast("list[bytes]", client.keys(f"binance-insurance:*{self.group}*"))  # pyright: ignore[reportUnknownMemberType]


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=IN_CAMPAIGN)])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    if request.param == "sqlite":
        return Place("sqlite", tmp_path, "")
    start: StartServer = request.getfixturevalue("redis_servers")
    return Place("redis", tmp_path, start(SERVER).url)


@pytest.fixture
def own_server(tmp_path: Path) -> Iterator[RedisServer]:
    """A server that a test starts and stops."""
    server = RedisServer(tmp_path)
    yield server
    server.stop()


def run(test: Callable[[], Awaitable[None]]) -> None:
    """Run a test in a loop of its own."""

    async def main() -> None:
        async with asyncio.timeout(50):
            await test()

    asyncio.run(main())


def opened(kind: str, tmp_path: Path, servers: StartServer) -> WeightBudget:
    """Open a budget of any kind, of 60 per minute."""
    return create_budget(url_of(kind, tmp_path, servers), 60, reserve=0, group=uuid4().hex)


def url_of(kind: str, tmp_path: Path, servers: StartServer) -> str:
    local = {"memory": "memory://", "sqlite": f"sqlite:///{tmp_path}/budget.sqlite"}
    return local.get(kind) or servers(SERVER).url


async def spend(budget: Budget, place: Place, used: int, weight: int = 1, **more: Any) -> None:
    """Send a request, get its answer, and let the other processes know."""
    async with budget.spend(weight) as spending:
        spending.settle(place.report(used, **more))


async def is_sent(budget: Budget, weight: int = 1, within: float = 0.3) -> bool:
    """Whether a request leaves within some seconds of real time."""
    try:
        async with asyncio.timeout(within):
            lease = await budget.acquire(weight)
    except TimeoutError:
        return False
    budget.release(lease)
    await budget.recorded(lease)
    return True


async def next_window(place: Place) -> None:
    """Wait for the exchange's next window; Redis has a clock that cannot be moved on."""
    now = place.begun + place.clocks.passed
    seconds = (now // 4 + 1) * 4 + 1.2 - now  # it is known to the second
    if place.kind == "sqlite":
        place.clocks.later += seconds
    else:
        await asyncio.sleep(seconds)


# --- A grant grows old ---


@pytest.mark.parametrize("paused", ["blocked", pytest.param("asleep", marks=IN_CAMPAIGN)])
def test_a_process_that_was_paused_confirms_nothing_that_it_was_granted(
    place: Place, paused: str
) -> None:
    def pause(seconds: float) -> None:
        if paused == "blocked":
            time.sleep(seconds)
        else:
            place.clocks.asleep += seconds

    async def test() -> None:
        async with place.open(100, interval=1) as one, place.open(100, interval=1) as other:
            probe = await one.acquire()
            assert one.confirm(probe)
            pause(0.1)
            assert one.confirm(probe), "the others count it for a second"
            pause(0.6)
            assert not one.confirm(probe), "they may not when it arrives"
            one.release(probe)
            probe = await one.acquire()
            assert one.confirm(probe), "the store has just had this process's word"
            time.sleep(1.1)  # noqa: ASYNC251 - its loop is blocked
            await spend(other, place, 100)
            assert not one.confirm(probe)
            one.release(probe)

    run(test)


def test_a_grant_that_is_held_for_long_stays_good_while_its_process_runs(place: Place) -> None:
    async def test() -> None:
        async with place.open(interval=2) as budget:
            probe = await budget.acquire()
            for _ in range(30):
                await asyncio.sleep(0.05)
                assert budget.confirm(probe)

    run(test)


# --- A ban outlives the ledger ---


@pytest.mark.campaign
@pytest.mark.long
@pytest.mark.parametrize("asks", ["ten times", "twice"])
def test_a_process_that_knows_a_ban_writes_it_down_again(place: Place, asks: str) -> None:
    async def test() -> None:
        async with place.open() as one:
            one.settle(await one.acquire(), place.report(1, 418, retry_after=60.0))
            ban = await refused(one)
            await asyncio.sleep(0.1)
            before = place.writes()
            await refused(one)
            await asyncio.sleep(1.1)
            assert place.writes() == before, "nothing is written where the store has it"
            place.lose()
            if asks == "twice":  # the second within the second after the look for the first
                await refused(one)
                await asyncio.sleep(0.1)
                place.lose()
                await refused(one)
                await asyncio.sleep(1.1)
            else:
                for _ in range(10):
                    await asyncio.sleep(0.1)
                    await refused(one)
            async with place.open() as later:
                assert (await refused(later)).banned_until == ban.banned_until

    run(test)


async def refused(budget: WeightBudget) -> IPBannedError:
    """Ask once."""
    with pytest.raises(IPBannedError) as caught:
        await budget.acquire()
    return caught.value


def test_a_ban_that_is_asked_about_costs_one_look_a_second(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one:
            await spend(one, place, 1, status=418, retry_after=60.0)
            written, began = 0, time.monotonic()
            while written < 2 or time.monotonic() < began + 1.6:
                if place.writes():
                    written += 1
                    place.empty()
                await refused(one)
                await asyncio.sleep(0.01)
            passed = time.monotonic() - began
            assert written <= 2 + passed, "when it was met, at once, and for each second"

    run(test)


def test_a_budget_that_is_closed_writes_down_the_ban_that_it_was_asked_about(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one:
            one.settle(await one.acquire(), place.report(1, 418, retry_after=60.0))
            for _ in range(2):
                await refused(one)
                await asyncio.sleep(0.05)
                place.lose()
        async with place.open() as later:
            await refused(later)

    run(test)


# --- The ledger belongs to the exchange and the IP ---


def test_a_refusal_holds_for_windows_of_every_length(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one, place.open(2400, interval=60) as other:
            await spend(other, place, 1)
            await spend(one, place, 60, status=429, retry_after=2.0)
            assert not await is_sent(other)
            assert other.state().frozen_until is not None
            async with place.open(100, interval=1) as later:
                with pytest.raises(BudgetTimeoutError):
                    await later.acquire(timeout=0.1)
                assert later.state().used_weight is None, "its windows are others"
            assert (await other.acquire()).number
            assert place.clocks.passed >= 2.0
            assert not await is_sent(other), "one request goes first"
        async with place.open() as one, place.open(2400, interval=60) as other:
            waiting = asyncio.create_task(other.acquire(2400))
            await asyncio.sleep(0.1)
            one.settle(await one.acquire(), place.report(1, 418, retry_after=60.0))
            with pytest.raises(IPBannedError):
                await waiting
            async with place.open(interval=86_400) as later:
                await refused(later)

    run(test)


def test_the_weight_of_windows_of_one_length_is_kept_beside_that_of_another(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one, place.open(2400, interval=60) as other:
            await spend(one, place, 59)
            await spend(other, place, 2300)
        async with place.open() as one, place.open(2400, interval=60) as other:
            assert not await is_sent(one, 2)
            assert await is_sent(one, 1, within=SOON)
            assert not await is_sent(other, 101)
            assert await is_sent(other, 100, within=SOON)
            assert (one.state().used_weight, other.state().used_weight) == (59, 2300)

    run(test)


def test_different_exchanges_never_meet(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one, place.open() as other, place.open() as third:
            one.serve("https://user@FAPI.binance.com:443/path")
            other.serve("https://testnet.binancefuture.com")
            third.serve("https://demo-fapi.binance.com/")
            one.settle(await one.acquire(), place.report(1, 418, retry_after=60.0))
            await spend(other, place, 50)
            assert not await is_sent(third, 11), "two names of one exchange"
            with pytest.raises(ValueError, match="one budget serves one exchange"):
                other.serve("http://127.0.0.1:8089")
        async with place.open() as alone:
            await refused(alone)  # without a client, it is the default

    run(test)


def test_what_was_learned_of_the_default_is_dropped_when_a_client_names_another(
    place: Place,
) -> None:
    async def test() -> None:
        async with place.open() as budget:
            held = await budget.acquire()
            waiting = asyncio.create_task(budget.acquire())
            await asyncio.sleep(0.05)
            budget.serve("http://127.0.0.1:8089")
            assert not budget.confirm(held)
            budget.settle(held, place.report(60, 418, retry_after=60.0))
            lease = await waiting
            assert budget.confirm(lease)
            assert (budget.state().in_flight, budget.state().banned_until) == (1, None)
            budget.settle(lease, place.report(7))
            assert await is_sent(budget, 53, within=SOON)
            assert budget.state().used_weight == 7

    run(test)


def test_a_freeze_lives_for_as_long_as_it_lasts(place: Place) -> None:
    async def test() -> None:
        async with place.open() as one:
            one.settle(await one.acquire(), place.report(60, 429, retry_after=10_800.0))
        if place.kind == "redis":
            with closing(redis.Redis.from_url(place.server)) as client:  # pyright: ignore[reportUnknownMemberType]
                (key,) = cast("list[bytes]", client.keys(f"*{place.group}*"))  # pyright: ignore[reportUnknownMemberType]
                assert 10_800 <= client.ttl(key) < 11_000
        async with place.open() as later:
            with pytest.raises(BudgetTimeoutError) as caught:
                await later.acquire(timeout=1)
            assert caught.value.wait > 10_790

    run(test)


def test_the_command_line_keeps_the_ban_of_a_service(place: Place) -> None:
    with exchange_in_a_thread() as exchange:

        async def service() -> None:
            async with (
                create_budget(place.url, 60, interval=4, reserve=0) as budget,
                InsuranceClient(exchange.url, budget=budget) as client,
            ):
                exchange.inject(Fault.of_status(418, b"", {"Retry-After": "300"}))
                with pytest.raises(IPBannedError):
                    await client.fetch_pool("BTCUSDT")

        run(service)
        for command in (["pools"], ["pools", "BTCUSDT"], ["limits"]):
            arguments = ["--base-url", exchange.url, "--budget", place.url]
            result = CliRunner().invoke(app, [*command, *arguments])
            assert (result.exit_code, len(exchange.requests)) == (LIMITED, 1), result.output


# --- What a process was told survives the loss of the ledger ---


def test_a_date_proves_its_own_window(place: Place) -> None:
    async def test() -> None:
        for number in range(50):
            place.group = uuid4().hex
            place.begun = START + 0.2 + 0.7 * number / 49 - place.clocks.passed
            async with place.open() as budget:
                await spend(budget, place, 31)
                assert budget.state().used_weight == 31
                resets_at = budget.state().resets_at
                assert resets_at is not None
                assert resets_at.timestamp() == START + 4
                assert not await is_sent(budget, 40, within=0.01)
                assert budget.state().used_weight == 31

    run(test)


def test_the_highest_sum_that_a_process_was_told_survives_whoever_writes_first(
    place: Place,
) -> None:
    async def test() -> None:
        async with place.open(40) as a, place.open(40) as b:
            await spend(a, place, 1)
            for used in (2, 40):  # others spend too
                await spend(b, place, used)
            place.lose()
            assert await is_sent(a, within=1)
            assert not await is_sent(b), "all of this window is used"
            await next_window(place)
            assert await is_sent(b, within=SOON)
            async with place.open(40) as c:
                await spend(c, place, 3)
                assert await is_sent(a, 37, within=SOON)

    run(test)


@pytest.mark.campaign
@pytest.mark.long
def test_a_newer_window_that_a_process_knows_survives_too(place: Place) -> None:
    async def test() -> None:
        place.begun = START + 2.95 - place.clocks.passed
        async with place.open(40) as a, place.open(40) as b:
            await spend(a, place, 1)  # it knows the exchange's clock to a second only
            await asyncio.sleep(1.15)
            await spend(b, place, 1)  # it knows that a window has begun
            await asyncio.sleep(0.15)
            await spend(b, place, 40)
            place.lose()
            assert await is_sent(a, within=0.5)
            assert not await is_sent(b, within=1.2), "nor when the first takes it for begun"
            assert b.state().used_weight == 40

    run(test)


@pytest.mark.parametrize("told", ["just now", "long ago", "never"])
def test_a_process_without_redis_sends_only_in_a_window_of_which_it_was_just_told(
    tmp_path: Path, own_server: RedisServer, told: str
) -> None:
    place = Place("redis", tmp_path, own_server.url)
    own_server.start()

    async def test() -> None:
        # A twelfth of a window is just now. This one of 12 s ends with that of 4 s.
        interval, within = (4, 0.3) if told == "long ago" else (12, SOON)
        async with place.open(interval=interval, share=0.25) as one:
            if told != "never":
                await spend(one, place, 1)
            if told == "long ago":
                await asyncio.sleep(0.5)
            own_server.stop()
            assert await is_sent(one, within=within) == (told != "long ago")
            if told == "long ago":
                assert one.state().available == 0
                assert one.state().frozen_until is None
                place.clocks.later += 3.0
                assert await is_sent(one, within=SOON), "the next window"

    run(test)


def test_what_a_process_may_not_send_without_redis_does_not_hold_the_others(
    tmp_path: Path, own_server: RedisServer
) -> None:
    place = Place("redis", tmp_path, own_server.url)
    own_server.start()

    async def test() -> None:
        place.begun = START + 0.2 - place.clocks.passed
        async with place.open(share=0.25) as one:
            await spend(one, place, 1)
            await asyncio.sleep(0.5)
            own_server.stop()
            assert not await is_sent(one)
            own_server.start()
            assert await is_sent(one, 2, within=2)
            async with place.open() as other:
                await spend(other, place, 2)
                assert await is_sent(other, 57, within=SOON)
                assert other.state().used_weight == 2

    run(test)


# --- The state shows the awaited call ---


@EVERY_KIND
def test_the_state_shows_the_awaited_call(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    url = url_of(kind, tmp_path, redis_servers)

    async def test() -> None:
        async with (
            Sandbox(limit=100, clock_offset=offset_to_begin()) as exchange,
            create_budget(url, 100, reserve=10, group=uuid4().hex) as budget,
            InsuranceClient(exchange.url, budget=budget) as client,
        ):
            exchange.spend_elsewhere(32)
            await client.fetch_pool("BTCUSDT")
            for used in (33, 34, 35):
                state = budget.state()
                assert (state.used_weight, state.in_flight) == (used, 0)
                assert state.available == 100 - 10 - used
                assert state.resets_at is not None
                assert state.resets_at.timestamp() == (exchange.now // 60 + 1) * 60
                await client.fetch_pool("BTCUSDT")

    run(test)


def test_what_has_just_ended_counts_before_it_is_written_down(place: Place) -> None:
    async def test() -> None:
        async with place.open(interval=60) as budget:
            await spend(budget, place, 1)
            leases = [await budget.acquire() for _ in range(4)]
            budget.release(leases[0])
            assert (budget.state().in_flight, budget.state().available) == (3, 56)
            budget.settle(leases[1], place.report(59))
            assert (budget.state().used_weight, budget.state().in_flight) == (59, 2)
            assert not budget.confirm(leases[2]), "others have spent it"
            with pytest.raises(BudgetTimeoutError):
                budget.check(10, timeout=1)
            budget.settle(leases[3], place.report(60, 429, retry_after=60.0))
            assert budget.state().frozen_until is not None

    run(test)


# --- Loops, forks and the end ---


def answer(used: int) -> Report:
    return Report(200, used, START + 10.0)


@EVERY_KIND
def test_a_budget_serves_one_run_after_another(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    budget = opened(kind, tmp_path, redis_servers)
    with exchange_in_a_thread() as exchange:

        async def fetch() -> int | None:
            async with InsuranceClient(exchange.url, budget=budget) as client:
                await client.fetch_pool("BTCUSDT")
            return budget.state().used_weight

        assert [asyncio.run(fetch()) for _ in range(4)] == [1, 2, 3, 4]
    asyncio.run(budget.aclose())


@EVERY_KIND
def test_a_run_that_ends_while_callers_wait_leaves_a_budget_that_serves_the_next(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    budget = opened(kind, tmp_path, redis_servers)
    held: list[Lease] = []

    async def first() -> None:
        budget.settle(await budget.acquire(), answer(1))
        held.append(await budget.acquire(20))
        callers = [asyncio.create_task(budget.acquire(40)) for _ in range(5)]
        await asyncio.sleep(0.05)
        assert not any(caller.done() for caller in callers)

    async def second() -> None:
        budget.release(await budget.acquire(39, timeout=10))
        budget.settle(held.pop(), answer(21))
        budget.release(await budget.acquire(39, timeout=10))
        assert (budget.state().in_flight, budget.state().waiting) == (0, 0)
        await budget.aclose()

    asyncio.run(first())
    assert (budget.state().in_flight, budget.state().used_weight) == (20, 1)
    asyncio.run(second())


@EVERY_KIND
def test_what_comes_back_when_its_loop_has_ended_is_written_down_later(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    url, group = url_of(kind, tmp_path, redis_servers), uuid4().hex
    budget = create_budget(url, 60, reserve=0, group=group)

    async def take() -> tuple[Lease, Lease]:
        budget.settle(await budget.acquire(), answer(1))
        return await budget.acquire(20), await budget.acquire(10)

    async def look() -> None:
        async with create_budget(url, 60, reserve=0, group=group) as other:
            other.release(await other.acquire(1, timeout=10))
            assert other.state().used_weight == 58

    sent, unused = asyncio.run(take())
    budget.release(unused)
    budget.settle(sent, answer(58))
    assert (budget.state().used_weight, budget.state().in_flight) == (58, 0)
    asyncio.run(budget.aclose())
    if kind != "memory":
        asyncio.run(look())


# What redis-py has left in the middle in the loop that ended is not for us to end.
@pytest.mark.filterwarnings("ignore:coroutine 'AbstractConnection:RuntimeWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@EVERY_KIND
@pytest.mark.parametrize("turns", range(7))
def test_a_loop_that_ends_without_cancelling_its_tasks_leaves_a_budget_that_serves_the_next(
    kind: str, tmp_path: Path, redis_servers: StartServer, turns: int
) -> None:
    budget = opened(kind, tmp_path, redis_servers)

    async def first() -> None:
        budget.settle(await budget.acquire(), answer(1))
        callers.append(asyncio.create_task(budget.acquire(40)))
        for _ in range(turns):  # the change that grants it has not begun, is under way, or is made
            await asyncio.sleep(0)
            time.sleep(0.01)  # noqa: ASYNC251

    async def second() -> None:
        budget.release(await budget.acquire(19, timeout=10))
        budget.release(await budget.acquire(19, timeout=10))
        await budget.aclose()

    callers: list[asyncio.Task[Lease]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(first())
    loop.close()
    asyncio.run(second())


def test_a_run_asks_redis_again_at_once_that_the_last_one_lost(own_server: RedisServer) -> None:
    budget = RedisBudget(own_server.url, 60, reserve=0, share=0.25)

    async def first() -> None:
        budget.settle(await budget.acquire(), answer(1))
        own_server.stop()
        budget.settle(await budget.acquire(), answer(2))
        assert budget.capacity == 15

    async def second() -> None:
        async with budget:
            budget.release(await budget.acquire(40, timeout=1))

    own_server.start()
    asyncio.run(first())
    own_server.start()
    asyncio.run(second())


NOT_CLOSED = """
import asyncio, sys, time
from binance_insurance.budget import Report, create_budget

budget = create_budget(sys.argv[1], 60, reserve=0, group=sys.argv[2])

async def acquire():
    lease = await budget.acquire(20)
    try:
        await asyncio.sleep(60)
    finally:
        budget.settle(lease, None)

async def main(seconds):
    lease = await budget.acquire()
    budget.settle(lease, Report(200, 1, float(int(time.time()) // 60 * 60 + 10)))
    callers = [asyncio.create_task(acquire()) for _ in range(5)]
    await asyncio.sleep(seconds)

for number in range(6):
    asyncio.run(main(number / 1000))
asyncio.run(main(0.1))
"""


@EVERY_KIND
def test_a_budget_that_is_not_closed_says_nothing(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    url = url_of(kind, tmp_path, redis_servers)
    assert script(NOT_CLOSED, url, uuid4().hex, options=("-W", "default")) == ""


@EVERY_KIND
def test_two_running_loops_cannot_use_one_budget(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    budget = opened(kind, tmp_path, redis_servers)

    async def other() -> None:
        with pytest.raises(RuntimeError, match="one loop at a time"):
            await budget.acquire()

    async def test() -> None:
        lease = await budget.acquire()
        await asyncio.to_thread(asyncio.run, other())
        assert budget.confirm(lease)
        await budget.aclose()

    run(test)


@EVERY_KIND
def test_closing_fails_those_that_wait_and_those_that_come(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    async def test() -> None:
        budget = opened(kind, tmp_path, redis_servers)
        budget.settle(await budget.acquire(), answer(1))
        held = [await budget.acquire(10) for _ in range(3)]
        waiting = [asyncio.create_task(budget.acquire(40)) for _ in range(3)]
        await asyncio.sleep(0.05)
        await budget.aclose()
        for caller in (*waiting, budget.acquire()):
            with pytest.raises(StoreError, match="closed"):
                await caller
        budget.settle(held[0], answer(11))
        budget.release(held[1])
        budget.confirm(held[2])
        budget.settle(held[2], None)
        await budget.aclose()
        while asyncio.all_tasks() != {asyncio.current_task()}:  # noqa: ASYNC110 - what is left ends
            await asyncio.sleep(0.005)

    run(test)


FORKED = """
import asyncio, os, sys, time
from binance_insurance import StoreError
from binance_insurance.budget import Report, create_budget

budget = create_budget(sys.argv[1], 60, reserve=0, group=sys.argv[2])
in_use = sys.argv[3] == "in use"

async def spend(used):
    lease = await budget.acquire(timeout=20)
    assert budget.confirm(lease)
    budget.settle(lease, Report(200, used, float(int(time.time()) // 60 * 60 + 10)))

async def refused(lease):
    for _ in range(2):
        try:
            await budget.acquire()
        except StoreError as error:
            assert "forked" in str(error)
        else:
            raise AssertionError("served")
        assert not budget.confirm(lease)
        budget.settle(lease, None)
        await budget.aclose()

async def used():
    await spend(1)
    return await budget.acquire()

async def parent():
    for number in range(4, 40):
        await spend(number)
        await asyncio.sleep(0.002)
    await budget.aclose()

loop = asyncio.new_event_loop()
lease = loop.run_until_complete(used()) if in_use else None
for number in (2, 3):
    if (child := os.fork()) == 0:
        async def work():
            if in_use:
                await refused(lease)
            else:
                await spend(number)
                await budget.aclose()
        asyncio.run(work())
        print("child is done", flush=True)
        os._exit(0)  # or the child ends the loop that it has a copy of
    assert os.waitpid(child, 0)[1] == 0
if in_use:
    budget.settle(lease, None)
loop.run_until_complete(parent())
loop.close()
print("parent is done", budget.state().used_weight)
"""


@pytest.mark.parametrize("use", ["in use", "not in use"])
def test_a_fork_gets_an_error_or_a_budget_of_its_own(place: Place, use: str) -> None:
    # Python 3.12 and later warn of a fork beside other threads.
    quiet = ("-W", "ignore::DeprecationWarning")
    said = script(FORKED, place.url, place.group, use, options=quiet).splitlines()
    assert said == ["child is done", "child is done", "parent is done 39"]
