"""Answers from a store: what to ask it for, and in which order."""

from __future__ import annotations

from decimal import Decimal
from operator import attrgetter
from statistics import median
from typing import TYPE_CHECKING, TypeAlias

from ..models import AssetBalance, InsurancePool, InsuranceSnapshot
from .drawdowns import drawdowns
from .facts import read_layout
from .fund import Newest, Reported, totals
from .lookup import asset_numbers, pool_numbers, spans_between
from .spans import gaps
from .steps import ask, chunks
from .timeline import Pools, Run, timeline
from .times import FOREVER, aware, first_millisecond, microseconds, milliseconds
from .values import Delays, Drawdown, Gap, HistoryInfo, Point, Series

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from .facts import LayoutPool
    from .steps import Rows, Steps
    from .timeline import Timeline

_PAGE = 2_000  # values that are read at a time
_AHEAD = 999  # ms by which an update can be later than its observation: dates are whole seconds
_Range: TypeAlias = tuple[int, int]  # low <= time < high, in microseconds
_Held: TypeAlias = tuple[int, int]  # the numbers of a pool and an asset
_Known: TypeAlias = "dict[tuple[str, str], Newest]"  # by a pool's key and an asset

_EVER: _Range = (-FOREVER, FOREVER)
_NEWEST = (
    "WITH held (pool, asset) AS (VALUES {}) "
    "SELECT v.pool, v.asset, v.update_time, v.observed_time, v.balance "
    "FROM held h JOIN value v ON v.pool = h.pool AND v.asset = h.asset "
    "AND v.update_time = coalesce("
    "(SELECT e.update_time FROM value e WHERE e.pool = h.pool AND e.asset = h.asset "
    "AND e.update_time > e.observed_time + 999 AND e.update_time > ? "
    "AND e.observed_time <= ? ORDER BY e.update_time DESC LIMIT 1), "
    "(SELECT m.update_time FROM value m WHERE m.pool = h.pool AND m.asset = h.asset "
    "AND m.update_time <= ? AND m.observed_time <= ? ORDER BY m.update_time DESC LIMIT 1)) "
    "WHERE v.observed_time <= ?"
)
# Where runs begin, and the time of the observation before; of one time, digests give the order.
_BEGUN = """
    SELECT o.time, o.layout, CASE
        WHEN EXISTS (
            SELECT 1 FROM observation p JOIN layout m ON m.id = p.layout
            WHERE p.time = o.time AND m.digest < l.digest
        ) THEN o.time
        ELSE (SELECT max(p.time) FROM observation p WHERE p.time < o.time)
    END
    FROM observation o JOIN layout l ON l.id = o.layout
    WHERE o.begins = 1 ORDER BY o.time, l.digest
"""
_in_order = attrgetter("update_time", "observed_time", "balance")


def read_series(symbol: str | None, asset: str, between: _Range) -> Steps[Series]:
    """Return the series of a symbol in an asset, or with None that of the whole fund."""
    runs, layouts = yield from _read_layouts()
    if symbol is None:
        points = yield from _read_fund(asset, runs, layouts, between)
        seen = (runs[0].first, runs[-1].last) if runs else None
        return Series(points, (yield from _read_gaps(seen, between)), ())
    line = timeline(symbol, runs, layouts)
    if line is None:
        return Series((), (), ())
    stretches = yield from _read_stretches(line, asset, between)
    low, high = between
    return Series(
        tuple(point for stretch in stretches for point in stretch),
        (yield from _read_gaps((line.first, line.last), between)),
        tuple(
            each
            for each in line.regroupings
            if low <= microseconds(each.observed_at, "observed_at") < high
        ),
    )


def read_drawdowns(
    symbol: str | None, asset: str, between: _Range, window: float | None, limit: int | None
) -> Steps[tuple[Drawdown, ...]]:
    """Return the falls of a symbol in an asset, or with None those of the whole fund."""
    runs, layouts = yield from _read_layouts()
    stretches: Sequence[Sequence[Point]] = ()
    if symbol is None:
        stretches = [(yield from _read_fund(asset, runs, layouts, between))]
    elif (line := timeline(symbol, runs, layouts)) is not None:
        stretches = yield from _read_stretches(line, asset, between)
    return drawdowns(stretches, window, limit)


