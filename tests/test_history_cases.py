"""What the contract of the history says, case by case, of each store and of the reference."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from msgspec import Struct

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot

from .conftest import IN_CAMPAIGN
from .histories import Observation, Remembered
from .histories.referee import opened

START = datetime(2026, 9, 24, 9, 14, tzinfo=UTC)

Fall = tuple[str, str, float, float, float | None]  # peak, trough and their times, recovered


@pytest.fixture(params=[None, "sqlite", pytest.param("postgresql", marks=IN_CAMPAIGN)])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> str | None:
    """The URL of a store, or None for the reference; a test that asks for it runs on each."""
    if request.param != "postgresql":
        return request.param and f"sqlite:///{tmp_path / 'insurance.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def seconds(time: datetime | int) -> float:
    """Seconds after the start, of a datetime or of milliseconds."""
    if isinstance(time, datetime):
        return (time - START) / timedelta(seconds=1)
    return (time - round(START.timestamp() * 1000)) / 1000


def look(at: float, *pools: str, since: float | None = None) -> Observation:
    """Observe pools, such as `A B: 12.5@3, 7 BTC@3`: the update times are seconds too."""
    snapshot = InsuranceSnapshot(tuple(map(pool_of, pools)), after(at))
    return Observation(snapshot, None if since is None else after(since))


def pool_of(text: str) -> InsurancePool:
    symbols, _, held = text.partition(": ")
    return InsurancePool(tuple(symbols.split()), tuple(map(balance_of, held.split(", "))))


def balance_of(text: str) -> AssetBalance:
    amount, _, time = text.partition("@")
    number, _, asset = amount.partition(" ")
    return AssetBalance(
        asset or "USDT",
        Decimal(number),
        round((START.timestamp() + float(time)) * 1000),
    )


@asynccontextmanager
async def history_of(store: str | None, observations: Sequence[Observation]) -> AsyncGenerator[Any]:
    if store is None:
        yield Remembered(observations)
        return
    async with opened(store) as history:
        for snapshot, since in observations:
            await history.append(snapshot, since=since)
        yield history


class Case(Struct, frozen=True, kw_only=True):
    """What was observed, what is asked, and what is answered, in seconds and texts."""

    looks: tuple[Observation, ...]
    symbol: str | None = "A"
    asset: str = "USDT"
    start: float | None = None
    end: float | None = None
    window: float | None = None
    points: tuple[str, ...] | None = None  # `balance@update time`, and where it matters ` seen …`
    gaps: tuple[tuple[float, float], ...] | None = None
    regroupings: tuple[tuple[float, float, str, str], ...] | None = None
    falls: tuple[Fall, ...] | None = None

    @property
    def bounds(self) -> dict[str, datetime]:
        both = {"start": self.start, "end": self.end}
        return {name: after(time) for name, time in both.items() if time is not None}


CASES = {
    # What belongs to a series
    "a value that stays is one point, first reported when it was first seen": Case(
        looks=(look(0, "A: 5@-9"), look(60, "A: 5@-9"), look(120, "A: 4@100")),
        points=("5@-9 seen 0", "4@100 seen 120"),
    ),
    "a late arrival makes the first report earlier": Case(
        looks=(look(60, "A: 5@-9"), look(0, "A: 5@-9")),
        points=("5@-9 seen 0",),
    ),
    "two values of one time are both there, the one first reported later behind": Case(
        looks=(look(0, "A: 5@0"), look(60, "A: 4@0"), look(120, "A: 5@0"), look(180, "A: 6@0")),
        points=("5@0 seen 0", "4@0 seen 60", "6@0 seen 180"),
        falls=(("5", "4", 0, 0, 0),),
    ),
    "balances are numbers": Case(
        looks=(look(0, "A: 12.50@0"), look(60, "A: 12.5@0"), look(120, "A: 125E-1@0")),
        points=("12.5@0 seen 0",),
    ),
    "there is one zero": Case(
        looks=(look(0, "A: 0@0"), look(60, "A: -0.0@0"), look(120, "A: 0E-8@0")),
        points=("0@0 seen 0",),
    ),
    "an observation counts until the end of its second": Case(
        looks=(
            look(0, "A B: 9@0.999"),
            look(60, "A: 8@0.999", "B: 1@0.999"),
            look(120, "A: 7@1", "B: 1@1"),
        ),
        points=("9@0.999", "7@1"),
    ),
    "where the pool changed, what was updated after the earlier observation is the later's": Case(
        looks=(
            look(0, "A B: 9@0"),
            look(60, "A B: 8@60.5", "C: 1@0"),
            look(999, "A: 7@61", "C: 1@0"),
        ),
        points=("9@0", "8@60.5", "7@61"),
        regroupings=(),
    ),
    "the first pool reaches back and the last one forward": Case(
        looks=(
            look(0, "A B: 9@-99999"),
            look(60, "A: 8@-99999", "B: 1@0"),
            look(120, "A: 8@99999", "B: 1@0"),
        ),
        points=("9@-99999", "8@99999"),
    ),
    "a symbol that comes back belongs to what its pool reports then": Case(
        looks=(
            look(0, "A B: 9@0", "C: 1@0"),
            look(60, "A: 4@60", "B C: 6@60"),
            look(120, "A B: 8@120", "C: 2@120"),
        ),
        points=("9@0", "4@60", "8@120"),
        regroupings=((0, 60, "A B", "A"), (60, 120, "A", "A B")),
        falls=(),
    ),
    "points are those from start to before end": Case(
        looks=(look(0, "A: 1@0"), look(60, "A: 2@60"), look(120, "A: 3@120")),
        start=0.001,
        end=120,
        points=("2@60",),
    ),
    # Regroupings
    "a listing is none, and the same value is one point": Case(
        looks=(look(0, "A: 9@0"), look(60, "A B: 9@0"), look(120, "A B: 8@120")),
        points=("9@0 seen 0", "8@120"),
        regroupings=(),
        falls=(("9", "8", 0, 120, None),),
    ),
    "a delisting is none": Case(
        looks=(look(0, "A B: 9@0"), look(60, "A: 8@60")),
        points=("9@0", "8@60"),
        regroupings=(),
        falls=(("9", "8", 0, 60, None),),
    ),
    "a symbol of the pool that goes to another one is one": Case(
        looks=(look(0, "A B: 9@0", "C: 1@0"), look(60, "A: 5@60", "B C: 5@60")),
        regroupings=((0, 60, "A B", "A"),),
        falls=(),
    ),
    "a symbol that comes from another one is one": Case(
        looks=(look(0, "A: 9@0", "B C: 3@0"), look(60, "A B: 8@60", "C: 4@60")),
        regroupings=((0, 60, "A", "A B"),),
        falls=(),
    ),
    "so is a listing with a move": Case(
        looks=(look(0, "A: 9@0", "B C: 3@0"), look(60, "A B D: 8@60", "C: 4@60")),
        regroupings=((0, 60, "A", "A B D"),),
        falls=(),
    ),
    "one that was delisted in between was in no pool of the earlier observation": Case(
        looks=(look(0, "A: 9@0", "B: 1@0"), look(60, "A: 9@0"), look(120, "A B: 8@120")),
        regroupings=(),
        falls=(("9", "8", 0, 120, None),),
    ),
    "between two observations of the symbol itself": Case(
        looks=(
            look(0, "A B: 9@0", "C: 1@0"),
            look(60, "B: 9@0", "C: 1@0"),
            look(120, "A C: 2@120", "B: 8@120"),
        ),
        regroupings=((0, 120, "A B", "A C"),),
        falls=(),
    ),
    "regroupings are those observed from start to before end": Case(
        looks=(
            look(0, "A: 9@0", "B: 1@0"),
            look(60, "A B: 8@60"),
            look(120, "A: 7@120", "B: 1@120"),
        ),
        start=60,
        end=120,
        regroupings=((0, 60, "A", "A B"),),
    ),
    # Gaps
    "what no span covers is a gap": Case(
        looks=(
            look(0, "A: 1@0"),
            look(60, "A: 1@0", since=0),
            look(300, "A: 1@0"),
            look(360, "A: 1@0", since=300),
        ),
        gaps=((60, 300),),
    ),
    "one that follows itself covers nothing": Case(
        looks=(look(0, "A: 1@0"), look(60, "A: 1@0", since=60)),
        gaps=((0, 60),),
    ),
    "a range of no length has nothing": Case(
        looks=(look(0, "A: 1@0"), look(60, "A: 1@60")),
        start=60,
        end=60,
        points=(),
        gaps=(),
        falls=(),
    ),
    "another one who looked leaves none": Case(
        looks=(
            look(0, "A: 1@0"),
            look(300, "A: 1@0"),
            look(200, "A: 1@0"),
            look(400, "A: 1@0", since=100),
        ),
        gaps=((0, 100),),
    ),
    "whatever the pools were": Case(
        looks=(
            look(0, "A: 1@0"),
            look(60, "B: 1@0", since=0),
            look(120, "B: 1@0", since=60),
            look(180, "A: 1@0", since=120),
        ),
        gaps=(),
    ),
    "from the first to the last observation of the symbol": Case(
        looks=(look(0, "B: 1@0"), look(60, "A: 1@0"), look(120, "A: 1@0"), look(180, "B: 1@0")),
        gaps=((60, 120),),
    ),
    "a span reaches into it from outside": Case(
        looks=(
            look(60, "A: 1@0"),
            look(120, "A: 1@0"),
            look(90, "B: 1@0", since=0),
            look(150, "B: 1@0", since=100),
        ),
        gaps=((90, 100),),
    ),
    "of the whole fund, from the first to the last of all": Case(
        looks=(look(0, "B: 1@0"), look(60, "A: 1@0"), look(120, "A: 1@0", since=60)),
        symbol=None,
        gaps=((0, 60),),
    ),
    "gaps are cut to the range": Case(
        looks=(look(0, "A: 1@0"), look(60, "A: 1@0"), look(120, "A: 1@0"), look(180, "A: 1@0")),
        start=30,
        end=120,
        gaps=((30, 60), (60, 120)),
    ),
    # Falls
    "the last that stood so high, the first of the deepest, the first as high again": Case(
        looks=tuple(look(n, f"A: {b}@{n}") for n, b in enumerate((9, 5, 9, 3, 4, 3, 8, 9, 10))),
        falls=(("9", "3", 2, 3, 7), ("9", "5", 0, 1, 2)),
    ),
    "the points before it are forgotten with the window": Case(
        looks=tuple(look(n, f"A: {b}@{n}") for n, b in enumerate((9, 7, 6, 6, 5))),
        window=1,
        falls=(("9", "7", 0, 1, None), ("6", "5", 3, 4, None)),
    ),
    "a point exactly the window older still counts, whatever a float makes of it": Case(
        looks=(look(0, "A: 9@0"), look(60, "A: 8@1.001")),
        window=1.001,
        falls=(("9", "8", 0, 1.001, None),),
    ),
    "one a millisecond older does not": Case(
        looks=(look(0, "A: 9@0"), look(60, "A: 8@1.002")),
        window=1.001,
        falls=(),
    ),
    "a regrouping ends a series also where it was observed outside of the range": Case(
        looks=(
            look(0, "A B: 9@0", "C: 0@0"),
            look(600, "A: 5@100", "B C: 4@100"),
            look(660, "A: 4@630", "B C: 4@100"),
        ),
        end=500,
        points=("9@0", "5@100"),
        regroupings=(),
        falls=(),
    ),
    "recovered in the same series of peaks alone": Case(
        looks=(
            look(0, "A: 9@0", "B: 9@0"),
            look(60, "A: 5@60", "B: 9@0"),
            look(120, "A B: 14@120"),
        ),
        falls=(("9", "5", 0, 60, None),),
    ),
    "of the points in the range alone": Case(
        looks=tuple(look(n, f"A: {b}@{n}") for n, b in enumerate((9, 7, 6, 9))),
        start=1,
        end=3,
        falls=(("7", "6", 1, 2, None),),
    ),
    "depths are exact": Case(
        looks=(look(0, "A: 123456789012345678901234567890@0"), look(60, "A: 1E-30@60")),
        falls=(("123456789012345678901234567890", "1E-30", 0, 60, None),),
    ),
    "the deepest comes first, by however little": Case(
        looks=tuple(
            look(n, f"A: {b}@{n}") for n, b in enumerate(("1E+30", "0", "1E+30", "-1E-5", "1E+30"))
        ),
        falls=(("1E+30", "-1E-5", 2, 3, 4), ("1E+30", "0", 0, 1, 2)),
    ),
    "below another peak of the window it is deeper, by however little": Case(
        looks=tuple(look(n, f"A: {b}@{n}") for n, b in ((0, "2E+30"), (1, "1E+30"), (3, "-1E-5"))),
        window=2,
        falls=(("1E+30", "-1E-5", 1, 3, None),),
    ),
    # A move is never a fall
    **{
        f"money that leaves in the {when} update is no fall for {whom}": Case(
            looks=(look(0, "A B: 9@0", "C D: 3@0"), *moved, look(180, "A: 6@60", "B C D: 6@60")),
            symbol=symbol,
            falls=(),
        )
        for when, moved in {
            "same": (look(60, "A: 6@60", "B C D: 6@60"),),
            "next": (look(60, "A: 9@0", "B C D: 3@0"), look(120, "A: 6@60", "B C D: 6@60")),
        }.items()
        for symbol, whom in {
            "A": "one that stays",
            "B": "the one that moves",
            "C": "one that is joined",
            None: "the whole fund",
        }.items()
    },
    # The whole fund
    "the sums where they changed, at the time of observation": Case(
        looks=(
            look(0, "A: 1@-50, 5 BTC@0", "B: 2@-50"),
            look(60, "A B: 3@55, 5 BTC@55"),
            look(120, "A: 3@110", "B: 2.5@110"),
        ),
        symbol=None,
        points=("3@0 seen 0", "5.5@120 seen 120"),
    ),
    "nothing while no pool holds the asset, and again a point after it": Case(
        looks=(look(0, "A: 5 BTC@0"), look(60, "A: 1@60"), look(120, "A: 5 BTC@0")),
        symbol=None,
        asset="BTC",
        points=("5@0", "5@120"),
        falls=(),
    ),
    "no regroupings, so a loss by a move is a fall": Case(
        looks=(look(0, "A B: 9@0", "C: 1@0"), look(60, "A: 6@60", "B C: 3@60")),
        symbol=None,
        regroupings=(),
        falls=(("10", "9", 0, 60, None),),
    ),
}


@pytest.mark.parametrize("case", [pytest.param(case, id=name) for name, case in CASES.items()])
def test_series_and_falls(case: Case, store: str | None) -> None:
    async def ask() -> tuple[Any, Any]:
        async with history_of(store, case.looks) as history:
            series = await history.series(case.symbol, case.asset, **case.bounds)
            falls = await history.drawdowns(
                case.symbol, case.asset, window=case.window, **case.bounds
            )
            return series, falls

    series, falls = asyncio.run(ask())
    if case.points is not None:
        shown = [
            point_text(point, told) for point, told in zip(series.points, case.points, strict=False)
        ]
        assert (shown, len(series.points)) == (list(case.points), len(case.points))
    if case.gaps is not None:
        assert tuple((seconds(gap.start), seconds(gap.end)) for gap in series.gaps) == case.gaps
    if case.regroupings is not None:
        assert case.regroupings == tuple(
            (seconds(r.since), seconds(r.observed_at), " ".join(r.before), " ".join(r.after))
            for r in series.regroupings
        )
    if case.falls is not None:
        assert [fall_values(fall) for fall in falls] == [
            (Decimal(peak), Decimal(trough), *times) for peak, trough, *times in case.falls
        ]


def point_text(point: Any, told: str) -> str:
    text = f"{point.balance.normalize():f}@{seconds(point.update_time):g}"
    return f"{text} seen {seconds(point.observed_time):g}" if "seen" in told else text


def fall_values(fall: Any) -> tuple[object, ...]:
    recovered = None if fall.recovered_time is None else seconds(fall.recovered_time)
    return fall.peak, fall.trough, seconds(fall.peak_time), seconds(fall.trough_time), recovered


@pytest.mark.parametrize(
    ("balances", "depth", "fraction"),
    [
        (("3", "2"), "1", "0.3333333333333333333333333333"),
        (("9", "-9"), "18", "2"),
        (("0", "-1"), "1", None),
        (("-1", "-3"), "2", None),
        (
            ("123456789012345678901234567890.123456789012345678", "1E-30"),
            "123456789012345678901234567890.123456789012345677999999999999",
            "1",
        ),
    ],
)
def test_depth_is_exact_and_the_fraction_has_28_digits(
    balances: tuple[str, str], depth: str, fraction: str | None, store: str | None
) -> None:
    looks = [look(60 * n, f"币安人生USDT: {text}@{n}") for n, text in enumerate(balances)]

    async def ask() -> Any:
        async with history_of(store, looks) as history:
            return await history.drawdowns("币安人生USDT", "USDT")

    (fall,) = asyncio.run(ask())
    assert (fall.peak, fall.trough) == tuple(map(Decimal, balances))
    assert fall.depth == Decimal(depth)
    assert fall.fraction == (None if fraction is None else Decimal(fraction))


def test_falls_come_deepest_first_then_by_their_times(store: str | None) -> None:
    balances = (9, 7, 9, 6, 9, 7, 9, 5)
    looks = [look(n, f"A: {balance}@{n}") for n, balance in enumerate(balances)]

    async def ask() -> list[list[float]]:
        async with history_of(store, looks) as history:
            limits = (None, 3, 1)
            answers = [await history.drawdowns("A", "USDT", limit=limit) for limit in limits]
            return [[seconds(fall.trough_time) for fall in falls] for falls in answers]

    assert asyncio.run(ask()) == [[7, 3, 1, 5], [7, 3, 1], [7]]


LOOKS = (
    look(0, "A B: 9@0, 5 BTC@0"),
    look(60, "A B: 8@50, 5 BTC@0"),
    look(120, "A B: 7@50"),
    look(180, "A B: 8@50"),  # as before the correction
    look(240, "A: 6@200", "B: 1@200"),
    look(300, "A B: 5@40, 6 BTC@300"),  # a node that is behind
)


@pytest.mark.parametrize(
    ("at", "pools"),
    [
        (-0.001, None),
        (0, ("A B: 9@0, 5 BTC@0",)),
        (59.999, ("A B: 9@0, 5 BTC@0",)),
        (60, ("A B: 8@50, 5 BTC@0",)),
        (120, ("A B: 7@50",)),
        (180, ("A B: 7@50",)),
        (240, ("A: 6@200", "B: 1@200")),
        (None, ("A B: 7@50, 6 BTC@300",)),
    ],
)
def test_latest_is_the_last_layout_with_the_newest_values_by_then(
    at: float | None, pools: tuple[str, ...] | None, store: str | None
) -> None:
    async def ask() -> InsuranceSnapshot | None:
        async with history_of(store, LOOKS[::-1]) as history:
            latest: InsuranceSnapshot | None = await history.latest(
                None if at is None else after(at)
            )
            return latest

    latest = asyncio.run(ask())
    if pools is None:
        assert latest is None
        return
    assert latest is not None
    held = {tuple(sorted(pool.symbols)): set(pool.assets) for pool in latest}
    expected = map(pool_of, pools)
    assert held == {tuple(sorted(pool.symbols)): set(pool.assets) for pool in expected}
    times = [each.snapshot.observed_at for each in LOOKS]
    assert latest.observed_at == max(time for time in times if at is None or time <= after(at))
    assert latest.complete
