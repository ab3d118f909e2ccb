"""References that each break one rule: the worlds must show the difference."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

from binance_insurance import AssetBalance, InsuranceSnapshot

from .reference import (
    Drawdown,
    Gap,
    Layout,
    Point,
    Pool,
    Reference,
    Regrouping,
    Seen,
    Value,
    is_in,
    microseconds,
    moment,
    values_of,
)

_MICROSECOND = timedelta(microseconds=1)


class FirstReportAppended(Reference):
    """A late arrival does not make `observed_time` earlier."""

    def _first_reported(self) -> dict[Value, int]:
        first: dict[Value, int] = {}
        for snapshot, _ in self.observations:
            for value in values_of(snapshot):
                first.setdefault(value, microseconds(snapshot.observed_at) // 1000)
        return first


class LastReport(Reference):
    """`observed_time` is the last report."""

    def _first_reported(self) -> dict[Value, int]:
        last: dict[Value, int] = {}
        for snapshot, _ in self.observations:
            time = microseconds(snapshot.observed_at) // 1000
            for value in values_of(snapshot):
                last[value] = max(last.get(value, time), time)
        return last


class OneValueForOneTime(Reference):
    """A correction replaces what it corrects."""

    def _first_reported(self) -> dict[Value, int]:
        kept: dict[tuple[Pool, str, int], tuple[Value, int]] = {}
        reports = super()._first_reported().items()
        for value, reported in sorted(reports, key=lambda report: report[1]):
            kept[value[:3]] = (value, reported)
        return dict(kept.values())


class FirstValueForOneTime(Reference):
    """A correction is left out."""

    def _first_reported(self) -> dict[Value, int]:
        kept: dict[tuple[Pool, str, int], tuple[Value, int]] = {}
        reports = super()._first_reported().items()
        for value, reported in sorted(reports, key=lambda report: report[1]):
            kept.setdefault(value[:3], (value, reported))
        return dict(kept.values())


class _Written(Decimal):
    """A number that is the same only if it is written so."""

    def __eq__(self, other: object) -> bool:
        return str(self) == str(other)

    def __hash__(self) -> int:
        return hash(str(self))


class BalancesAsText(Reference):
    """12.50 is another balance than 12.5."""

    def _first_reported(self) -> dict[Value, int]:
        first: dict[Value, int] = {}
        for snapshot, _ in self.observations:
            time = microseconds(snapshot.observed_at) // 1000
            for value in values_of(snapshot):
                written = value._replace(balance=_Written(value.balance))
                first[written] = min(first.get(written, time), time)
        return first


class BoundaryAtObservation(Reference):
    """An observation does not count until the end of its second."""

    def last_millisecond(self, time: int) -> int:
        return time // 1000


class BoundaryAtLaterObservation(Reference):
    """Where the pool changed, the boundary is the later observation."""

    def pools_in_turn(self, symbol: str) -> list[tuple[float, Pool]]:
        seen = self.seen(symbol)
        pools: list[tuple[float, Pool]] = [
            (later.time // 1000 - 1, earlier.pool)
            for earlier, later in pairwise(seen)
            if earlier.pool != later.pool
        ]
        return [*pools, (float("inf"), seen[-1].pool)] if seen else []


class EveryPoolThatNamesIt(Reference):
    """A value counts whenever it was updated."""

    def points(self, symbol: str | None, asset: str) -> list[Point]:
        if symbol is None:
            return super().points(symbol, asset)
        return sorted(
            Point(value.update_time, reported, value.balance, value.pool)
            for value, reported in self.first_reported.items()
            if value.asset == asset and symbol in value.pool
        )


class PointsByBalance(Reference):
    """The values of one time are sorted by balance."""

    def points(self, symbol: str | None, asset: str) -> list[Point]:
        points = super().points(symbol, asset)
        return sorted(points, key=lambda point: (point.update_time, point.balance))


class ListingIsRegrouping(Reference):
    """Any change of the pool is a regrouping."""

    def is_regrouping(self, earlier: Seen, later: Seen) -> bool:
        return earlier.pool != later.pool


class OnlyComingIsRegrouping(Reference):
    """What goes to another pool is none."""

    def is_regrouping(self, earlier: Seen, later: Seen) -> bool:
        return bool((set(later.pool) - set(earlier.pool)) & self.listed(earlier.layout))


class OnlyGoingIsRegrouping(Reference):
    """What comes from another pool is none."""

    def is_regrouping(self, earlier: Seen, later: Seen) -> bool:
        return bool((set(earlier.pool) - set(later.pool)) & self.listed(later.layout))


class ListedEver(Reference):
    """A symbol that is delisted between two observations counts as moved."""

    def listed(self, layout: Layout) -> set[str]:
        return {name for each in self.layouts.values() for pool in each for name in pool}


class GapsOfWhatNamesIt(Reference):
    """Only observations that name the symbol cover."""

    def gaps(self, symbol: str | None) -> list[Gap]:
        if symbol is None:
            return super().gaps(symbol)
        named = [each for each in self.observations if each.snapshot.get(symbol) is not None]
        return Reference(named).gaps(None)


class GapsOfAll(Reference):
    """Gaps reach beyond the symbol's observations."""

    def gaps(self, symbol: str | None) -> list[Gap]:
        return super().gaps(None)


class NothingBetween(Reference):
    """Nobody looked between two observations."""

    def spans(self) -> list[tuple[int, int]]:
        return [(time, time) for time in self.times]


