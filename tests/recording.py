"""One process that appends to a history: `python -P tests/recording.py URL NAME FIRST COUNT`.

It appends snapshots by their number, one a second of the exchange's time, and prints the number of
each when it has been acknowledged. All that a snapshot holds says which it is.
"""

from __future__ import annotations

import asyncio
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.history import open_history

BEGIN = datetime(2026, 9, 1, tzinfo=UTC)
POOLS = 20


def at(number: int) -> datetime:
    """Return when a snapshot was observed."""
    return BEGIN + timedelta(seconds=number)


def snapshot(number: int, name: str = "") -> InsuranceSnapshot:
    """Return the snapshot of a number, as a process with a name observes it."""
    time = int(at(number).timestamp() * 1000)
    return InsuranceSnapshot(
        tuple(
            InsurancePool(
                (f"{name}S{pool}USDT", f"{name}T{pool}USDT"),
                (AssetBalance("USDT", Decimal(number), time), AssetBalance("BTC", Decimal(1), 0)),
            )
            for pool in range(POOLS)
        ),
        at(number),
    )


async def append(url: str, name: str, first: int, count: int) -> None:
    """Append snapshots, each of which follows the one before it."""
    async with open_history(url) as history:
        for number in range(first, first + count):
            since = None if number == first else at(number - 1)
            await history.append(snapshot(number, name), since=since)
            print(number, flush=True)


if __name__ == "__main__":
    asyncio.run(append(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])))
