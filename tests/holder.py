"""One process that holds weight behind one slot: `python -P tests/holder.py URL BUDGET`.

It fetches 16 symbols at once, again and again, until standard input is closed, and prints errors.
"""

from __future__ import annotations

import asyncio
import sys

from binance_insurance import InsuranceClient, InsuranceError
from binance_insurance.budget import create_budget

CALLERS = 16


async def run(url: str, address: str) -> None:
    """Hold as much as there is."""
    async with (
        create_budget(address, 40, interval=2, reserve=0) as budget,
        InsuranceClient(url, budget=budget, max_concurrency=1) as client,
    ):

        async def ask(symbol: str) -> None:
            while True:
                try:
                    await client.fetch_pool(symbol)
                except InsuranceError as error:
                    print(type(error).__name__, error, flush=True)

        asking = [asyncio.create_task(ask(f"H{number}USDT")) for number in range(CALLERS)]
        await asyncio.to_thread(sys.stdin.read)
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


if __name__ == "__main__":
    asyncio.run(run(*sys.argv[1:]))
