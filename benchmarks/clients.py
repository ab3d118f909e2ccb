"""Speed and weight beside other clients."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, NamedTuple
from urllib.request import urlopen

import aiolimiter
from binance_sdk_derivatives_trading_usds_futures.rest_api.models import (
    QueryInsuranceFundBalanceSnapshotResponse,
)

from binance_insurance._decoding import decode_pools
from binance_insurance.budget import Report, create_budget

from .crowd import CALLERS, POOLS, SIZE
from .fleet import watch
from .measure import Result, Row, alternate, compare, ratio
from .processes import running
from .redis_server import RedisServer
from .server import SNAPSHOT_WEIGHT, symbols_of
from .sides import AT_ONCE, SIDES, unlimited

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator, Mapping, Sequence

    from binance_insurance import LocalBudget
    from binance_insurance.budget import WeightBudget

    Rows = Mapping[str, Callable[[], Coroutine[object, object, Row]]]

_MICRO = 1e6
_MILLI = 1e3
_LONE_POOLS = 900
_JUDGED_BY = ("hand-written aiohttp", "bare aiohttp, tuned, msgspec")
_IMPORTS = {
    "aiohttp, msgspec": "import aiohttp, msgspec",
    "binance_insurance": "import binance_insurance",
    "ccxt.async_support": "import ccxt.async_support",
    "python-binance": "import binance",
    "official SDK": "import binance_sdk_derivatives_trading_usds_futures",
}


class Taken(NamedTuple):
    """What a side took for a batch, in seconds."""

    wall: float
    cpu: float


@contextmanager
def exchange(pools: int, size: int) -> Generator[str]:
    """Start the server in a process of its own and give its URL."""
    with running([sys.executable, "-m", "benchmarks.server", str(pools), str(size)]) as process:
        yield process.stdout.readline().strip() if process.stdout else ""


@contextmanager
def client(side: str, url: str, symbols: Sequence[str]) -> Generator[Callable[[int], Taken]]:
    """Start a side in a process of its own; the call asks for so many symbols."""
    with running([sys.executable, "-m", "benchmarks.sides", side, url, *symbols]) as process:

        def ask(count: int) -> Taken:
            if process.stdin is None or process.stdout is None:
                raise RuntimeError("no pipes")
            print(count, file=process.stdin, flush=True)
            wall, cpu = process.stdout.readline().split()
            return Taken(float(wall), float(cpu))

        yield ask


def get(url: str) -> bytes:
    """Ask the server for something that is not measured."""
    with urlopen(url) as response:
        body: bytes = response.read()
        return body


def counts(url: str) -> tuple[int, int]:
    """Ask the server for its requests and weight."""
    requests, weight = json.loads(get(f"{url}/counts"))
    return requests, weight


async def per_symbol(rounds: int) -> Row:
    """Measure the CPU time of requests for one symbol each.

    Where other programs run too, seconds on the clock vary by a factor of two, CPU time by less.
    Each process has a speed of its own, for as long as it runs, that differs from the next one's
    by up to 15 %. So each round starts every side anew, and measures it when it is warm.
    """
    symbols = [symbols_of(number, 8)[0] for number in range(_LONE_POOLS)]
    with exchange(_LONE_POOLS, 8) as url:

        def measure(side: str) -> Callable[[], Awaitable[float]]:
            count = 150 if "SDK" in side else _LONE_POOLS

            async def once() -> float:
                with client(side, url, symbols) as ask:
                    ask(count)
                    return ask(count).cpu / count * _MICRO

            return once

        times = await alternate(
            {side: measure(side) for side in SIDES if not side.startswith("fetch_pools")},
            rounds=rounds,
        )
    return Row(
        f"One symbol a request, {AT_ONCE} callers at a time",
        "µs of CPU time a request",
        "the network and TLS; sharing, since no two callers want the same pool. Ours counts "
        "weight, retries, and checks what it decodes; none of the others does.",
        compare(times, {}),
        [ratio(times, "fetch_pool", side) for side in _JUDGED_BY],
        "CPU time",
    )


async def six_hundred(rounds: int) -> Row:
    """Measure the 600 symbols of 60 pools."""
    symbols = [symbol for pool in range(POOLS) for symbol in symbols_of(pool, SIZE)]
    notes: dict[str, str] = {}
    with ExitStack() as stack:
        url = stack.enter_context(exchange(POOLS, SIZE))

        def measure(side: str) -> Callable[[], Awaitable[float]]:
            ask = stack.enter_context(client(side, url, symbols))

            async def once() -> float:
                before = counts(url)
                seconds = ask(len(symbols)).wall
                requests, weight = (
                    now - then for now, then in zip(counts(url), before, strict=True)
                )
                notes[side] = f"{requests} requests, weight {weight}"
                return seconds * _MILLI

            return once

        times = await alternate(
            {side: measure(side) for side in SIDES if side != "fetch_pool"}, rounds=rounds
        )
    return Row(
        f"The pools of {len(symbols)} symbols ({POOLS} pools)",
        "ms",
        "the network and TLS, which would make 600 requests look far worse. The new client opens "
        f"its connection in this time; the others' are open. {SNAPSHOT_WEIGHT} is the weight of "
        "the one request without symbol.",
        compare(times, notes),
    )


async def paying(rounds: int) -> Row:
    """Measure what the middleware adds to an aiohttp request, in five processes one by one."""
    processes = min(5, rounds)
    symbols = [symbols_of(number, 8)[0] for number in range(_LONE_POOLS)]
    times: dict[str, list[float]] = {"hand-written aiohttp": [], "the same, paying": []}
    with exchange(_LONE_POOLS, 8) as url:
        for _ in range(processes):
            command = [sys.executable, "-m", "benchmarks.paying", url, str(rounds // processes)]
            done = await asyncio.to_thread(
                subprocess.run,
                [*command, *symbols],
                check=True,
                capture_output=True,
                text=True,
                timeout=120,
            )
            for line in done.stdout.splitlines():
                for side, seconds in zip(times, line.split(), strict=True):
                    times[side].append(float(seconds) * _MICRO)
    plain, paid = times.values()
    added = [with_it - without for without, with_it in zip(plain, paid, strict=True)]
    low, middle, high = quantiles(added, n=4)
    notes = {"the same, paying": f"adds {middle:.1f} ({low:.1f} to {high:.1f})"}
    return Row(
        f"BudgetMiddleware on requests for one symbol each, {AT_ONCE} callers at a time",
        "µs of CPU time a request",
        "waiting for weight, which is never short here.",
        compare(times, notes),
        measure="CPU time",
    )


async def decoding(rounds: int) -> Row:
    """Measure the decoding of everything."""
    with exchange(POOLS, SIZE) as url:
        body = get(f"{url}/fapi/v1/insuranceBalance")
    repeats, seen = 20, datetime.now(UTC)

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
            "binance_insurance": measure(lambda: decode_pools(body, seen)),
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


async def sharing(rounds: int, redis: str, directory: Path) -> Row:
    """Measure weight that processes share, while no other process wants any."""
    repeats = 200

    async def prepared(budget: WeightBudget) -> tuple[WeightBudget, Report]:
        report = Report(200, used_weight=1, date=float(int(time.time())))
        budget.settle(await budget.acquire(), report)
        return budget, report

    def measure(url: str, *, settled: bool) -> Callable[[], Awaitable[float]]:
        async def once() -> float:
            budget, report = await prepared(create_budget(url, 10**9))
            taken = 0.0
            for _ in range(repeats):
                start = time.perf_counter()
                lease = await budget.acquire()
                taken += time.perf_counter() - start
                if settled:
                    budget.settle(lease, report)
            await budget.aclose()
            return taken / repeats * _MICRO

        return once

    times = await alternate(
        {
            "LocalBudget": measure("memory://", settled=True),
            "SqliteBudget": measure(f"sqlite:///{directory / 'budget.sqlite'}", settled=True),
            "RedisBudget": measure(redis, settled=True),
        },
        rounds=rounds,
    )
    return Row(
        "An acquire that need not wait, after the last was settled",
        "µs",
        "the network: Redis is on this machine. SQLite's is a transaction in another thread.",
        compare(times, {}),
    )


async def fleets(full: int, redis: str, directory: Path) -> Row:
    """Watch four processes that ask as much as they can."""
    budgets = {
        "SqliteBudget": f"sqlite:///{directory / 'fleet.sqlite'}",
        "RedisBudget": redis,
        "LocalBudget, only the header": "memory://",
    }
    results: list[Result] = []
    for side, url in budgets.items():
        seen = await watch(url, 2400, interval=2, callers=16, full=full)
        notes = f"{seen.refused} requests refused with 429 or 418"
        results.append(Result(side, seen.weight / 2400 * 100, notes=notes))
    return Row(
        f"4 processes, 16 callers each, 2,400 per 2 s, {full} windows",
        "% of the limit that was granted, in the worst window",
        "a real exchange, whose window is 60 s and whose answers take longer.",
        results,
    )


async def crowding(rounds: int) -> Row:
    """Measure 10,000 coroutines at once."""
    outcomes: list[tuple[float, int, int, int]] = []
    with exchange(POOLS, SIZE) as url:

        async def once() -> float:
            command = [sys.executable, "-m", "benchmarks.crowd", url]
            done = await asyncio.to_thread(
                subprocess.run, command, check=True, capture_output=True, text=True, timeout=120
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
                timeout=120,
                cwd=sys.prefix,  # so that what is installed is imported, not the source beside us
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


@contextmanager
def redis(directory: Path) -> Generator[str]:
    """Start a Redis server and give its URL."""
    server = RedisServer(directory)
    server.start()
    try:
        yield server.url
    finally:
        server.stop()


async def alone(row: Callable[[str, Path], Awaitable[Row]]) -> Row:
    """Run a row that needs a Redis server and a directory."""
    with TemporaryDirectory() as name, redis(Path(name)) as url:
        return await row(url, Path(name))


def choose(*, quick: bool) -> Rows:
    """Name the rows, in the order of the table."""

    def rounds(many: int) -> int:
        return 2 if quick else many

    return {
        "per_symbol": lambda: per_symbol(rounds(30)),
        "paying": lambda: paying(rounds(30)),
        "six_hundred": lambda: six_hundred(rounds(15)),
        "decoding": lambda: decoding(rounds(50)),
        "acquiring": lambda: acquiring(rounds(50)),
        "crowding": lambda: crowding(rounds(5)),
        "importing": lambda: importing(rounds(15)),
        "sharing": lambda: alone(lambda url, where: sharing(rounds(30), url, where)),
        "fleets": lambda: alone(lambda url, where: fleets(1 if quick else 10, url, where)),
    }
