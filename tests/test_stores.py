"""Where processes keep a shared ledger: files and servers that begin, go, move and lose data.

And their clocks, which are stepped.
"""

from __future__ import annotations

import asyncio
import gc
import re
import sqlite3
import sys
import time
import weakref
from collections import Counter
from collections.abc import AsyncGenerator, Callable
from contextlib import ExitStack, asynccontextmanager, closing
from pathlib import Path
from statistics import median
from subprocess import Popen
from typing import Any
from uuid import uuid4

import pytest
import redis

from benchmarks.fleet import windows
from benchmarks.processes import running
from benchmarks.redis_server import RedisServer
from binance_insurance import (
    IPBannedError,
    RedisBudget,
    Runtime,
    SqliteBudget,
)
from binance_insurance.budget import Report, WeightBudget, create_budget
from binance_insurance.budget.witness import Witnesses

from .conftest import EPOCH, IN_CAMPAIGN, SERVERS, StartServer
from .scale import CAMPAIGN, sample
from .scripts import script
from .test_fleet import INTERVAL, LIMIT, Fleet, described, fleet, full

# Takes weight from the budget in each file that standard input names, and answers with the error.
BEGINNER = """
import asyncio, sys
from binance_insurance.budget import SqliteBudget

async def begin(path):
    async with SqliteBudget(path, 100, reserve=0) as budget:
        budget.release(await budget.acquire(timeout=30))

for line in sys.stdin:
    try:
        asyncio.run(begin(line.strip()))
    except Exception as error:
        print(type(error).__name__, error, flush=True)
    else:
        print("served", flush=True)
"""


def files_of(path: Path) -> list[Path]:
    """The three files of a database."""
    return [path, Path(f"{path}-wal"), Path(f"{path}-shm")]


def delete(path: Path) -> None:
    for each in files_of(path):
        each.unlink(missing_ok=True)


def delete_alone(path: Path) -> None:
    path.unlink()


def move(path: Path) -> None:
    for each in files_of(path):
        if each.exists():
            each.rename(f"{each}.moved")


def move_alone(path: Path) -> None:
    path.rename(f"{path}.moved")


@pytest.fixture
def redis_server(redis_servers: StartServer) -> RedisServer:
    """One server is enough here: their clocks do not differ."""
    return redis_servers(next(iter(SERVERS)))


DISTURBANCES = [delete, delete_alone, move, move_alone]


def report(used: int, status: int = 200) -> Report:
    return Report(status, used, float(int(time.time())))


@pytest.mark.campaign
@pytest.mark.fleet
def test_processes_that_begin_together_make_one_file(tmp_path: Path) -> None:
    def ask(process: Popen[str], path: Path) -> None:
        assert process.stdin is not None
        process.stdin.write(f"{path}\n")
        process.stdin.flush()

    def answer(process: Popen[str]) -> str:
        assert process.stdout is not None
        return process.stdout.readline().strip()

    with ExitStack() as stack:
        command = [sys.executable, "-c", BEGINNER]
        processes = [stack.enter_context(running(command)) for _ in range(3)]
        answers: list[str] = []
        for number in range(sample(20, 150, 60)):
            path = tmp_path / "deep" / f"{number}.sqlite"
            for process in processes:
                ask(process, path)
            answers += [answer(process) for process in processes]
    assert answers == ["served"] * len(answers)


@pytest.mark.long
@pytest.mark.campaign
@pytest.mark.fleet
@pytest.mark.parametrize(
    "disturbances",
    [[each] * sample(1, 10, 6) for each in DISTURBANCES] if CAMPAIGN else [DISTURBANCES],
    ids=lambda disturbances: disturbances[-1].__name__,
)
def test_busy_and_idle_processes_go_on_when_their_file_goes(
    tmp_path: Path, disturbances: list[Callable[[Path], None]]
) -> None:
    path = tmp_path / "budget.sqlite"

    async def main() -> None:
        url = f"sqlite:///{path}"
        async with (
            create_budget(url, LIMIT, interval=INTERVAL, reserve=0) as idle,
            fleet(url) as busy,
        ):
            idle.serve(busy.exchange.url)
            idle.release(await idle.acquire())
            await busy.wait_windows(1)
            for disturb in disturbances:
                await asyncio.sleep(0.8 * INTERVAL)
                disturb(path)
            await busy.wait_windows(1.5)
            idle.release(await idle.acquire(timeout=2 * INTERVAL))
            assert idle.state().resets_at, "it knows what the others have learned"
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


