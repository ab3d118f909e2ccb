"""Orders go before reads: cancels on a view that leaves less to others, beside busy readers."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncGenerator
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import quantiles

import aiohttp
import pytest

from benchmarks.fleet import windows
from binance_insurance import Budget, create_budget
from binance_insurance.middleware import BudgetMiddleware
from binance_insurance.sandbox import Sandbox

from . import ROOT
from .scale import sample

pytestmark = [pytest.mark.campaign, pytest.mark.fleet]
LIMIT, INTERVAL, RESERVE = 600, sample(1, 2), 300
READERS, EVERY = 16, 0.02  # seconds between two cancels
WINDOWS = sample(1, 4, 2)
PATIENCE = 0.2  # what a cancel may take


async def read(session: aiohttp.ClientSession, url: str) -> None:
    """Ask for depth again and again."""
    while True:
        async with session.get(f"{url}/fapi/v1/depth?symbol=BTCUSDT&limit=100") as response:
            assert response.status == 200


@asynccontextmanager
async def readers(url: str, budget: Budget) -> AsyncGenerator[None]:
    """Saturate a budget."""
    paying = BudgetMiddleware(budget, base_url=url)
    async with aiohttp.ClientSession(middlewares=[paying]) as session:
        asking = [asyncio.create_task(read(session, url)) for _ in range(READERS)]
        yield
        for task in asking:
            task.cancel()
        done, _ = await asyncio.wait(asking)
        assert all(task.cancelled() for task in done)


async def read_elsewhere(url: str, address: str, reserve: int) -> None:
    """Saturate a budget in this process until standard input is closed."""
    budget = create_budget(address, LIMIT, interval=INTERVAL, reserve=0)
    async with budget, readers(url, budget.view(reserve=reserve)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


@asynccontextmanager
async def readers_elsewhere(url: str, address: str, reserve: int) -> AsyncGenerator[None]:
    code = (
        f"import sys; sys.path.append({str(ROOT)!r}); "  # behind the installed package
        "import asyncio; from tests.test_orders import read_elsewhere; "
        f"asyncio.run(read_elsewhere({url!r}, {address!r}, {reserve}))"
    )
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-c",
        code,
        cwd=ROOT,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.stdin.close()
        assert await process.wait() == 0


async def cancel_orders(url: str, budget: Budget, seconds: float) -> list[float]:
    """Cancel an order every 20 ms, and return what each took."""
    paying = BudgetMiddleware(budget, base_url=url, orders=budget)
    took: list[float] = []

    async def cancel(session: aiohttp.ClientSession) -> None:
        began = time.monotonic()
        async with session.delete(f"{url}/fapi/v1/order?symbol=BTCUSDT&orderId=1") as response:
            assert response.status == 200
        took.append(time.monotonic() - began)

    async with aiohttp.ClientSession(middlewares=[paying]) as session, asyncio.TaskGroup() as group:
        for _ in range(int(seconds / EVERY)):
            group.create_task(cancel(session))
            await asyncio.sleep(EVERY)
    return took


@pytest.mark.parametrize(
    "where",
    [
        pytest.param("memory", marks=pytest.mark.long),
        pytest.param("sqlite", marks=pytest.mark.long),
        pytest.param("another process", marks=pytest.mark.long),
    ],
)
def test_a_cancel_does_not_wait_for_readers(tmp_path: Path, where: str) -> None:
    address = "memory://" if where == "memory" else f"sqlite:///{tmp_path / 'budget.sqlite'}"

    async def p99(reserve: int) -> float:
        async with (
            Sandbox("documented", limit=LIMIT, interval=INTERVAL) as exchange,
            create_budget(address, LIMIT, interval=INTERVAL, reserve=0) as budget,
        ):
            busy = (
                readers_elsewhere(exchange.url, address, reserve)
                if where == "another process"
                else readers(exchange.url, budget.view(reserve=reserve))
            )
            async with busy:
                await asyncio.sleep(INTERVAL)  # they use up what is left of a window
                took = await cancel_orders(exchange.url, budget.view(reserve=0), WINDOWS * INTERVAL)
            assert sum(window.refused for window in windows(exchange)) == 0
        return quantiles(took, n=100)[-1]

    with_views, without = asyncio.run(p99(RESERVE)), asyncio.run(p99(0))
    print(f"{where}: p99 {with_views * 1000:.0f} ms with views, {without * 1000:.0f} ms without")
    assert with_views < PATIENCE < without
