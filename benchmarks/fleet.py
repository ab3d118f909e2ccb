"""Processes on one IP, as if in containers: how much of each window they use, and what is refused.

Run as `python -m benchmarks.fleet URL BUDGET LIMIT INTERVAL CALLERS NAME`, it is one of them: its
callers ask for one symbol each, without end, until its input is closed. It prints what goes wrong.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import msgspec

from binance_insurance import (
    AssetBalance,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    IPBannedError,
)
from binance_insurance.budget import create_budget
from binance_insurance.sandbox import Sandbox, Scenario

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Sequence


_OK = 200


class Window(msgspec.Struct):
    """What the exchange saw in one window."""

    weight: int
    refused: int


def windows(exchange: Sandbox) -> list[Window]:
    """Add up what the exchange saw, by window; the first and the last are not full ones."""
    interval = exchange.accounting.interval
    weight: Counter[int] = Counter()
    refused: Counter[int] = Counter()
    for seen in exchange.requests:
        number = int(seen.at // interval)
        weight[number] += seen.weight
        refused[number] += seen.verdict != _OK
    return [
        Window(weight[number], refused[number]) for number in range(min(weight), max(weight) + 1)
    ]


@asynccontextmanager
async def process(
    url: str, budget: str, limit: int, *, interval: int, callers: int, name: str
) -> AsyncGenerator[asyncio.subprocess.Process]:
    """Start one process of a fleet, and end it."""
    arguments = [
        "-m",
        "benchmarks.fleet",
        url,
        budget,
        str(limit),
        str(interval),
        str(callers),
        name,
    ]
    running = await asyncio.create_subprocess_exec(
        sys.executable, *arguments, stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
    )
    try:
        yield running
    finally:
        if running.returncode is None and running.stdin is not None:
            running.stdin.close()
        await running.wait()


class Lonely(Scenario):
    """Each symbol of a fleet has a pool of its own, so that nobody shares an answer."""

    def __init__(self, names: Sequence[str], callers: int) -> None:
        held = (AssetBalance("USDT", Decimal("793930579.315848"), 1745366402000),)
        self._pools = tuple(
            InsurancePool((f"{name}{number}USDT",), held)
            for name in names
            for number in range(callers)
        )

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools, which never change."""
        return self._pools


async def watch(budget: str, limit: int, *, interval: int, callers: int, full: int) -> Window:
    """Let four processes ask as much as they can, for so many full windows.

    Returns:
        The least weight that was granted in a full window, and all that was refused.
    """
    names = ("A", "B", "C", "D")
    async with (
        Sandbox(Lonely(names, callers), limit=limit, interval=interval) as exchange,
        AsyncExitStack() as stack,
    ):
        for name in names:
            started = await stack.enter_async_context(
                process(exchange.url, budget, limit, interval=interval, callers=callers, name=name)
            )
            if started.stdout is not None:
                await started.stdout.readline()
        first = exchange.now // interval + 1
        await asyncio.sleep((first + full) * interval + 0.1 - exchange.now)
        seen = exchange.requests
    granted = dict.fromkeys(range(full), 0)
    for request in seen:
        number = int(request.at // interval - first)
        if number in granted and request.verdict == _OK:
            granted[number] += request.weight
    return Window(min(granted.values()), sum(request.verdict != _OK for request in seen))


async def ask(client: InsuranceClient, symbol: str) -> None:
    """Ask for one symbol without end; say what goes wrong, and stop at a ban."""
    while True:
        try:
            await client.fetch_pool(symbol)
        except IPBannedError as error:
            print("IPBannedError", error.banned_until, flush=True)
            return
        except InsuranceError as error:
            print(type(error).__name__, error, flush=True)


async def run(arguments: Sequence[str]) -> None:
    """Be one process of a fleet."""
    url, address, limit, interval, callers, name = arguments
    budget = create_budget(address, int(limit), interval=float(interval), reserve=0)
    async with InsuranceClient(url, budget=budget) as client:
        symbols = [f"{name}{number}USDT" for number in range(int(callers))]
        asking = [asyncio.create_task(ask(client, symbol)) for symbol in symbols]
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)
    await budget.aclose()


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1:]))