def read_latest(at: int) -> Steps[InsuranceSnapshot | None]:
    """Return the pools as they were known at a time in microseconds."""
    found = yield from _read_held(at)
    if found is None:
        return None
    time, layout, held = found
    observed_at = aware(time)
    return InsuranceSnapshot(
        tuple(
            InsurancePool(
                pool.symbols,
                tuple(
                    AssetBalance(asset, balance, updated)
                    for asset in pool.assets
                    for updated, _, balance in (held[pool.key, asset],)
                ),
                observed_at,
            )
            for pool in layout
        ),
        observed_at,
    )


def read_info(schema: int, size: int) -> Steps[HistoryInfo]:
    """Return what the store holds."""
    extent = yield from read_extent()
    ((count,),) = yield from ask("SELECT count(*) FROM value")
    return HistoryInfo(
        schema=schema,
        size=size,
        values=int(count),
        first=extent and aware(extent[0]),
        last=extent and aware(extent[1]),
        gaps=(yield from _read_gaps(extent, _EVER)),
        delays=(yield from _read_delays()),
    )


def _read_delays() -> Steps[Delays | None]:
    """Return how late the newest values were reported, where they replaced others."""
    found = yield from _read_held(FOREVER)
    if found is None:
        return None
    _, _, held = found
    pools = yield from pool_numbers({key for key, _ in held})
    assets = yield from asset_numbers()
    delays: list[float] = []
    for (key, asset), (updated, observed, _) in held.items():
        # The first value of a pool may be old: a listing makes another pool of it.
        before = yield from ask(
            "SELECT 1 FROM value WHERE pool = ? AND asset = ? AND update_time < ? "
            "AND observed_time < ? LIMIT 1",
            *(pools[key], assets[asset], updated, observed),
        )
        if before:
            delays.append((observed - updated) / 1000)
    return Delays(min(delays), median(delays), max(delays)) if delays else None


def read_extent() -> Steps[tuple[int, int] | None]:
    """Return the times of the first and the last observation, in microseconds."""
    ((first, last),) = yield from ask("SELECT min(time), max(time) FROM observation")
    return None if first is None else (first, last)


def read_last(at: int) -> Steps[int | None]:
    """Return the time of the last observation at or before another, in microseconds."""
    ((last,),) = yield from ask("SELECT max(time) FROM observation WHERE time <= ?", at)
    return None if last is None else int(last)


def _read_layouts() -> Steps[tuple[list[Run], dict[int, Pools]]]:
    """Return which layout was observed from when to when, and the pools of each."""
    begun = yield from ask(_BEGUN)
    ((newest,),) = yield from ask("SELECT max(time) FROM observation")
    lasts = [before for _, _, before in begun[1:]] + [newest] * bool(begun)
    runs = [Run(first, last, layout) for (first, layout, _), last in zip(begun, lasts, strict=True)]
    rows = yield from ask("SELECT id, content FROM layout")
    return runs, {number: Pools(read_layout(content)) for number, content in rows}


def _read_stretches(line: Timeline, asset: str, between: _Range) -> Steps[list[list[Point]]]:
    """Return the points of a symbol, cut where a regrouping lies between."""
    low, high = map(first_millisecond, between)
    numbers = yield from pool_numbers(period.pool for period in line.periods)
    found = yield from _find_asset(asset)
    stretches: list[list[Point]] = [[]]
    for period in line.periods:
        if period.regrouped:
            stretches.append([])
        bounds = max(low, period.low), min(high, period.high)
        if found is not None and bounds[0] < bounds[1]:
            held = numbers[period.pool], found[1]
            stretches[-1] += yield from _read_points(held, *bounds, period.symbols)
    return stretches


def _read_points(held: _Held, low: int, high: int, symbols: tuple[str, ...]) -> Steps[list[Point]]:
    """Return the values of an asset in a pool, in the order of a series."""
    points: list[Point] = []
    times: set[int] = set()

    def take(page: Rows) -> None:
        points.extend(
            [Point(updated, first, Decimal(balance), symbols) for updated, first, balance in page]
        )
        times.update([row[0] for row in page])

    yield from _read_values(held, low, high, take)
    if len(times) < len(points):
        _sort_equal_times(points)
    return points


def _sort_equal_times(points: list[Point]) -> None:
    """Sort what was updated at one time; of the rest a store has kept the order."""
    begin = 0
    for number in range(1, len(points) + 1):
        if number == len(points) or points[number].update_time != points[begin].update_time:
            if number - begin > 1:
                points[begin:number] = sorted(points[begin:number], key=_in_order)
            begin = number


