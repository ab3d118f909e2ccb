"""Falls from a peak. Pure.

A point lies below if a point of the last `window` seconds stood higher. Points in a row that lie
below are one fall. A regrouping ends one series of peaks and begins another, since the money of a
pool goes where its symbols go.
"""

from __future__ import annotations

from collections import deque
from decimal import Context, Decimal
from heapq import heappop, heappush, nsmallest
from itertools import count
from typing import TYPE_CHECKING

from ..models import exact_difference
from .values import Drawdown, Point

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

_FRACTION = Context(prec=28)


class _Fall:
    """A fall that goes on, or that is over."""

    __slots__ = ("depth", "peak", "recovered_time", "trough")

    def __init__(self, peak: Point, trough: Point) -> None:
        self.recovered_time: int | None = None
        self.deepen(peak, trough)

    def deepen(self, peak: Point, trough: Point) -> None:
        """Take a deeper point."""
        self.peak = peak
        self.trough = trough
        self.depth = exact_difference(peak.balance, trough.balance)

    @property
    def order(self) -> tuple[Decimal, int, int]:
        """Deepest first, then by time."""
        return self.depth.copy_negate(), self.peak.update_time, self.trough.update_time


def drawdowns(
    stretches: Iterable[Sequence[Point]], window: float | None, limit: int | None
) -> tuple[Drawdown, ...]:
    """Return the falls of several series of peaks, deepest first.

    Args:
        stretches: the points between two regroupings, in order.
        window: seconds in which a peak counts; None: for all time.
        limit: how many falls to return; None: all.
    """
    falls = [fall for points in stretches for fall in _falls(points, window)]
    if limit is None:
        falls.sort(key=lambda fall: fall.order)
    else:
        falls = nsmallest(limit, falls, key=lambda fall: fall.order)
    return tuple(map(_drawdown, falls))


def _falls(points: Iterable[Point], window: float | None) -> Iterator[_Fall]:
    """Yield the falls of one series of peaks; each is whole when the last has been yielded."""
    peaks: deque[Point] = deque()  # each lower and later than the one before
    fall: _Fall | None = None
    recovering = _Recovering()
    for point in points:
        balance = point.balance
        if window is not None:
            _expire(peaks, point.update_time - window * 1000)
        if not peaks or balance >= peaks[0].balance:
            if fall is not None:
                recovering.add(fall)
                fall = None
            recovering.reach(point)
            peaks.clear()
            peaks.append(point)
            continue
        if fall is None:
            fall = _Fall(peaks[0], point)
            yield fall
        elif _is_deeper(fall, peaks[0], balance):
            fall.deepen(peaks[0], point)
        if window is not None:  # else what lies below never becomes a peak
            while peaks[-1].balance <= balance:
                peaks.pop()
            peaks.append(point)


def _expire(peaks: deque[Point], since: float) -> None:
    while peaks and peaks[0].update_time < since:
        peaks.popleft()


class _Recovering:
    """Falls that have not recovered, the one with the lowest peak first."""

    def __init__(self) -> None:
        self._falls: list[tuple[Decimal, int, _Fall]] = []
        self._count = count()

    def add(self, fall: _Fall) -> None:
        heappush(self._falls, (fall.peak.balance, next(self._count), fall))

    def reach(self, point: Point) -> None:
        """Let those recover whose peak is not higher than a point."""
        while self._falls and self._falls[0][0] <= point.balance:
            heappop(self._falls)[2].recovered_time = point.update_time


def _is_deeper(fall: _Fall, peak: Point, balance: Decimal) -> bool:
    if peak is fall.peak:
        return balance < fall.trough.balance
    return exact_difference(peak.balance, balance) > fall.depth


def _drawdown(fall: _Fall) -> Drawdown:
    peak, depth = fall.peak.balance, fall.depth
    return Drawdown(
        peak=peak,
        trough=fall.trough.balance,
        depth=depth,
        fraction=_FRACTION.divide(depth, peak) if peak > 0 else None,
        peak_time=fall.peak.update_time,
        trough_time=fall.trough.update_time,
        recovered_time=fall.recovered_time,
    )
