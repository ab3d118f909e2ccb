"""Processes with many callers each on one IP, over TCP, in real time.

They use the whole limit and no request is refused. `nox -s campaign` runs them for longer, with
the exchange's limit of 2,400.
"""

from __future__ import annotations

import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime, timedelta
from pathlib import Path
from statistics import median

import pytest

from benchmarks.fleet import OnePoolPerSymbol, Window, process, windows
from benchmarks.processes import running as started
from benchmarks.redis_server import RedisServer
from binance_insurance.sandbox import Fault, Sandbox

from . import ROOT
from .conftest import SERVERS, StartServer
from .scale import sample

pytestmark = [pytest.mark.campaign, pytest.mark.fleet]
LIMIT, INTERVAL, CALLERS = sample(60, 2400), sample(1, 2), 16
WINDOWS = sample(2, 10, 6)  # full windows that are watched, and kills
Process = asyncio.subprocess.Process


def _name(number: int) -> str:
    return f"P{number}N"


SCENARIO = OnePoolPerSymbol([_name(number) for number in range(50)], CALLERS)


class Fleet:
    """Several processes and the exchange that they use."""

    def __init__(self, exchange: Sandbox, budget: str, stack: AsyncExitStack) -> None:
        self.exchange = exchange
        self.processes: list[Process] = []
        self._budget = budget
        self._stack = stack

    async def start(self, number: int) -> Process:
        """Start one process and wait until it is ready."""
        started = await self._stack.enter_async_context(
            process(
                self.exchange.url,
                self._budget,
                LIMIT,
                interval=INTERVAL,
                callers=CALLERS,
                name=_name(number),
            )
        )
        assert started.stdout is not None
        assert await started.stdout.readline() == b"ready\n"
        self.processes.append(started)
        return started

    async def wait_windows(self, count: float) -> None:
        """Wait until the exchange's window has rolled over `count` times; 2.25: plus a quarter."""
        await asyncio.sleep(INTERVAL - self.exchange.now % INTERVAL + (count - 1) * INTERVAL)

    async def close(self) -> list[str]:
        """End all processes and return the errors that they printed."""
        errors: list[str] = []
        for running in self.processes:
            assert running.stdin is not None
            running.stdin.close()
        for running in self.processes:
            assert running.stdout is not None
            errors += (await running.stdout.read()).decode().splitlines()
        return errors


@asynccontextmanager
async def fleet(budget: str, processes: int = 4) -> AsyncGenerator[Fleet]:
    """Processes that send requests as fast as the budget lets them."""
    async with (
        AsyncExitStack() as stack,
        Sandbox(SCENARIO, limit=LIMIT, interval=INTERVAL) as exchange,
    ):
        running = Fleet(exchange, budget, stack)
        await asyncio.gather(*(running.start(number) for number in range(1, processes + 1)))
        yield running
        await running.close()


@pytest.fixture(params=["sqlite", pytest.param("redis", marks=pytest.mark.long)])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.sqlite'}"
    start: StartServer = request.getfixturevalue("redis_servers")
    return start(next(iter(SERVERS))).url


def full(seen: list[Window]) -> list[Window]:
    """Leave out the last window, and the first, in which the processes started."""
    return seen[1:-1]


def described(weights: list[int]) -> str:
    """Say how much of the limit was used."""
    return f"{median(weights):g} of {LIMIT} a window, median of {len(weights)}"


def test_one_process_uses_the_limit_without_a_refusal() -> None:
    assert_the_limit_is_used("memory://", processes=1)


@pytest.mark.long
def test_four_processes_use_the_limit_without_a_refusal(budget: str) -> None:
    assert_the_limit_is_used(budget, processes=4)


