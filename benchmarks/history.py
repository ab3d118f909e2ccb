"""The history beside bare `sqlite3` that does the same work, and beside itself where it is larger.

Times are CPU time of the whole process, threads included, since other programs run, too.
"""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, TypeAlias, TypeVar

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.history import open_history

from .bare import Bare
from .measure import Row, alternate, compare

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine, Iterator, Mapping

    from binance_insurance.history import History

    Rows: TypeAlias = Mapping[str, Callable[[], Coroutine[object, object, Row]]]

T = TypeVar("T")
Observed: TypeAlias = tuple[InsuranceSnapshot, datetime | None]

_BEGIN = datetime(2025, 1, 1, tzinfo=UTC)
_YEAR = 525_600  # minutes
_ASSETS = "USDT", "USDC", "BTC", "BNFCR"
_POOLS, _SYMBOLS = 60, 15
_BATCH = 2_000  # snapshots of one transaction
_SNAPSHOTS = 10  # of one measurement
_BARE, _OURS = "bare sqlite3", "history"


def minute(number: int) -> datetime:
    """Return when a minute of the year begins."""
    return _BEGIN + number * timedelta(minutes=1)


def year_of_one(points: int) -> Iterator[list[Observed]]:
    """Yield a series that moves every minute, in batches."""
    chance, balance = random.Random(1), Decimal("1000000000.12345678")  # noqa: S311
    batch: list[Observed] = []
    for number in range(points):
        balance += Decimal(chance.randrange(-(10**9), 10**9)).scaleb(-8)
        pool = InsurancePool(("BTCUSDT", "ETHUSDT"), (_held("USDT", balance, number),))
        since = minute(number - 1) if number else None
        batch.append((InsuranceSnapshot((pool,), minute(number)), since))
        if len(batch) == _BATCH or number == points - 1:
            yield batch
            batch = []


def market(number: int, update: int) -> InsuranceSnapshot:
    """Return a snapshot of 60 pools and 240 balances in a minute, as updated in another."""
    pools: list[InsurancePool] = []
    for pool in range(_POOLS):
        symbols = tuple(f"S{pool}X{each}USDT" for each in range(_SYMBOLS))
        balance = Decimal(pool * 1_000_000 + update) + Decimal("0.12345678")
        pools.append(InsurancePool(symbols, tuple(_held(a, balance, update) for a in _ASSETS)))
    return InsuranceSnapshot(tuple(pools), minute(number))


def markets(numbers: range) -> list[Observed]:
    """Return snapshots of as many minutes, in each of which all is new."""
    return [(market(each, each), minute(each - 1)) for each in numbers]


def _held(asset: str, balance: Decimal, update: int) -> AssetBalance:
    return AssetBalance(asset, balance, int(minute(update).timestamp()) * 1000)


@asynccontextmanager
async def stores() -> AsyncGenerator[tuple[History, Bare, Path]]:
    """Yield an empty history, an empty bare file, and their directory."""
    with TemporaryDirectory() as name:
        where = Path(name)
        bare = Bare(where / "bare.db")
        try:
            async with open_history(f"sqlite:///{where}/history.db") as history:
                yield history, bare, where
        finally:
            bare.close()


def cpu(work: Callable[[T], object], make: Callable[[], T]) -> Callable[[], Awaitable[float]]:
    """Return a measurement in ms of the CPU time that work takes, without making its argument."""

    async def measure() -> float:
        given = make()
        begun = time.process_time()
        done = work(given)
        if isinstance(done, Awaitable):
            await done
        return (time.process_time() - begun) * 1000

    return measure


async def compared(
    title: str, bound: float, sides: Mapping[str, Callable[[], Awaitable[float]]], rounds: int
) -> Row:
    """Compare two sides in alternating rounds; the second has a bound."""
    times = await alternate(sides, rounds=rounds)
    notes = {list(sides)[1]: f"bound {bound:g}"}
    return Row(title, "ms of CPU", "waiting for the disk.", compare(times, notes))


async def series(points: int, rounds: int) -> Row:
    """Read one series."""
    async with filled(points) as (history, bare, _):
        ours = (await history.series("BTCUSDT", "USDT")).points
        check([each.balance for each in ours], [each[2] for each in bare.series("USDT")])
        del ours
        sides = {
            _BARE: cpu(bare.series, lambda: "USDT"),
            _OURS: cpu(lambda asset: history.series("BTCUSDT", asset), lambda: "USDT"),
        }
        return await compared(f"A series of {points:,} points", 1.5, sides, rounds)


async def drawdowns(points: int, rounds: int) -> Row:
    """Find the deepest falls of one series."""
    async with filled(points) as (history, bare, _):
        ours = await history.drawdowns("BTCUSDT", "USDT")
        check([each.depth for each in ours], [each[0] for each in bare.drawdowns("USDT")])
        sides = {
            _BARE: cpu(bare.drawdowns, lambda: "USDT"),
            _OURS: cpu(lambda asset: history.drawdowns("BTCUSDT", asset), lambda: "USDT"),
        }
        return await compared(f"The ten deepest falls of {points:,} points", 1.75, sides, rounds)