def _read_fund(
    asset: str, runs: Sequence[Run], layouts: Mapping[int, Pools], between: _Range
) -> Steps[tuple[Point, ...]]:
    """Return the totals of an asset over all pools, wherever they changed."""
    found = yield from _find_asset(asset)
    if found is None:
        return ()
    name, number = found
    pools = yield from pool_numbers(
        {pool.key for layout in layouts.values() for pool in layout.pools if name in pool.assets}
    )
    values: list[Reported] = []
    for key, pool in pools.items():
        points = yield from _read_points((pool, number), -FOREVER, FOREVER, ())
        values += [
            Reported(key, each.update_time, each.observed_time, each.balance) for each in points
        ]
    low, high = map(first_millisecond, between)
    return tuple(
        point for point in totals(name, runs, layouts, values) if low <= point.update_time < high
    )


def _read_values(held: _Held, low: int, high: int, take: Callable[[Rows], None]) -> Steps[None]:
    """Hand update time, first report and balance of all values of an asset in a pool over.

    They come in order of their update times, and a page at a time, so that nothing else waits long.
    """
    sql = (
        "SELECT update_time, observed_time, balance FROM value "
        "WHERE pool = ? AND asset = ? AND update_time >= ? AND update_time < ? {} "
        "ORDER BY update_time, balance LIMIT ?"
    )
    page = yield from ask(sql.format(""), *held, low, high, _PAGE)
    take(page)
    sql = sql.format("AND (update_time, balance) > (?, ?)")
    while len(page) == _PAGE:
        low, _, balance = page[-1]
        page = yield from ask(sql, *held, low, high, low, balance, _PAGE)
        take(page)


def _read_held(at: int) -> Steps[tuple[int, tuple[LayoutPool, ...], _Known] | None]:
    """Return when the last layout by a time was observed, the layout, and its newest values."""
    last = yield from ask(
        "SELECT o.time, l.content FROM observation o JOIN layout l ON l.id = o.layout "
        "WHERE o.time <= ? ORDER BY o.time DESC, l.digest DESC LIMIT 1",
        at,
    )
    if not last:
        return None
    ((time, content),) = last
    layout = read_layout(content)
    pools = yield from pool_numbers(pool.key for pool in layout)
    assets = yield from asset_numbers()
    held = {
        (pools[pool.key], assets[name]): (pool.key, name) for pool in layout for name in pool.assets
    }
    # What was reported by then was so by the last observation.
    newest = yield from _read_newest(sorted(held), milliseconds(time))
    return time, layout, {held[numbers]: value for numbers, value in newest.items()}


def _read_newest(held: Sequence[_Held], at: int) -> Steps[dict[_Held, Newest]]:
    """Return the newest value of each asset of a pool that was reported by a time in milliseconds.

    Values that were updated long after `at` and reported before it are not expected, but would
    count: an index has only those, so that no answer about the past reads what came later.
    """
    newest: dict[_Held, Newest] = {}
    for some in chunks(held):
        lines = ", ".join(["(CAST(? AS bigint), CAST(? AS bigint))"] * len(some))
        rows = yield from ask(
            _NEWEST.format(lines),
            *(number for each in some for number in each),
            *(at + _AHEAD, at, at + _AHEAD, at, at),
        )
        for pool, asset, updated, observed, text in rows:
            value = updated, observed, Decimal(text)
            newest[pool, asset] = max(newest.get((pool, asset), value), value)
    return newest


def _read_gaps(seen: _Range | None, between: _Range) -> Steps[tuple[Gap, ...]]:
    """Return the gaps from a first to a last observation, as far as they lie between two times."""
    if seen is None:
        return ()
    first, last = max(seen[0], between[0]), min(seen[1], between[1])
    if first >= last:
        return ()
    return gaps((yield from spans_between(first, last)), first, last)


def _find_asset(name: str) -> Steps[tuple[str, int] | None]:
    """Return the name and the number of an asset, in upper or lower case; None if it is unknown."""
    known = {each: (each, number) for each, number in (yield from asset_numbers()).items()}
    upper = name.upper()
    found = (each for each in sorted(known) if each.upper() == upper)
    return known.get(name) or known.get(next(found, ""))
