"""Processes on one IP, as if in containers: the weight used in each window, the requests refused.

`python -P benchmarks/fleet.py URL BUDGET LIMIT INTERVAL CALLERS NAME` runs one process: each of its
callers fetches one symbol again and again, until standard input is closed. It prints all errors.
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
    """What the exchange counted in one window."""

    weight: int
    refused: int


def windows(exchange: Sandbox) -> list[Window]:
    """Add up the requests by window; the first and the last window are not complete."""
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
    """Start one process of a fleet, and end it afterwards; kill it when the body fails."""
    arguments = [
        "-P",  # the installed package, not the source beside us
        __file__,
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
        if running.returncode is None and running.stdin is not None:
            running.stdin.close()
        await running.wait()
    finally:
        if running.returncode is None:
            running.kill()
            await running.wait()


class OnePoolPerSymbol(Scenario):
    """Each symbol of a fleet has its own pool, so that no two callers can share a request."""

    def __init__(self, names: Sequence[str], callers: int) -> None:
        held = (AssetBalance("USDT", Decimal("793930579.315848"), 1745366402000),)
        self._pools = tuple(
            InsurancePool((f"{name}{number}USDT",), held)
            for name in names
            for number in range(callers)
        )

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools, which do not change."""
        return self._pools


async def watch(budget: str, limit: int, *, interval: int, callers: int, full: int) -> Window:
    """Let four processes send as many requests as they can, for `full` whole windows.

    Returns:
        The lowest weight granted in a whole window, and the number of refused requests.
    """
    names = ("A", "B", "C", "D")
    async with (
        Sandbox(OnePoolPerSymbol(names, callers), limit=limit, interval=interval) as exchange,
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
    """Fetch one symbol again and again; print each error, and stop at a ban."""
    while True:
        try:
            await client.fetch_pool(symbol)
        except IPBannedError as error:
            print("IPBannedError", error.banned_until, flush=True)
            return
        except InsuranceError as error:
            print(type(error).__name__, error, flush=True)


async def run(arguments: Sequence[str]) -> None:
    """Run one process of a fleet."""
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
