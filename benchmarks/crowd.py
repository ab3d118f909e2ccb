"""10,000 coroutines that want one of 600 symbols each, in a process of their own.

Run as `python -m benchmarks.crowd URL`, it prints seconds, requests, weight and the bytes by which
the process has grown at its largest.
"""

from __future__ import annotations

import asyncio
import re
import resource
import sys
import time
from pathlib import Path

from binance_insurance import InsuranceClient, LocalBudget

from .server import symbols_of

CALLERS = 10_000
POOLS, SIZE = 60, 10


def memory() -> tuple[int, int]:
    """Return the bytes of memory that the process has now, and has had at its largest."""
    status = Path("/proc/self/status")
    if not status.exists():  # not Linux; on Linux this would be the parent's size as well
        largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        return largest, largest
    kilobytes = dict(re.findall(r"^(VmRSS|VmHWM):\s+(\d+) kB$", status.read_text(), re.MULTILINE))
    return int(kilobytes["VmRSS"]) * 1024, int(kilobytes["VmHWM"]) * 1024


async def crowd(url: str) -> tuple[float, int, int, int]:
    """Let them all ask at once."""
    symbols = [symbol for pool in range(POOLS) for symbol in symbols_of(pool, SIZE)]
    async with InsuranceClient(url, budget=LocalBudget(2400)) as client:
        idle, _ = memory()
        start = time.perf_counter()
        pools = await asyncio.gather(
            *(client.fetch_pool(symbols[number % len(symbols)]) for number in range(CALLERS))
        )
        seconds = time.perf_counter() - start
        if any(symbols[number % len(symbols)] not in pool for number, pool in enumerate(pools)):
            raise SystemExit("a caller got another symbol's pool")
        stats = client.stats()
        return seconds, stats.requests_sent, stats.weight_spent, memory()[1] - idle


if __name__ == "__main__":
    print(*asyncio.run(crowd(sys.argv[1])))
