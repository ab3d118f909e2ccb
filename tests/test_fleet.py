"""Four processes of 16 callers on one IP, over TCP, in real time: nothing is refused, all is used.

`pytest -m fleet --fleet-windows 10` watches them for longer.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from benchmarks.fleet import Lonely, Window, process, windows
from benchmarks.redis_server import RedisServer
from binance_insurance.sandbox import Fault, Sandbox

pytestmark = pytest.mark.fleet
LIMIT, INTERVAL, CALLERS = 400, 2, 16
Process = asyncio.subprocess.Process


def _name(number: int) -> str:
    return f"P{number}N"


PLACES = Lonely([_name(number) for number in range(50)], CALLERS)


class Fleet:
    """Some processes and the exchange that they ask."""

    def __init__(self, exchange: Sandbox, budget: str, stack: AsyncExitStack) -> None:
        self.exchange = exchange
        self.processes: list[Process] = []
        self._budget = budget
        self._stack = stack

    async def start(self, number: int) -> Process:
        """Start one process and wait until it works."""
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

    async def windows_turned(self, count: float) -> None:
        """Wait for so many turns of the exchange's window."""
        await asyncio.sleep(INTERVAL - self.exchange.now % INTERVAL + (count - 1) * INTERVAL)

    async def said(self) -> list[str]:
        """End all and return what went wrong in them."""
        said: list[str] = []
        for running in self.processes:
            assert running.stdin is not None
            running.stdin.close()
        for running in self.processes:
            assert running.stdout is not None
            said += (await running.stdout.read()).decode().splitlines()
        return said


@asynccontextmanager
async def fleet(budget: str) -> AsyncGenerator[Fleet]:
    """Four processes at work."""
    async with (
        AsyncExitStack() as stack,
        Sandbox(PLACES, limit=LIMIT, interval=INTERVAL) as exchange,
    ):
        ships = Fleet(exchange, budget, stack)
        await asyncio.gather(*(ships.start(number) for number in (1, 2, 3, 4)))
        yield ships
        await ships.said()


@pytest.fixture(params=["sqlite", "redis"])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.sqlite'}"
    server = request.getfixturevalue("redis_server")
    assert isinstance(server, RedisServer)
    return server.url


def full(seen: list[Window]) -> list[Window]:
    """Leave out the first window, in which they started, and the last."""
    return seen[1:-1]


def test_four_processes_use_the_limit_and_never_pass_it(
    budget: str, pytestconfig: pytest.Config
) -> None:
    count = int(pytestconfig.getoption("--fleet-windows") or 0)

    async def main() -> None:
        async with fleet(budget) as ships:
            await ships.windows_turned(count + 2.25)  # the first may go by before they begin
            assert await ships.said() == []
        seen = full(windows(ships.exchange))
        assert len(seen) >= count
        assert [window.refused for window in seen] == [0] * len(seen)
        assert min(window.weight for window in seen) >= 0.95 * LIMIT

    asyncio.run(main())


def test_a_killed_process_costs_the_others_nothing_for_longer_than_a_window(
    budget: str, pytestconfig: pytest.Config
) -> None:
    kills = int(pytestconfig.getoption("--fleet-windows") or 0)

    async def main() -> None:
        async with fleet(budget) as ships:
            for number in range(kills):
                await ships.windows_turned(1)
                await asyncio.sleep(0.1)  # in the middle of its requests
                victim = ships.processes.pop(0)
                victim.kill()
                await victim.wait()
                await ships.start(5 + number)
            await ships.windows_turned(2.25)
            assert await ships.said() == []
        seen = full(windows(ships.exchange))
        assert sum(window.refused for window in seen) == 0
        # What a process held at its end, at most one request of each caller.
        assert min(window.weight for window in seen) >= LIMIT - 2 * CALLERS
        assert seen[-1].weight >= 0.95 * LIMIT

    asyncio.run(main())


def test_a_ban_that_one_meets_silences_all_and_who_comes_later(budget: str) -> None:
    async def main() -> None:
        async with fleet(budget) as ships:
            await ships.windows_turned(1.05)
            exchange = ships.exchange
            end = int((exchange.now + 300) * 1000)
            notice = b"Way too many requests; IP(203.0.113.7) banned until %d." % end
            exchange.inject(Fault.of_status(418, b'{"code":-1003,"msg":"%s"}' % notice))
            while exchange.faults:  # noqa: ASYNC110 - real processes
                await asyncio.sleep(0.001)
            await asyncio.sleep(0.3)
            before = len(exchange.requests)
            await ships.start(5)
            await ships.windows_turned(1.25)
            assert len(exchange.requests) == before
            said = await ships.said()
        assert len(said) == 5 * CALLERS, "every caller of every process was told"
        assert {line.rpartition(".")[0] for line in said} == {said[0].rpartition(".")[0]}
        assert said[0].startswith("IPBannedError")

    asyncio.run(main())


@pytest.mark.usefixtures("redis_server")  # skips where there can be none
def test_redis_may_stop_and_start_again_under_load(tmp_path: Path) -> None:
    server = RedisServer(tmp_path)
    server.start()

    async def main() -> None:
        async with fleet(server.url) as ships:
            await ships.windows_turned(2)
            server.stop()
            await asyncio.sleep(5)
            gone = int(ships.exchange.now // INTERVAL)
            server.start()
            await ships.windows_turned(3.25)
            assert await ships.said() == []
        seen = windows(ships.exchange)
        assert sum(window.refused for window in seen) == 0
        first = int(ships.exchange.requests[0].at // INTERVAL)
        assert seen[gone - first - 1].weight >= 20, "each goes on by itself"
        assert seen[-2].weight >= 0.95 * LIMIT, "and comes back"

    try:
        asyncio.run(main())
    finally:
        server.stop()
