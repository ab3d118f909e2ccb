"""Always busy clients on one IP: on one budget they use the whole limit, and nothing is refused."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AbstractContextManager,
    ExitStack,
    asynccontextmanager,
)
from itertools import cycle
from pathlib import Path
from statistics import median
from time import sleep
from typing import Any

import msgspec
import pytest

from benchmarks.fleet import OnePoolPerSymbol, windows
from benchmarks.processes import running
from binance_insurance.budget import create_budget
from binance_insurance.sandbox import Sandbox

from .. import ROOT
from ..conftest import SERVERS, StartServer
from ..exchange import exchange_in_a_thread
from . import clients
from .clients import BlockingCall, Call, Tally, busy, three_clients

pytestmark = pytest.mark.fleet  # real time: windows of 2 s
LIMIT, INTERVAL = 2400, 2
NAMES = ("A", "B", "C")  # of processes
SCENARIO = OnePoolPerSymbol(NAMES, clients.CALLERS)


class Watched(msgspec.Struct):
    """What the exchange counted while clients were busy.

    Attributes:
        used: the weight of each full window, the refused requests included.
        refused: the refused requests of all windows.
    """

    used: list[int]
    refused: int

    @property
    def share(self) -> float:
        """The part of the limit that the median full window used."""
        return median(self.used) / LIMIT


def watched(exchange: Sandbox, first: int, full: int) -> Watched:
    """Look at `full` whole windows from the first one on."""
    seen = windows(exchange)
    begin = first - int(exchange.requests[0].at // exchange.accounting.interval)
    used = [window.weight for window in seen[begin : begin + full]]
    assert len(used) == full
    return Watched(used, sum(window.refused for window in seen))


def next_window(exchange: Sandbox) -> int:
    return int(exchange.now // exchange.accounting.interval) + 1


async def watch(exchange: Sandbox, full: int) -> Watched:
    """Wait for `full` whole windows, and a little of the one after."""
    first = next_window(exchange)
    interval = exchange.accounting.interval
    await asyncio.sleep((first + full) * interval + 0.2 - exchange.now)
    return watched(exchange, first, full)


@asynccontextmanager
async def local_budget(limit: int = LIMIT) -> AsyncGenerator[Any]:
    async with create_budget("memory://", limit, interval=INTERVAL, reserve=0) as budget:
        yield budget


# --- One process ---


@pytest.mark.parametrize("tolerated", [1_000_000, 5], ids=["refuses", "bans"])
def test_three_clients_that_each_believe_only_themselves_are_refused(tolerated: int) -> None:
    async def main() -> None:
        async with (
            Sandbox(
                SCENARIO, limit=LIMIT, interval=INTERVAL, tolerated_refusals=tolerated
            ) as exchange,
            three_clients(exchange.url, "A", limit=LIMIT, interval=INTERVAL) as three,
            busy(three) as tally,
        ):
            seen = await watch(exchange, 1)
        print(f"no shared budget: {seen}, {tally.answers}, {len(tally.failures)} failed")
        assert seen.refused > 100
        assert len(tally.failures) > 100
        assert (exchange.accounting.banned_until > 0) is (tolerated == 5)

    asyncio.run(main())


def test_three_clients_on_one_budget_use_the_limit_without_a_refusal() -> None:
    async def main() -> None:
        async with (
            Sandbox(SCENARIO, limit=LIMIT, interval=INTERVAL) as exchange,
            local_budget() as budget,
            three_clients(exchange.url, "A", budget, limit=LIMIT, interval=INTERVAL) as three,
            busy(three) as tally,
        ):
            seen = await watch(exchange, 3)
        print(f"one budget: {seen}, {tally.answers}")
        assert (seen.refused, tally.failures) == (0, [])
        assert seen.share >= 0.95
        assert min(tally.answers[name] for name in three) > 30

    asyncio.run(main())


Open = Callable[[str, Any], AbstractAsyncContextManager[list[Sequence[Call]]]]


@pytest.mark.parametrize("plain", [clients.plain_aiohttp, clients.plain_httpx])
def test_hand_written_code_uses_the_limit_without_a_refusal(plain: Open) -> None:
    limit = 200  # its requests weigh little, so a slow machine would not reach more

    async def main() -> None:
        async with (
            Sandbox(SCENARIO, limit=limit, interval=INTERVAL) as exchange,
            local_budget(limit) as budget,
            plain(exchange.url, budget) as calls,
            busy({"plain": calls}) as tally,
        ):
            seen = await watch(exchange, 2)
        print(f"{seen}, {tally.answers}")
        assert (seen.refused, tally.failures) == (0, [])
        assert median(seen.used) >= 0.95 * limit

    asyncio.run(main())


# --- Three processes ---


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Where a budget is shared."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.sqlite'}"
    start: StartServer = request.getfixturevalue("redis_servers")
    return start(next(iter(SERVERS))).url


def test_three_processes_of_three_clients_use_the_limit_without_a_refusal(address: str) -> None:
    script = [sys.executable, "-P", str(ROOT / "tests" / "foreign" / "clients.py")]
    with (
        exchange_in_a_thread(SCENARIO, limit=LIMIT, interval=INTERVAL) as exchange,
        ExitStack() as stack,
    ):
        settings = [exchange.url, address, str(LIMIT), str(INTERVAL)]
        started = [stack.enter_context(running([*script, *settings, name])) for name in NAMES]
        for process in started:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
        first = next_window(exchange)
        sleep((first + 3) * INTERVAL + 0.2 - exchange.now)
        tallies = [msgspec.json.decode(process.communicate()[0], type=Tally) for process in started]
    seen = watched(exchange, first, 3)
    answers = sum(sum(each.answers.values()) for each in tallies)
    print(f"{address.partition(':')[0]}: {seen.share:.1%} of the limit, {answers} answers")
    assert [each.failures for each in tallies] == [[], [], []]
    assert seen.refused == 0
    assert seen.share >= 0.95
    for each in tallies:
        assert len(each.answers) == 3
        assert min(each.answers.values()) > 30


# --- Threads ---


OpenBlocking = Callable[[str, Any], AbstractContextManager[list[BlockingCall]]]


@pytest.mark.parametrize(
    "kinds",
    [[clients.sdk, clients.ccxt_sync], [clients.plain_requests]],
    ids=["SDK and ccxt", "requests"],
)
def test_six_threads_of_a_program_without_a_loop_use_the_limit_without_a_refusal(
    kinds: list[OpenBlocking],
) -> None:
    tally, stop = Tally(), threading.Event()

    def keep_asking(name: str, calls: list[BlockingCall]) -> None:
        for call in cycle(calls):
            if stop.is_set():
                return
            try:
                call()
            except Exception as error:
                tally.failed(name, error)
            else:
                tally.answered(name)

    limit = 600
    with (
        exchange_in_a_thread(SCENARIO, limit=limit, interval=INTERVAL) as exchange,
        ExitStack() as stack,
        create_budget("memory://", limit, interval=INTERVAL, reserve=0).blocking() as blocking,
    ):
        opened = [
            (kind.__name__, stack.enter_context(kind(exchange.url, blocking)))
            for _ in range(6 // len(kinds))
            for kind in kinds
        ]
        threads = [threading.Thread(target=keep_asking, args=each, daemon=True) for each in opened]
        for thread in threads:
            thread.start()
        first = next_window(exchange)
        sleep((first + 3) * INTERVAL + 0.2 - exchange.now)
        stop.set()
        for thread in threads:
            thread.join(5)
    seen = watched(exchange, first, 3)
    print(f"threads: {seen}, {tally.answers}")
    assert (seen.refused, tally.failures) == (0, [])
    assert median(seen.used) >= 0.9 * limit
    assert min(tally.answers.values()) > 30