async def size(points: int) -> Row:
    """Compare the bytes of one series."""
    async with filled(points) as (history, bare, where):
        await history.aclose()
        bare.close()  # the last connection puts what is in the log into the file
        sizes = {
            side: [float((where / name).stat().st_size)] * 2
            for side, name in ((_BARE, "bare.db"), (_OURS, "history.db"))
        }
        notes = {_OURS: "bound 1.2"}
        return Row(f"{points:,} points on disk", "bytes", "nothing.", compare(sizes, notes))


@asynccontextmanager
async def filled(points: int) -> AsyncGenerator[tuple[History, Bare, Path]]:
    """Yield both with a series that moves every minute."""
    async with stores() as (history, bare, where):
        for batch in year_of_one(points):
            await history.extend(batch)
            bare.extend(batch)
        yield history, bare, where


def check(ours: list[Decimal], theirs: list[Decimal]) -> None:
    """Refuse to compare sides that do not answer the same."""
    if ours != theirs:
        raise RuntimeError("the sides give different answers")


async def append(rounds: int, *, new: bool) -> Row:
    """Append snapshots one at a time, in which all values are new, or none."""
    async with stores() as (history, bare, _):
        title = f"{_SNAPSHOTS} appends of 240 values, {'all' if new else 'none'} of them new"

        def insert(observed: list[Observed]) -> None:
            for each in observed:
                bare.extend([each])

        sides = {
            _BARE: cpu(insert, batches(new=new)),
            _OURS: cpu(lambda observed: append_each(history, observed), batches(new=new)),
        }
        return await compared(title, 2.5 if new else 1.5, sides, rounds)


async def extend(rounds: int) -> Row:
    """Add snapshots in one transaction."""
    async with stores() as (history, bare, _):
        sides = {
            _BARE: cpu(bare.extend, batches(new=True)),
            _OURS: cpu(history.extend, batches(new=True)),
        }
        return await compared(f"One extend of {_SNAPSHOTS} x 240 new values", 6, sides, rounds)


def batches(*, new: bool) -> Callable[[], list[Observed]]:
    """Return what makes the next snapshots of a store, in which all values are new, or none."""
    numbers = count(1)

    def make() -> list[Observed]:
        taken = [next(numbers) for _ in range(_SNAPSHOTS)]
        return [(market(each, each if new else 0), minute(each - 1)) for each in taken]

    return make


async def append_each(history: History, observed: list[Observed]) -> None:
    """Append snapshots one at a time."""
    for snapshot, since in observed:
        await history.append(snapshot, since=since)


async def latest(snapshots: int, rounds: int) -> Row:
    """Read the newest snapshot of a store, and of one that is 100 times as large."""
    async with stores() as (small, _, _), stores() as (large, _, _):
        await small.extend(markets(range(1, snapshots + 1)))
        for first in range(1, 100 * snapshots, snapshots):
            await large.extend(markets(range(first, first + snapshots)))
        sides = {
            f"{snapshots * 240:,} values": cpu(small.latest, lambda: None),
            f"{snapshots * 24_000:,} values": cpu(large.latest, lambda: None),
        }
        return await compared("latest()", 2, sides, rounds)


async def gaps(number: int, rounds: int) -> Row:
    """Append to a store without gaps, and to one with many."""
    async with stores() as (whole, _, _), stores() as (holed, _, _):
        pools = (InsurancePool(("BTCUSDT",), (_held("USDT", Decimal(1), 0),)),)
        every = timedelta(seconds=10)
        for first in range(0, number, _BATCH):
            times = [_BEGIN - (each + 1) * every for each in range(first, first + _BATCH)]
            await holed.extend([(InsuranceSnapshot(pools, at), None) for at in times])
        sides = {
            "no gap": cpu(lambda given: append_each(whole, given), batches(new=True)),
            f"{number:,} gaps": cpu(lambda given: append_each(holed, given), batches(new=True)),
        }
        return await compared(f"{_SNAPSHOTS} appends of 240 new values", 2, sides, rounds)


def choose(*, quick: bool) -> Rows:
    """Name the rows, in the order of the table."""
    rounds, points = (2, _YEAR // 100) if quick else (7, _YEAR)
    return {
        "series": lambda: series(points, rounds),
        "drawdowns": lambda: drawdowns(points, rounds),
        "append_new": lambda: append(rounds, new=True),
        "append_nothing": lambda: append(rounds, new=False),
        "extend": lambda: extend(rounds),
        "size": lambda: size(points),
        "latest": lambda: latest(2 if quick else 10, rounds),
        "gaps": lambda: gaps(2_000 if quick else 100_000, rounds),
    }
