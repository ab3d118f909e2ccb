"""Processes that append to one history, and are killed; and one that reads much."""

from __future__ import annotations

import asyncio
import gc
import random
import subprocess
import sys
import time
from datetime import timedelta
from decimal import Decimal

import pytest

from benchmarks.processes import running
from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.history import Gap, History, open_history

from . import ROOT
from .recording import POOLS, at
from .scale import sample

KILLS = sample(2, 20, 8)
ENOUGH = 10_000  # more than a process appends before it is killed
PAUSE = 100  # seconds of the exchange's time in which nobody looks


def recorder(url: str, name: str, first: int, count: int) -> list[str]:
    """The command of a process that appends."""
    script = ROOT / "tests" / "recording.py"
    return [sys.executable, "-P", str(script), url, name, str(first), str(count)]


def killed(url: str, first: int, chance: random.Random) -> int:
    """Let a process append, kill it in the middle, and return the last that it acknowledged."""
    with running(recorder(url, "", first, ENOUGH)) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == f"{first}\n"
        time.sleep(chance.uniform(0.0, 0.05))
        process.kill()
        # A line that was cut off was acknowledged by its append, but not to us.
        lines = [line for line in process.stdout.read().split("\n") if line]
        return int(lines[-1]) if lines else first


async def numbers(history: History, symbol: str) -> list[int]:
    """The numbers of the snapshots that a symbol's pool reported."""
    return [int(point.balance) for point in (await history.series(symbol, "USDT")).points]


@pytest.mark.campaign
def test_a_kill_leaves_whole_snapshots_and_a_gap_while_nobody_looked(history_url: str) -> None:
    chance, first, there, gaps = random.Random(1), 0, list[int](), list[Gap]()

    async def look(begun: int, acknowledged: int) -> int:
        async with open_history(history_url) as history:
            found = await numbers(history, "S0USDT")
            for pool in range(1, POOLS):
                assert await numbers(history, f"S{pool}USDT") == found, "a snapshot by halves"
            # What was acknowledged is there, and at most the one that was under way.
            last = found[-1]
            assert last - acknowledged in {0, 1}
            assert found == [*there, *range(begun, last + 1)]
            assert list((await history.series("S0USDT", "USDT")).gaps) == gaps
            latest = await history.latest()
            assert latest is not None
            assert {each.balance("USDT") for each in latest} == {Decimal(last)}
            return last

    for _ in range(KILLS):
        last = asyncio.run(look(first, killed(history_url, first, chance)))
        there += range(first, last + 1)
        first = last + PAUSE
        gaps.append(Gap(at(last), at(first)))
    store = history_url.partition(":")[0]
    print(f"{store}: {KILLS} kills, {len(there)} snapshots, each whole, and {len(gaps)} gaps")


def test_three_processes_append_to_one_history(history_url: str) -> None:
    count = sample(20, 200, 60)
    processes = [
        subprocess.Popen(
            recorder(history_url, name, 0, count),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name in "ABC"
    ]
    try:
        errors = [process.communicate(timeout=50)[1] for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert errors == ["", "", ""]

    async def look() -> None:
        async with open_history(history_url) as history:
            for name in "ABC":
                for pool in range(0, POOLS, 7):
                    found = await numbers(history, f"{name}S{pool}USDT")
                    assert found == list(range(count))
            info = await history.info()
            assert info.values == 3 * POOLS * (count + 1)
            assert info.gaps == ()

    asyncio.run(look())


async def longest_delay(work: asyncio.Task[object]) -> float:
    """How long the event loop was not free while something went on, in seconds."""
    longest, last = 0.0, time.perf_counter()
    while not work.done():
        await asyncio.sleep(0.002)
        now = time.perf_counter()
        longest, last = max(longest, now - last), now
    await work
    return longest


@pytest.mark.pace
@pytest.mark.campaign
@pytest.mark.long
def test_reading_much_does_not_hold_the_event_loop_up(history_url: str) -> None:
    rows = 120_000
    begin = int(at(0).timestamp() * 1000)

    def observed(number: int) -> tuple[InsuranceSnapshot, None]:
        balance = AssetBalance("USDT", Decimal(number * 7 % 1000), begin + number)
        pools = (InsurancePool(("BTCUSDT",), (balance,)),)
        return InsuranceSnapshot(pools, at(0) + timedelta(milliseconds=number)), None

    async def measure() -> list[float]:
        async with open_history(history_url) as history:
            await history.extend(map(observed, range(rows)))
            gc.collect()
            gc.freeze()  # what the other tests have left is not collected again and again
            delays: list[float] = []
            for _ in range(5):  # a busy machine may stop the process at any time
                reading: asyncio.Task[object] = asyncio.create_task(
                    history.series("BTCUSDT", "USDT")
                )
                delays.append(await longest_delay(reading))
                falling: asyncio.Task[object] = asyncio.create_task(
                    history.drawdowns(None, "USDT", limit=None)
                )
                delays[-1] = max(delays[-1], await longest_delay(falling))
            return delays

    try:
        delays = asyncio.run(measure())
    finally:
        gc.unfreeze()
    print(f"{history_url.partition(':')[0]}, {rows:,} values: {min(delays) * 1000:.0f} ms")
    assert min(delays) < 0.1
