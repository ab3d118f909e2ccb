"""What the middleware adds to hand-written aiohttp, measured within one process.

Run as `python -m benchmarks.paying URL ROUNDS SYMBOL...`: it asks for all symbols on a session
without the middleware and on one with it, in turns, and prints for each round the seconds of CPU
time that a request took on both.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from typing import TYPE_CHECKING

import aiohttp

from binance_insurance.middleware import BudgetMiddleware

from .sides import hand_written_on, unlimited

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .sides import Ask


async def measure(url: str, rounds: int, symbols: Sequence[str]) -> None:
    """Print the seconds of each round; the first one only warms up."""
    pays = BudgetMiddleware(unlimited(), base_url=url)
    async with (
        aiohttp.ClientSession() as plain,
        aiohttp.ClientSession(middlewares=[pays]) as paying,
    ):
        sides = [hand_written_on(plain, url), hand_written_on(paying, url)]
        for number in range(rounds + 1):
            turns = (0, 1) if number % 2 else (1, 0)
            taken = {turn: await cpu(sides[turn], symbols) for turn in turns}
            if number:
                print(taken[0], taken[1], flush=True)


async def cpu(ask: Ask, symbols: Sequence[str]) -> float:
    """Measure the CPU time of one request, in seconds."""
    gc.collect()
    start = time.process_time()
    await ask(symbols)
    return (time.process_time() - start) / len(symbols)


if __name__ == "__main__":
    asyncio.run(measure(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