def assert_the_limit_is_used(budget: str, *, processes: int) -> None:
    async def main() -> None:
        async with fleet(budget, processes) as running:
            await running.wait_windows(WINDOWS + 2.25)  # the first may end before they start
            assert await running.close() == []
        seen = full(windows(running.exchange))
        assert len(seen) >= WINDOWS
        assert [window.refused for window in seen] == [0] * len(seen)
        used = sorted(window.weight for window in seen)
        print(f"{budget.partition(':')[0]}, {processes} processes: {described(used)}")
        assert median(used) >= LIMIT - max(1, LIMIT // 100)

    asyncio.run(main())


@pytest.mark.long
def test_the_weight_of_a_killed_process_is_missing_for_at_most_one_window(budget: str) -> None:
    async def main() -> None:
        async with fleet(budget) as running:
            for number in range(WINDOWS):
                await running.wait_windows(1)
                await asyncio.sleep(INTERVAL / 20)  # in the middle of its requests
                killed = running.processes.pop(0)
                killed.kill()
                await killed.wait()
                await running.start(5 + number)
            await running.wait_windows(2.25)
            assert await running.close() == []
        seen = full(windows(running.exchange))
        assert sum(window.refused for window in seen) == 0
        used = [window.weight for window in seen]
        print(f"{budget.partition(':')[0]}, a process killed in each window: {described(used)}")
        # What a process had in flight when it was killed: at most one request of each caller. Were
        # it missing for longer, it would add up from kill to kill. (The median, since a machine
        # that is busy otherwise leaves weight of a single window unused.)
        assert median(used) >= LIMIT - 2 * CALLERS
        assert seen[-1].weight >= 0.95 * LIMIT

    asyncio.run(main())


def test_a_ban_of_one_process_stops_all_processes_and_later_ones(budget: str) -> None:
    async def main() -> None:
        async with fleet(budget) as running:
            await running.wait_windows(1.05)
            exchange = running.exchange
            end = int((exchange.now + 300) * 1000)
            notice = b"Way too many requests; IP(203.0.113.7) banned until %d." % end
            exchange.inject(Fault.of_status(418, b'{"code":-1003,"msg":"%s"}' % notice))
            while exchange.faults:  # noqa: ASYNC110 - real processes
                await asyncio.sleep(0.001)
            before = 0
            while before != len(exchange.requests):  # until those that had left have arrived
                before = len(exchange.requests)
                await asyncio.sleep(0.3)
            await running.start(5)
            await running.wait_windows(1.25)
            assert len(exchange.requests) == before
            errors = await running.close()
        assert len(errors) == 5 * CALLERS, "every caller of every process got the error"
        ends = [datetime.fromisoformat(line.removeprefix("IPBannedError ")) for line in errors]
        assert max(ends) - min(ends) < timedelta(seconds=1)

    asyncio.run(main())


@pytest.mark.long
def test_a_paused_process_sends_nothing_that_it_was_granted_before(budget: str) -> None:
    scenario = OnePoolPerSymbol(["H", _name(1)], CALLERS)
    holder = [sys.executable, "-P", str(ROOT / "tests" / "holder.py")]

    def held() -> int:
        """Return how many requests the process has sent."""
        return sum(str(seen.symbol).startswith("H") for seen in exchange.requests)

    def left() -> int:
        """Return the weight that is left of the window."""
        number = exchange.now // 2
        return 40 - sum(seen.weight for seen in exchange.requests if seen.at // 2 == number)

    async def until(condition: Callable[[], bool]) -> None:
        async with asyncio.timeout(15):
            while not condition():  # noqa: ASYNC110 - real processes
                await asyncio.sleep(0.005)

    async def main() -> None:
        with started([*holder, exchange.url, budget]) as paused:
            # The first goes ahead, and then 15 more hold weight and wait for the slot.
            await until(lambda: held() == 2)
            await asyncio.sleep(0.05)
            paused.send_signal(signal.SIGSTOP)
            sent = held()
            async with process(
                exchange.url, budget, 40, interval=2, callers=CALLERS, name=_name(1)
            ):
                await asyncio.sleep(3.5)
                await until(lambda: left() == 0)
                paused.send_signal(signal.SIGCONT)
                await asyncio.sleep(2.5)
        refused = [seen for seen in exchange.requests if seen.verdict != 200]
        print(f"{budget.partition(':')[0]}: {sent} sent before, {len(refused)} refused")
        assert len(refused) <= 1, "the one that was on its way"
        assert held() > sent, "it goes on"

    async def test() -> None:
        async with exchange:
            await main()

    exchange = Sandbox(scenario, limit=40, interval=2, latency=0.1)
    asyncio.run(test())


@pytest.mark.long
def test_redis_stops_and_starts_again_under_load(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()

    async def main() -> None:
        async with fleet(server.url) as running:
            await running.wait_windows(2)
            server.stop()
            await asyncio.sleep(2.5 * INTERVAL)
            stopped = int(running.exchange.now // INTERVAL)
            server.start()
            await asyncio.sleep(2)  # each process looks for it once a second
            await running.wait_windows(2.25)
            assert await running.close() == []
        seen = windows(running.exchange)
        assert sum(window.refused for window in seen) == 0
        first = int(running.exchange.requests[0].at // INTERVAL)
        assert seen[stopped - first - 1].weight >= LIMIT / 20, "each process continues by itself"
        assert seen[-2].weight >= 0.95 * LIMIT, "and uses Redis again"
        print(f"Redis stopped and back: {seen[-2].weight} of {LIMIT} in the last window")

    try:
        asyncio.run(main())
    finally:
        server.stop()