class LatestBefore(Reference):
    """An observation at `at` does not count."""

    def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None:
        return super().latest(None if at is None else at - _MICROSECOND)


class LatestOfAllTimes(Reference):
    """What was reported after `at` counts."""

    def newest_value(self, pool: Pool, asset: str, time: int) -> AssetBalance:
        return super().newest_value(pool, asset, self.times[-1] // 1000)


class NewestReport(Reference):
    """The report counts before the update time."""

    def newness(self, known: tuple[int, int, Decimal]) -> tuple[int, int]:
        return known[1], known[0]


class OldestReport(Reference):
    """For one time, the first report counts."""

    def newness(self, known: tuple[int, int, Decimal]) -> tuple[int, int]:
        return known[0], -known[1]


class EveryAssetEverHeld(Reference):
    """An asset that is held no more stays."""

    def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None:
        now = super().latest(at)
        if now is None:
            return None
        time = microseconds(now.observed_at)
        layout, past = self.layouts[time], [each for each in self.times if each <= time]
        self.layouts[time] = {
            pool: tuple({a: 0 for each in past for a in self.layouts[each].get(pool, ())})
            for pool in layout
        }
        try:
            return super().latest(at)
        finally:
            self.layouts[time] = layout


class FundOverNothing(Reference):
    """The same total after a time without the asset is no point."""

    def points_of_the_fund(self, asset: str) -> list[Point]:
        points: list[Point] = []
        for point in super().points_of_the_fund(asset):
            if not points or points[-1].balance != point.balance:
                points.append(point)
        return points


class OpenWindow(Reference):
    """A point exactly `window` seconds older does not count."""

    def is_within(self, age: int, window: float | None) -> bool:
        return window is None or age < Decimal(str(window)) * 1000


class BinaryWindow(Reference):
    """The window is the float, not the number that it is written as."""

    def is_within(self, age: int, window: float | None) -> bool:
        return window is None or age <= Decimal(window) * 1000


class FirstPeak(Reference):
    """The peak is the first that stood so high."""

    def peak_time(self, peaks: list[int]) -> int:
        return peaks[0]


class LastDeepest(Reference):
    """Of equals, the last is the deepest."""

    def deepest(self, run: list[int], depths: list[Decimal]) -> int:
        return super().deepest(run[::-1], depths)


class EndOfRun(Reference):
    """A fall is reported at its end."""

    def deepest(self, run: list[int], depths: list[Decimal]) -> int:
        return run[-1]


class RecoveredAbove(Reference):
    """It has recovered when it is higher than the peak."""

    def recovered(self, later: list[Point], peak: Decimal) -> int | None:
        return next((point.update_time for point in later if point.balance > peak), None)


class _OtherRegroupings(Reference):
    """Falls are cut at other regroupings."""

    cuts = False

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
        self.cuts, self.start, self.end = True, start, end
        try:
            return super().drawdowns(
                symbol, asset, window=window, start=start, end=end, limit=limit
            )
        finally:
            self.cuts = False

    def regroupings(self, symbol: str | None) -> list[Regrouping]:
        regroupings = super().regroupings(symbol)
        return self.cut_at(regroupings) if self.cuts else regroupings

    def cut_at(self, regroupings: list[Regrouping]) -> list[Regrouping]:
        return regroupings


class NeverCut(_OtherRegroupings):
    """A move can be a fall."""

    def cut_at(self, regroupings: list[Regrouping]) -> list[Regrouping]:
        return []


class CutInTheRangeOnly(_OtherRegroupings):
    """A regrouping that is observed outside of the range ends nothing."""

    def cut_at(self, regroupings: list[Regrouping]) -> list[Regrouping]:
        return [
            each
            for each in regroupings
            if is_in(microseconds(each.observed_at), self.start, self.end)
        ]


class CutWhereObserved(_OtherRegroupings):
    """A regrouping ends the series where it was observed."""

    def cut_at(self, regroupings: list[Regrouping]) -> list[Regrouping]:
        return [
            each._replace(since=moment(microseconds(each.observed_at) - 1_000_000))
            for each in regroupings
        ]


class PeaksBeforeTheRange(Reference):
    """Falls are computed of all points."""

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
        falls = super().drawdowns(symbol, asset, window=window, limit=None)
        return tuple(f for f in falls if is_in(f.trough_time * 1000, start, end))[:limit]


class RoundedDepth(Reference):
    """Depths have 28 digits."""

    def falls(self, points: list[Point], window: float | None) -> Iterator[Drawdown]:
        for fall in super().falls(points, window):
            yield fall._replace(depth=fall.peak - fall.trough)


BROKEN = (
    *(FirstReportAppended, LastReport, OneValueForOneTime, FirstValueForOneTime, BalancesAsText),
    *(BoundaryAtObservation, BoundaryAtLaterObservation, EveryPoolThatNamesIt, PointsByBalance),
    *(ListingIsRegrouping, OnlyComingIsRegrouping, OnlyGoingIsRegrouping, ListedEver),
    *(GapsOfWhatNamesIt, GapsOfAll, NothingBetween),
    *(LatestBefore, LatestOfAllTimes, NewestReport, OldestReport, EveryAssetEverHeld),
    *(FundOverNothing, OpenWindow, BinaryWindow, FirstPeak, LastDeepest, EndOfRun, RecoveredAbove),
    *(NeverCut, CutInTheRangeOnly, CutWhereObserved, PeaksBeforeTheRange, RoundedDepth),
)
