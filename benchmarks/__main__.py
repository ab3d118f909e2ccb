"""Run all rows: `python -m benchmarks [--json FILE] [--quick]`; see `nox -s bench`."""

from __future__ import annotations

import argparse
import asyncio
import gc
import itertools
import json
import subprocess
import sys
import time
from contextlib import AsyncExitStack, contextmanager
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING

import aiohttp
import aiolimiter
import msgspec
from binance_sdk_derivatives_trading_usds_futures.rest_api.models import (
    QueryInsuranceFundBalanceSnapshotResponse,
)

from binance_insurance import InsuranceClient, LocalBudget
from binance_insurance._decoding import decode_pools
from binance_insurance._headers import Report

from .crowd import CALLERS, POOLS, SIZE
from .measure import Row, alternate, compare, write_table
from .server import SNAPSHOT_WEIGHT, symbols_of
from .sides import AT_ONCE, SIDES, unlimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterable

    from .sides import Fetch

_MICRO = 1e6
_MILLI = 1e3
_LONE_POOLS = 900
_IMPORTS = {
    "aiohttp, msgspec": "import aiohttp, msgspec",
    "binance_insurance": "import binance_insurance",
    "ccxt.async_support": "import ccxt.async_support",
    "python-binance": "import binance",
    "official SDK": "import binance_sdk_derivatives_trading_usds_futures",
}


@contextmanager
def exchange(pools: int, size: int) -> Generator[str]:
    """Start the server in a process of its own and give its URL."""
    command = [sys.executable, "-m", "benchmarks.server", str(pools), str(size)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process.stdout.readline().strip() if process.stdout else ""
        finally:
            process.kill()


async def counts(url: str, path: str = "/counts") -> tuple[int, int]:
    """Ask the server for its requests and weight."""
    async with aiohttp.ClientSession() as session, session.get(url + path) as response:
        requests, weight = await response.json()
        return requests, weight


async def fetch_all(fetch: Fetch, symbols: Iterable[str]) -> float:
    """Ask for symbols, so many at a time, and return the seconds that it took."""
    left = iter(symbols)

    async def work() -> None:
        for symbol in left:
            await fetch(symbol)

    start = time.perf_counter()
    await asyncio.gather(*(work() for _ in range(AT_ONCE)))
    return time.perf_counter() - start


async def per_symbol(rounds: int) -> Row:
    """Measure requests for one symbol each."""
    symbols = itertools.cycle(symbols_of(number, 8)[0] for number in range(_LONE_POOLS))
    with exchange(_LONE_POOLS, 8) as url:
        async with AsyncExitStack() as stack:

            def measure(fetch: Fetch, requests: int) -> Callable[[], Awaitable[float]]:
                async def once() -> float:
                    seconds = await fetch_all(fetch, itertools.islice(symbols, requests))
                    return seconds / requests * _MICRO

                return once

            times = await alternate(
                {
                    side: measure(
                        await stack.enter_async_context(opened(url)), 150 if "SDK" in side else 600
                    )
                    for side, opened in SIDES.items()
                },
                rounds=rounds,
            )
    return Row(
        f"One symbol a request, {AT_ONCE} callers at a time",
        "µs a request",
        "the network and TLS; sharing, since no two callers want the same pool. Ours counts "
        "weight, retries and types; none of the others does.",
        compare(times, {}),
    )


async def six_hundred(rounds: int) -> Row:
    """Measure the 600 symbols of 60 pools."""
    symbols = [symbol for pool in range(POOLS) for symbol in symbols_of(pool, SIZE)]
    notes: dict[str, str] = {}
    with exchange(POOLS, SIZE) as url:
        async with AsyncExitStack() as stack:

            async def counted(side: str, work: Awaitable[float]) -> float:
                before = await counts(url)
                seconds = await work
                requests, weight = (
                    now - then for now, then in zip(await counts(url), before, strict=True)
                )
                notes[side] = f"{requests} requests, weight {weight}"
                return seconds * _MILLI

            async def cold() -> float:
                async with InsuranceClient(url, budget=unlimited()) as client:
                    return await fetch_pools(client)

            async def fetch_pools(client: InsuranceClient) -> float:
                start = time.perf_counter()
                await client.fetch_pools(symbols)
                return time.perf_counter() - start

            warm = await stack.enter_async_context(InsuranceClient(url, budget=unlimited()))
            measures: dict[str, Callable[[], Awaitable[float]]] = {
                "fetch_pools, new client": lambda: counted("fetch_pools, new client", cold()),
                "fetch_pools, again": lambda: counted("fetch_pools, again", fetch_pools(warm)),
            }

            def measure(side: str, fetch: Fetch) -> Callable[[], Awaitable[float]]:
                return lambda: counted(side, fetch_all(fetch, symbols))

            for side, opened in SIDES.items():
                if side != "binance_insurance":
                    measures[side] = measure(side, await stack.enter_async_context(opened(url)))
            times = await alternate(measures, rounds=rounds)
    return Row(
        f"The pools of {len(symbols)} symbols ({POOLS} pools)",
        "ms",
        "the network and TLS, which would make 600 requests look far worse. The new client opens "
        f"its connection in this time; the others' are open. {SNAPSHOT_WEIGHT} is the weight of "
        "one request without symbol.",
        compare(times, notes),
    )


async def decoding(rounds: int) -> Row:
    """Measure the decoding of everything."""
    with exchange(POOLS, SIZE) as url:
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{url}/fapi/v1/insuranceBalance") as response,
        ):
            body = await response.read()
    repeats = 20

    def by_hand() -> list[dict[str, Decimal]]:
        return [
            {held["asset"]: Decimal(held["marginBalance"]) for held in pool["assets"]}
            for pool in json.loads(body)
        ]

    def by_sdk() -> object:
        return QueryInsuranceFundBalanceSnapshotResponse.from_dict(json.loads(body))

    def measure(decode: Callable[[], object]) -> Callable[[], Awaitable[float]]:
        async def once() -> float:
            start = time.perf_counter()
            for _ in range(repeats):
                decode()
            return (time.perf_counter() - start) / repeats * _MICRO

        return once

    times = await alternate(
        {
            "binance_insurance": measure(lambda: decode_pools(body)),
            "json and Decimal": measure(by_hand),
            "official SDK": measure(by_sdk),
        },
        rounds=rounds,
    )
    return Row(
        f"Decoding a snapshot of {len(body) / 1000:.1f} kB, {POOLS} pools",
        "µs",
        "json and Decimal keeps the balances only; the SDK leaves them text. Ours checks all.",
        compare(times, {}),
    )