def assert_full(busy: Fleet) -> None:
    """The windows were used, and no request was refused."""
    seen = windows(busy.exchange)
    weights = sorted(window.weight for window in full(seen))
    print(f"{len(busy.processes)} processes: {described(weights)}")
    assert sum(window.refused for window in seen) == 0
    assert median(weights) >= 0.95 * LIMIT


@pytest.mark.long
@pytest.mark.campaign
@pytest.mark.fleet
def test_many_busy_processes_share_a_file(tmp_path: Path) -> None:
    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path / 'budget'}", sample(6, 16)) as busy:
            await busy.wait_windows(sample(3, 10, 5))
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


@pytest.mark.long
@pytest.mark.campaign
@pytest.mark.fleet
def test_two_of_four_busy_processes_are_killed(tmp_path: Path) -> None:
    async def main() -> None:
        async with fleet(f"sqlite:///{tmp_path / 'budget'}") as busy:
            await busy.wait_windows(1.1)
            for _ in range(2):
                busy.processes.pop().kill()
            await busy.wait_windows(sample(3, 10, 5))
            assert await busy.close() == []
        assert_full(busy)

    asyncio.run(main())


@pytest.mark.long
@pytest.mark.campaign
@pytest.mark.fleet
def test_redis_loses_its_data_again_and_again(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)

    async def main() -> None:
        async with fleet(server.url) as busy:
            await busy.wait_windows(1)
            for _ in range(sample(2, 5, 3)):
                await asyncio.sleep(0.8 * INTERVAL)
                with closing(redis.Redis.from_url(server.url)) as client:  # pyright: ignore[reportUnknownMemberType]
                    client.flushall()  # pyright: ignore[reportUnknownMemberType]
            await busy.wait_windows(2.25)
            assert await busy.close() == []
        assert_full(busy)

    server.start()
    try:
        asyncio.run(main())
    finally:
        server.stop()


def test_a_budget_that_is_dropped_in_a_transaction_is_not_waited_for(tmp_path: Path) -> None:
    path = tmp_path / "budget"

    async def begin() -> weakref.ref[SqliteBudget]:
        budget = SqliteBudget(path, 100, reserve=0)
        budget.release(await budget.acquire())
        other.execute("BEGIN IMMEDIATE")
        waiting = asyncio.create_task(budget.acquire())
        await asyncio.sleep(0.05)
        waiting.cancel()
        return weakref.ref(budget)

    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        began = time.monotonic()
        dropped = asyncio.run(begin())
        gc.collect()
        assert dropped() is None
        assert time.monotonic() - began < 4.5, "the transaction waits for up to 5 s"
        other.execute("ROLLBACK")


@pytest.mark.skipif(sys.platform == "win32", reason="files have no modes there")
def test_a_new_file_is_for_its_user_alone_and_another_keeps_its_mode(tmp_path: Path) -> None:
    async def use(path: Path, then: Callable[[Path], None]) -> set[int]:
        async with SqliteBudget(path) as budget:
            budget.release(await budget.acquire())
            await asyncio.sleep(0.05)
            then(path)
            budget.release(await budget.acquire())
            return {each.stat().st_mode & 0o777 for each in files_of(path)}

    def stay(path: Path) -> None:
        pass

    made, shared = tmp_path / "a" / "b" / "new", tmp_path / "shared"
    for then in (stay, delete):
        assert asyncio.run(use(made, then)) == {0o600}
    for directory in (made.parent, made.parent.parent):
        assert directory.stat().st_mode & 0o777 == 0o700
    shared.touch()
    shared.chmod(0o666)
    for then in (stay, delete):
        assert asyncio.run(use(shared, then)) == {0o666}


class Machine:
    """The clocks of one machine; the exchange's is 100 s ahead of the true time."""

    def __init__(self, seconds: Callable[[], float]) -> None:
        self._seconds = seconds
        self.later = 5000.0  # how much more than that has passed
        self.stepped = 0.0  # by how much its wall clock was set
        self.started = 0.0  # when it was started
        self.runtime = Runtime(monotonic=lambda: self.now - self.started, wall=self.wall)

    @property
    def now(self) -> float:
        """Seconds that have passed, whatever its clocks show."""
        return self._seconds() + self.later

    def wall(self) -> float:
        return EPOCH + self.now + self.stepped

    def exchange(self) -> float:
        return EPOCH + self.now + 100.0

    def report(self, used: int | None, status: int = 200, **more: Any) -> Report:
        return Report(status, used, float(int(self.exchange())), **more)


