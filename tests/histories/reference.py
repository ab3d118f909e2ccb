"""What a history has to answer, worked out from every observation as it came, the plain way.

Nothing here is fast or shares code with the package: it is written from the contract. Each rule is
a method, so that a test can break one and see whether the worlds notice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from itertools import groupby, pairwise
from typing import NamedTuple

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot

Pool = tuple[str, ...]  # a pool's identity: its sorted symbols
Layout = dict[Pool, tuple[str, ...]]  # the pools, with the assets that each holds

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=1000)
_28_DIGITS = Context(prec=28)


class Observation(NamedTuple):
    """What was appended."""

    snapshot: InsuranceSnapshot
    since: datetime | None


class Value(NamedTuple):
    """The key of a value."""

    pool: Pool
    asset: str
    update_time: int
    balance: Decimal


class Point(NamedTuple):
    """One value of a series."""

    update_time: int
    observed_time: int
    balance: Decimal
    symbols: Pool


class Gap(NamedTuple):
    """A time in which nobody looked."""

    start: datetime
    end: datetime


class Regrouping(NamedTuple):
    """Between these two observations a symbol of the pool came from or went to another pool."""

    since: datetime
    observed_at: datetime
    before: Pool
    after: Pool


class Series(NamedTuple):
    """What is known of a symbol, or of the whole fund, and one asset."""

    points: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    regroupings: tuple[Regrouping, ...]


class Drawdown(NamedTuple):
    """One fall."""

    peak: Decimal
    trough: Decimal
    depth: Decimal
    fraction: Decimal | None
    peak_time: int
    trough_time: int
    recovered_time: int | None


class Seen(NamedTuple):
    """A symbol in its pool, at one time."""

    time: int
    pool: Pool
    layout: Layout


def microseconds(time: datetime) -> int:
    """Since 1970 UTC."""
    return (time - _EPOCH) // _MICROSECOND


def moment(time: int) -> datetime:
    """Of microseconds since 1970 UTC."""
    return _EPOCH + time * _MICROSECOND


def pool_of(pool: InsurancePool) -> Pool:
    return tuple(sorted(pool.symbols))


def values_of(snapshot: InsuranceSnapshot) -> set[Value]:
    return {
        Value(pool_of(pool), held.asset, held.update_time, held.margin_balance)
        for pool in snapshot
        for held in pool.assets
    }


def is_in(time: int, start: datetime | None, end: datetime | None) -> bool:
    """Whether a time, in microseconds, is in `[start, end)`."""
    return (start is None or microseconds(start) <= time) and (
        end is None or time < microseconds(end)
    )


class Reference:
    """Every observation, and the answers that follow from them."""

    def __init__(self, observations: Iterable[Observation]) -> None:
        self.observations = list(observations)
        self.layouts: dict[int, Layout] = {}
        for snapshot, _ in self.observations:
            layout = {pool_of(pool): tuple(a.asset for a in pool.assets) for pool in snapshot}
            self.layouts[microseconds(snapshot.observed_at)] = layout
        self.times = sorted(self.layouts)
        self.first_reported = self._first_reported()
        self._seen: dict[str, list[Seen]] = {}
        self._totals: list[tuple[int, dict[str, Decimal]]] | None = None

    def _first_reported(self) -> dict[Value, int]:
        """When each value was first reported, in milliseconds."""
        first: dict[Value, int] = {}
        for snapshot, _ in self.observations:
            time = microseconds(snapshot.observed_at) // 1000
            for value in values_of(snapshot):
                first[value] = min(first.get(value, time), time)
        return first

    # The answers

    def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None:
        times = [time for time in self.times if at is None or time <= microseconds(at)]
        if not times:
            return None
        layout = self.layouts[times[-1]]
        pools = [
            InsurancePool(
                pool, tuple(self.newest_value(pool, asset, times[-1] // 1000) for asset in assets)
            )
            for pool, assets in layout.items()
        ]
        return InsuranceSnapshot(tuple(pools), moment(times[-1]))

    def series(
        self,
        symbol: str | None,
        asset: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Series:
        points = [p for p in self.points(symbol, asset) if is_in(p.update_time * 1000, start, end)]
        gaps: list[Gap] = []
        for gap in self.gaps(symbol):
            cut = Gap(max(gap.start, start or gap.start), min(gap.end, end or gap.end))
            if cut.start < cut.end:
                gaps.append(cut)
        regroupings = [
            each
            for each in self.regroupings(symbol)
            if is_in(microseconds(each.observed_at), start, end)
        ]
        return Series(tuple(points), tuple(gaps), tuple(regroupings))

    def drawdowns(
        self,
        symbol: str | None,
        asset: str,
        *,
        window: float | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = 10,
    ) -> tuple[Drawdown, ...]:
        points = [p for p in self.points(symbol, asset) if is_in(p.update_time * 1000, start, end)]
        regroupings = self.regroupings(symbol)

        def regroupings_before(point: Point) -> int:
            return sum(
                self.last_millisecond(microseconds(each.since)) < point.update_time
                for each in regroupings
            )

        falls = [
            fall
            for _, piece in groupby(points, regroupings_before)
            for fall in self.falls(list(piece), window)
        ]
        falls.sort(key=lambda fall: (fall.depth.copy_negate(), fall.peak_time, fall.trough_time))
        return tuple(falls[:limit])

    # Of a symbol

    def seen(self, symbol: str) -> list[Seen]:
        """The observations of a symbol: those in which some pool names it."""
        if symbol not in self._seen:
            self._seen[symbol] = [
                Seen(time, pool, self.layouts[time])
                for time in self.times
                for pool in self.layouts[time]
                if symbol in pool
            ]
        return self._seen[symbol]

    def last_millisecond(self, time: int) -> int:
        """The end of the second of an observation, in milliseconds."""
        return time // 1_000_000 * 1000 + 999

    def pools_in_turn(self, symbol: str) -> list[tuple[float, Pool]]:
        """The pools of a symbol, each with the last millisecond in which it was the pool."""
        seen = self.seen(symbol)
        pools: list[tuple[float, Pool]] = [
            (self.last_millisecond(earlier.time), earlier.pool)
            for earlier, later in pairwise(seen)
            if earlier.pool != later.pool
        ]
        return [*pools, (float("inf"), seen[-1].pool)] if seen else []

    def points(self, symbol: str | None, asset: str) -> list[Point]:
        if symbol is None:
            return self.points_of_the_fund(asset)
        pools = self.pools_in_turn(symbol)
        points: list[Point] = []
        for value, reported in self.first_reported.items():
            if value.asset == asset and symbol in value.pool:
                pool = next(pool for last, pool in pools if value.update_time <= last)
                if value.pool == pool:
                    points.append(Point(value.update_time, reported, value.balance, pool))
        return sorted(points)

    def regroupings(self, symbol: str | None) -> list[Regrouping]:
        if symbol is None:
            return []
        return [
            Regrouping(moment(earlier.time), moment(later.time), earlier.pool, later.pool)
            for earlier, later in pairwise(self.seen(symbol))
            if earlier.pool != later.pool and self.is_regrouping(earlier, later)
        ]

    def is_regrouping(self, earlier: Seen, later: Seen) -> bool:
        """Whether a symbol came from or went to another pool."""
        gone = set(earlier.pool) - set(later.pool)
        come = set(later.pool) - set(earlier.pool)
        return bool(gone & self.listed(later.layout) or come & self.listed(earlier.layout))

    def listed(self, layout: Layout) -> set[str]:
        return {symbol for pool in layout for symbol in pool}

    def gaps(self, symbol: str | None) -> list[Gap]:
        """What no span covers between the first and the last observation."""
        times = self.times if symbol is None else [seen.time for seen in self.seen(symbol)]
        gaps: list[Gap] = []
        if not times:
            return gaps
        covered = times[0]
        for first, last in self.spans():
            if covered < first and covered < times[-1]:
                gaps.append(Gap(moment(covered), moment(min(first, times[-1]))))
            covered = max(covered, last)
        return gaps

    def spans(self) -> list[tuple[int, int]]:
        """From when to when somebody looked, by the start."""
        return sorted(
            (microseconds(since or snapshot.observed_at), microseconds(snapshot.observed_at))
            for snapshot, since in self.observations
        )

    # Of all

    def newest_value(self, pool: Pool, asset: str, time: int) -> AssetBalance:
        """The value with the newest update time; for one time, the one first reported later."""
        known = [
            (value.update_time, reported, value.balance)
            for value, reported in self.first_reported.items()
            if value.pool == pool and value.asset == asset and reported <= time
        ]
        update_time, _, balance = max(known, key=self.newness)
        return AssetBalance(asset, balance, update_time)

    def newness(self, known: tuple[int, int, Decimal]) -> tuple[int, int]:
        return known[0], known[1]

    def totals(self) -> list[tuple[int, dict[str, Decimal]]]:
        """The sums at each observation, with its time in milliseconds."""
        if self._totals is None:
            self._totals = []
            for time in self.times:
                snapshot = self.latest(moment(time))
                sums: dict[str, Decimal] = {}
                for pool in snapshot or ():
                    for held in pool.assets:
                        before = sums.get(held.asset, Decimal(0))
                        sums[held.asset] = _EXACT.add(before, held.margin_balance)
                self._totals.append((time // 1000, sums))
        return self._totals

    def points_of_the_fund(self, asset: str) -> list[Point]:
        points: list[Point] = []
        before: Decimal | None = None
        for time, sums in self.totals():
            total = sums.get(asset)
            if total is not None and total != before:
                points.append(Point(time, time, total, ()))
            before = total
        return points

    # Falls

    def is_within(self, age: int, window: float | None) -> bool:
        """Whether a point that is so many milliseconds older still counts."""
        return window is None or age <= Decimal(str(window)) * 1000

    def falls(self, points: list[Point], window: float | None) -> Iterator[Drawdown]:
        highs = [
            max(
                earlier.balance
                for earlier in points[: index + 1]
                if self.is_within(point.update_time - earlier.update_time, window)
            )
            for index, point in enumerate(points)
        ]
        depths = [_EXACT.subtract(high, p.balance) for high, p in zip(highs, points, strict=True)]
        for is_below, run in groupby(range(len(points)), lambda index: depths[index] > 0):
            if is_below:
                deepest = self.deepest(list(run), depths)
                yield self.fall(points, deepest, highs[deepest], window)

    def deepest(self, run: list[int], depths: list[Decimal]) -> int:
        return max(run, key=lambda index: depths[index])  # the first of equals

    def fall(
        self, points: list[Point], deepest: int, peak: Decimal, window: float | None
    ) -> Drawdown:
        trough = points[deepest]
        peaks = [
            earlier.update_time
            for earlier in points[:deepest]
            if earlier.balance == peak
            and self.is_within(trough.update_time - earlier.update_time, window)
        ]
        depth = _EXACT.subtract(peak, trough.balance)
        return Drawdown(
            peak,
            trough.balance,
            depth,
            _28_DIGITS.divide(depth, peak) if peak > 0 else None,
            self.peak_time(peaks),
            trough.update_time,
            self.recovered(points[deepest + 1 :], peak),
        )

    def peak_time(self, peaks: list[int]) -> int:
        return peaks[-1]

    def recovered(self, later: list[Point], peak: Decimal) -> int | None:
        return next((point.update_time for point in later if point.balance >= peak), None)