async def acquiring(rounds: int) -> Row:
    """Measure weight that nobody waits for."""
    repeats = 2000
    limiter = aiolimiter.AsyncLimiter(10**9, 60)

    async def by_limiter() -> float:
        start = time.perf_counter()
        for _ in range(repeats):
            await limiter.acquire()
        return (time.perf_counter() - start) / repeats * _MICRO

    async def prepared() -> tuple[LocalBudget, Report]:
        budget, report = unlimited(), Report(200, used_weight=1, date=float(int(time.time())))
        budget.settle(await budget.acquire(), report)
        return budget, report

    async def acquire() -> float:
        budget, _ = await prepared()
        start = time.perf_counter()
        for _ in range(repeats):
            await budget.acquire()
        return (time.perf_counter() - start) / repeats * _MICRO

    async def acquire_and_settle() -> float:
        budget, report = await prepared()
        start = time.perf_counter()
        for _ in range(repeats):
            budget.settle(await budget.acquire(), report)
        return (time.perf_counter() - start) / repeats * _MICRO

    times = await alternate(
        {
            "LocalBudget.acquire": acquire,
            "aiolimiter": by_limiter,
            "LocalBudget.acquire and settle": acquire_and_settle,
        },
        rounds=rounds,
    )
    return Row(
        "An acquire that need not wait",
        "µs",
        "waiting. aiolimiter knows no windows, reports or bans, and has nothing to settle.",
        compare(times, {}),
    )


async def crowding(rounds: int) -> Row:
    """Measure 10,000 coroutines at once."""
    outcomes: list[tuple[float, int, int, int]] = []
    with exchange(POOLS, SIZE) as url:

        async def once() -> float:
            command = [sys.executable, "-m", "benchmarks.crowd", url]
            done = await asyncio.to_thread(
                subprocess.run, command, check=True, capture_output=True, text=True
            )
            seconds, requests, weight, memory = done.stdout.split()
            outcomes.append((float(seconds), int(requests), int(weight), int(memory)))
            return float(seconds) * _MILLI

        times = await alternate({"fetch_pool": once}, rounds=rounds)
    requests, weight, memory = (max(each[field] for each in outcomes) for field in (1, 2, 3))
    notes = f"at most {requests} requests, weight {weight}, {memory / 1e6:.0f} MB above idle"
    return Row(
        f"{CALLERS:,} coroutines await {POOLS * SIZE} symbols at once",
        "ms",
        "peers, which would send 10,000 requests, four times the limit. Memory includes the "
        "10,000 coroutines themselves.",
        compare(times, {"fetch_pool": notes}),
    )


async def importing(rounds: int) -> Row:
    """Measure imports, each in a process of its own."""

    def measure(code: str) -> Callable[[], Awaitable[float]]:
        timed = f"import time; t = time.perf_counter(); {code}; print(time.perf_counter() - t)"

        async def once() -> float:
            done = await asyncio.to_thread(
                subprocess.run,
                [sys.executable, "-c", timed],
                check=True,
                capture_output=True,
                text=True,
            )
            return float(done.stdout) * _MILLI

        return once

    times = await alternate({side: measure(code) for side, code in _IMPORTS.items()}, rounds=rounds)
    return Row(
        "Import",
        "ms",
        "the start of Python itself. tenacity comes with the first client, not with the import.",
        compare(times, {}),
    )


async def run(*, quick: bool) -> list[Row]:
    """Run every row."""
    # No side should pay for collecting what the others' imports left behind.
    gc.collect()
    gc.freeze()
    rows: list[Row] = []
    for make, rounds in (
        (per_symbol, 30),
        (six_hundred, 15),
        (decoding, 50),
        (acquiring, 50),
        (crowding, 5),
        (importing, 15),
    ):
        rows.append(await make(2 if quick else rounds))
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return rows


def main() -> None:
    """Print the table, and write it as JSON where asked to."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="two rounds: does it all run?")
    arguments = parser.parse_args()
    rows = asyncio.run(run(quick=arguments.quick))
    print(write_table(rows))
    if arguments.json is not None:
        arguments.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")


if __name__ == "__main__":
    main()