class Spent:
    """What an exchange with a limit of 40 counts in its windows."""

    def __init__(self, machine: Machine, interval: int = 60) -> None:
        self._machine = machine
        self._interval = interval
        self._weight = Counter[int]()
        self.refused = 0

    def window(self) -> int:
        return int(self._machine.exchange() // self._interval)

    async def spend(self, budget: WeightBudget) -> int:
        """Send one request; return the window in which it was sent."""
        lease, window = await budget.acquire(), self.window()
        self._weight[window] += 1
        self.refused += self._weight[window] > 40
        report = self._machine.report(self._weight[window])
        await asyncio.sleep(0.01)  # so no request leaves in the instant of another's answer
        budget.settle(lease, report)
        return window


@pytest.mark.parametrize("step", [3600.0, -3600.0, 0.0])
@pytest.mark.parametrize("restarted", [False, True])
async def test_a_ban_is_kept_whatever_happens_to_the_clocks(
    tmp_path: Path, step: float, *, restarted: bool
) -> None:
    machine = Machine(asyncio.get_running_loop().time)

    def open_budget() -> SqliteBudget:
        return SqliteBudget(tmp_path / "budget", 100, reserve=0, runtime=machine.runtime)

    async with open_budget() as budget:
        budget.settle(await budget.acquire(), machine.report(1))
        lease, banned_at = await budget.acquire(), machine.now
        budget.settle(lease, machine.report(None, 418, retry_after=600.0))
    await asyncio.sleep(50)
    if restarted:  # nobody can know of a step between shutdown and start
        machine.started = machine.now - 20
    async with open_budget() as witness:
        with pytest.raises(IPBannedError):
            await witness.acquire()
    machine.stepped = step
    for seconds in (51, 300, 598):
        await asyncio.sleep(banned_at + seconds - machine.now)
        async with open_budget() as budget:
            with pytest.raises(IPBannedError):
                await budget.acquire()
    async with open_budget() as budget:
        await asyncio.sleep(banned_at + 602 - machine.now)
        budget.release(await budget.acquire())


@pytest.mark.parametrize("step", [3600.0, -3600.0, 1800.0, -90.0, 5.0])
async def test_a_full_window_ends_when_it_ends_whatever_happens_to_the_clocks(
    tmp_path: Path, step: float
) -> None:
    machine = Machine(asyncio.get_running_loop().time)
    spent = Spent(machine)

    def open_budget() -> SqliteBudget:
        return SqliteBudget(tmp_path / "budget", 40, reserve=0, runtime=machine.runtime)

    async with open_budget() as one, open_budget() as other:
        await asyncio.sleep(60 - machine.exchange() % 60 + 5)
        for _ in range(20):
            assert await spent.spend(one) == await spent.spend(other)
        full = spent.window()
        waiting = asyncio.create_task(spent.spend(one))
        await asyncio.sleep(1)
        machine.stepped = step
        async with open_budget() as new:
            windows_of = await asyncio.gather(waiting, spent.spend(other), spent.spend(new))
            assert set(windows_of) == {full + 1}
            await asyncio.gather(*(spent.spend(new) for _ in range(100)))
    assert spent.refused == 0


class Proxy:
    """A Redis server whose `TIME` is stepped, for scripts that return it as second and third."""

    _reply = re.compile(rb"(\*[345]\r\n:\d\r\n\$10\r\n)(\d{10})")

    def __init__(self, server: RedisServer, machine: Machine) -> None:
        self._server = server
        self._machine = machine
        self.url = ""

    @asynccontextmanager
    async def serve(self) -> AsyncGenerator[str]:
        """Serve; gives the URL."""
        serving = await asyncio.start_server(self._connect, "127.0.0.1", 0)
        try:
            yield f"redis://127.0.0.1:{serving.sockets[0].getsockname()[1]}/0"
        finally:
            serving.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, back = await asyncio.open_connection(*self._server.address)
        asking = asyncio.create_task(self._pump(reader, back))
        await self._pump(there, writer)
        await asking

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            writer.write(self._reply.sub(self._stepped, data))
        writer.close()

    def _stepped(self, reply: re.Match[bytes]) -> bytes:
        return b"%b%d" % (reply[1], int(reply[2]) + self._machine.later + self._machine.stepped)


@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_ban_is_kept_when_the_clock_of_redis_is_stepped(
    redis_server: RedisServer, step: float
) -> None:
    machine = Machine(time.monotonic)

    async def main(url: str) -> None:
        def open_budget() -> RedisBudget:
            return RedisBudget(url, 100, reserve=0, group=group, runtime=machine.runtime)

        async with open_budget() as budget, open_budget() as other:
            budget.settle(await budget.acquire(), machine.report(1))
            other.release(await other.acquire())
            lease, banned_at = await budget.acquire(), machine.now
            budget.settle(lease, machine.report(None, 418, retry_after=600.0))
            await asyncio.sleep(0.05)
            machine.stepped = step
            for seconds in (50, 590):
                machine.later += banned_at + seconds - machine.now
                async with open_budget() as new:
                    for each in (budget, other, new):
                        with pytest.raises(IPBannedError):
                            await each.acquire()
            machine.later += banned_at + 602 - machine.now
            async with open_budget() as new:
                for each in (budget, other, new):
                    each.release(await each.acquire(timeout=10))

    async def served() -> None:
        async with Proxy(redis_server, machine).serve() as url:
            await main(url)

    group = uuid4().hex
    asyncio.run(served())


@pytest.mark.campaign
@pytest.mark.long
@pytest.mark.parametrize("step", [3600.0, -3600.0])
def test_a_full_window_ends_when_it_ends_when_the_clock_of_redis_is_stepped(
    redis_server: RedisServer, step: float
) -> None:
    machine = Machine(time.monotonic)

    async def main(url: str) -> None:
        def open_budget() -> RedisBudget:
            return RedisBudget(url, 40, interval=2, reserve=0, group=group, runtime=machine.runtime)

        async with open_budget() as one, open_budget() as other:
            spent = Spent(machine, 2)
            await asyncio.sleep(2 - machine.exchange() % 2 + 0.1)
            for _ in range(20):
                assert await spent.spend(one) == await spent.spend(other)
            full = spent.window()
            waiting = asyncio.create_task(spent.spend(one))
            await asyncio.sleep(0.1)
            machine.stepped = step
            async with open_budget() as new:
                windows_of = await asyncio.gather(waiting, spent.spend(other), spent.spend(new))
                assert set(windows_of) <= {full + 1, full + 2}
        assert spent.refused == 0

    async def served() -> None:
        async with Proxy(redis_server, machine).serve() as url:
            await main(url)

    group = uuid4().hex
    asyncio.run(served())


def test_hosts_shift_a_ledger_once_for_a_step_that_all_of_them_see() -> None:
    state, clock = Witnesses(), 1000.0
    for host in ("a", "b"):
        assert state.follow(host, 10.0, clock, clock) == 0.0
        state.write(host, 10.0, clock, clock)
    for step in (3600.0, -90.0):
        clock += step
        for host, shift in (("a", step), ("b", 0.0), ("a", 0.0), ("new", 0.0)):
            assert state.follow(host, 20.0, clock, clock) == pytest.approx(shift)
            state.write(host, 20.0, clock, clock)
    assert state.follow("a", 5.0, 0.0, 0.0) == 0.0, "its machine was started again"
    assert state.follow("a", 30.0, clock - 90.0, clock + 90.0) == 0.0, "it knows no better"


# Ends event loops at any time, most often in the middle of a change.
MANY_LOOPS = """
import asyncio, sys, time
from binance_insurance.budget import Report, create_budget

LIMIT = 10**6
budget = create_budget(sys.argv[1], LIMIT, reserve=0, group=sys.argv[2])

async def hold():
    lease = await budget.acquire(20)
    try:
        await asyncio.sleep(60)
    finally:
        budget.settle(lease, None)

async def main(seconds):
    asyncio.get_running_loop().slow_callback_duration = 60  # says nothing of a busy machine
    lease = await budget.acquire()
    budget.settle(lease, Report(200, 1, float(int(time.time()) // 60 * 60 + 10)))
    callers = [asyncio.create_task(hold()) for _ in range(3)]
    callers += [asyncio.create_task(budget.acquire(LIMIT)) for _ in range(2)]
    await asyncio.sleep(seconds)

for number in range(int(sys.argv[3])):
    asyncio.run(main(number % 40 / 8000))
asyncio.run(main(0.1))
"""


@pytest.mark.campaign
@pytest.mark.parametrize(
    "kind", ["sqlite", *(pytest.param(name, marks=IN_CAMPAIGN) for name in SERVERS)]
)
def test_loops_that_end_in_the_middle_of_a_change_leave_nothing(
    kind: str, tmp_path: Path, redis_servers: StartServer
) -> None:
    url = f"sqlite:///{tmp_path}/budget" if kind == "sqlite" else redis_servers(kind).url
    number = str(sample(80, 800, 300))
    said = script(MANY_LOOPS, url, uuid4().hex, number, options=("-X", "dev"), timeout=300)
    assert said == ""
