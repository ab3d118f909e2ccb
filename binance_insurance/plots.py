# What matplotlib leaves without a type: `**kwargs`, dates, some paths.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Pictures of pools and of their history; it needs the extra `plot`.

No pyplot and none of its global state: a figure that nobody keeps is freed, so a service can draw.
A balance becomes a float here, since a picture needs no more digits.
"""

from __future__ import annotations

from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from math import nan
from typing import TYPE_CHECKING, NamedTuple
from unicodedata import east_asian_width

from ._text import one_line, printable
from .errors import AssetNotHeldError

try:
    from matplotlib import rcParams
    from matplotlib.dates import AutoDateLocator, ConciseDateFormatter, date2num
    from matplotlib.figure import Figure
    from matplotlib.font_manager import FontProperties, fontManager, get_font
    from matplotlib.ticker import EngFormatter, StrMethodFormatter
except ModuleNotFoundError as _missing:
    if _missing.name != "matplotlib":
        raise
    raise ModuleNotFoundError(
        "binance_insurance.plots needs matplotlib: pip install 'binance-insurance[plot]'",
        name="matplotlib",
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from matplotlib.axes import Axes

    from .history import Gap, Series
    from .models import InsurancePool, InsuranceSnapshot

__all__ = ["plot_series", "plot_snapshot"]

_WIDTH, _HEIGHT = 8.0, 4.0  # inches
_BAR, _AROUND = 0.26, 1.0  # inches of height: for each bar, and for title and axis
_LABEL_WIDTH = 36  # columns; a longer label would leave no room for its bar
_UNASSIGNED = "\u0378"  # a font that draws this one draws the same box for everything
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)
_HALF_HOUR = 1 / 48  # in days, as matplotlib counts
# Digits only: names of months depend on the locale, and so may need another font. From years down
# to seconds: the labels, those at the start of the next longer unit, what is beside the axis.
_LABELS = ["%Y", "%Y-%m", "%m-%d", "%H:%M", "%H:%M", "%S.%f"]
_STARTS = ["", "%Y", "%m-%d", "%m-%d", "%H:%M", "%H:%M:%S"]
_BESIDE = ["", "%Y", "%Y", "%Y-%m-%d", "%Y-%m-%d", "%Y-%m-%d %H:%M"]


def plot_snapshot(
    snapshot: InsuranceSnapshot, asset: str, *, top: int = 20, ax: Axes | None = None
) -> Axes:
    r"""Draw the largest pools of an asset as horizontal bars, the largest at the top.

    A bar is labelled with the pool's first symbol and how many more it covers. Letters that no
    installed font has are written as Python escapes, such as `\u5e01`.

    Args:
        snapshot: whose pools are drawn; those that do not hold the asset are left out.
        asset: such as `USDT`, in upper or lower case. Bars are in its units.
        top: the greatest number of bars, at least 1.
        ax: where to draw; None makes a figure, which is the `.figure` of what is returned.

    Raises:
        AssetNotHeldError: no pool holds the asset.
        ValueError: `top` is less than 1.
    """
    if top < 1:
        raise ValueError(f"top must be at least 1, not {top}")
    ranked = _ranked(snapshot, asset)
    shown = ranked[:top]
    if ax is None:
        ax = _new_axes(_AROUND + _BAR * max(len(shown), 4))
    letters = _Letters.of((*(pool.symbols[0] for pool, _ in shown), name := _name(ranked, asset)))
    families = list(letters.families)
    rows = range(len(shown))
    ax.barh(rows, [length for _, length in shown])
    labels = [_label(pool, letters) for pool, _ in shown]
    # No mathematics: a "$" is a letter like others.
    ax.set_yticks(rows, labels, fontfamily=families, parse_math=False)
    ax.set_ylim(len(shown) - 0.5, -0.5)
    ax.set_xlabel(letters.fit(name), fontfamily=families, parse_math=False)
    ax.xaxis.set_major_formatter(EngFormatter())
    ax.set_title(_title(snapshot, len(shown), len(ranked)))
    return ax


def plot_series(series: Series, *, ax: Axes | None = None) -> Axes:
    """Draw a series of a history as steps: each balance stands until the next one is reported.

    Nothing is interpolated. A dot is a balance that was reported. The line has a hole where nobody
    looked (grey), and goes on at the next observation, with the balance reported by then. At a
    regrouping, a dashed vertical line at the first observation after it, the line ends with the
    last observation of the pool before, and begins again with the first balance of the pool after.
    It ends with the last balance, or where somebody was last known to have looked. A series without
    points is an Axes without a line, and its title says so.

    Times are in UTC. A series does not name its asset: `.set_ylabel("USDT")` does.

    Args:
        series: as `History.series` returns it.
        ax: where to draw, also several series one by one; None makes a figure with a legend,
            which is the `.figure` of what is returned.
    """
    own = ax is None
    if ax is None:
        ax = _new_axes(_HEIGHT)
    corners = list(_corners(series))
    times, balances = [_day(each.time) for each in corners], [each.balance for each in corners]
    (line,) = ax.step(times, balances, where="post", label="balance")
    color = line.get_color()
    times = [_day(_at(point.update_time)) for point in series.points]
    balances = [float(point.balance) for point in series.points]
    ax.plot(times, balances, ".", color=color, label="_reported")
    for gap in series.gaps:
        start, end = _day(gap.start), _day(gap.end)
        ax.axvspan(start, end, color="0.5", alpha=0.2, linewidth=0, label="nobody looked")
    for regrouping in series.regroupings:
        time = _day(regrouping.observed_at)
        ax.axvline(time, color=color, linestyle="--", linewidth=1, label="regrouping")
    _name_axes(ax)
    _widen(ax)
    if not series.points:
        ax.set_title("no balance was reported")
    if own and not series.points:
        ax.set_yticks([])
    elif own and (series.gaps or series.regroupings):
        _add_legend(ax)
    return ax


def _new_axes(height: float) -> Axes:
    return Figure(figsize=(_WIDTH, height), layout="constrained").add_subplot()


# --- What a snapshot shows ---


def _ranked(snapshot: InsuranceSnapshot, asset: str) -> list[tuple[InsurancePool, float]]:
    """Return the pools that hold the asset and their balances, the largest first."""
    held = [(pool, balance) for pool in snapshot if (balance := pool.get(asset)) is not None]
    if not held:
        others = ", ".join(sorted(snapshot.totals()))
        raise AssetNotHeldError(
            f"none of the {len(snapshot)} pools holds {one_line(str(asset), 40)}"
            + (f", but {one_line(others)}" if others else "")
        )
    held.sort(key=lambda each: each[1], reverse=True)
    return [(pool, float(balance)) for pool, balance in held]


def _name(ranked: list[tuple[InsurancePool, float]], asset: str) -> str:
    """Return the asset as its pools spell it."""
    names = {held.asset for pool, _ in ranked for held in pool.assets}
    upper = asset.strip().upper()
    return asset if asset in names else next(name for name in names if name.upper() == upper)


def _label(pool: InsurancePool, letters: _Letters) -> str:
    first, more = letters.fit(pool.symbols[0]), len(pool.symbols) - 1
    return f"{first} and {more} more" if more else first


def _title(snapshot: InsuranceSnapshot, shown: int, held: int) -> str:
    pools = f"{held} pool{'s' * (held != 1)}"
    pools = f"{shown} largest of {pools}" if shown < held else pools
    part = "" if snapshot.complete else ", part of all"
    return f"{pools}{part}, {snapshot.observed_at.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


# --- What a series shows ---


class _Corner(NamedTuple):
    """Where the line of a series turns, or ends before a hole: NaN."""

    time: datetime
    balance: float


class _Part(NamedTuple):
    """A time in which a balance is known to have stood."""

    begin: datetime
    end: datetime
    balance: float


def _corners(series: Series) -> Iterator[_Corner]:
    """Yield the corners of the line; parts that do not touch have a hole between them."""
    last: _Part | None = None
    for part in _parts(series):
        if last is not None and last.end != part.begin:
            yield _Corner(last.end, last.balance)
            yield _Corner(last.end, nan)
        yield _Corner(part.begin, part.balance)
        last = part
    if last is not None:
        yield _Corner(last.end, last.balance)


def _parts(series: Series) -> Iterator[_Part]:
    """Yield the times in which each balance stood, in order, without those of gaps."""
    starts = [_at(point.update_time) for point in series.points]
    # How far the last balance is known to have stood: an observation after it.
    seen = [*(gap.start for gap in series.gaps), *(each.since for each in series.regroupings)]
    ends = [*starts[1:], max(seen, default=_EPOCH)]  # one too many where there are no points
    # A pool's balances are no later than the second of its last observation.
    left = [each.since.replace(microsecond=0) + _SECOND for each in series.regroupings]
    for begin, end, point in zip(starts, ends, series.points, strict=False):
        number = bisect_right(left, begin)
        if number < len(left):
            end = min(end, series.regroupings[number].since)  # noqa: PLW2901
        for seen_from, seen_to in _observed(begin, max(begin, end), series.gaps):
            yield _Part(seen_from, seen_to, float(point.balance))


def _observed(
    begin: datetime, end: datetime, gaps: tuple[Gap, ...]
) -> Iterator[tuple[datetime, datetime]]:
    """Yield a time without the gaps in it; a balance of a single moment counts outside of gaps."""
    cut = False
    for gap in gaps[bisect_right(gaps, begin, key=lambda each: each.end) :]:
        if gap.start >= end:
            break
        if gap.start >= begin:
            yield begin, gap.start
        begin, cut = gap.end, True
    if begin < end or not cut:
        yield begin, end


def _at(milliseconds: int) -> datetime:
    return _EPOCH + timedelta(milliseconds=milliseconds)


def _day(time: datetime) -> float:
    """Return a time as matplotlib counts: in days."""
    return float(date2num(time))  # type: ignore[no-untyped-call]


def _name_axes(ax: Axes) -> None:
    """Write the times and balances of a series so that neighbours on an axis differ."""
    ax.xaxis_date(UTC)
    locator = AutoDateLocator(tz=UTC)  # type: ignore[no-untyped-call]
    ax.xaxis.set_major_locator(locator)
    formatter = ConciseDateFormatter(  # type: ignore[no-untyped-call]
        locator, UTC, formats=_LABELS, offset_formats=_BESIDE, zero_formats=_STARTS
    )
    ax.xaxis.set_major_formatter(formatter)
    ax.set_xlabel("UTC")
    ax.yaxis.set_major_formatter(StrMethodFormatter("{x:,.15g}"))
    ax.set_ylabel(ax.get_ylabel() or "balance")


def _widen(ax: Axes) -> None:
    """Show an hour around a single moment, where matplotlib would show four years."""
    begin, end = map(float, ax.dataLim.intervalx)
    if begin == end and ax.get_autoscalex_on():
        ax.set_xlim(begin - _HALF_HOUR, end + _HALF_HOUR, auto=True)  # for another series: wider


def _add_legend(ax: Axes) -> None:
    """Say what the kinds of lines and areas are, once each, above the picture."""
    handles, labels = ax.get_legend_handles_labels()
    kinds = dict(zip(labels, handles, strict=True))
    legend = ax.legend(kinds.values(), kinds.keys(), loc="lower right", ncols=len(kinds))
    legend.set_bbox_to_anchor((1, 1))
    legend.set_frame_on(False)


# --- Letters that fonts do not have ---


class _Letters(NamedTuple):
    """How to draw letters from outside.

    Attributes:
        families: the fonts to draw with; matplotlib takes each letter from the first that has it.
        missing: the letters that none of them has.
    """

    families: tuple[str, ...]
    missing: frozenset[str]

    @classmethod
    def of(cls, texts: Iterable[str]) -> _Letters:
        """Find installed fonts for the letters of some texts: the configured ones, then others."""
        missing = frozenset(each for text in texts for each in f"{text}…" if each.isprintable())
        families: list[str] = list(rcParams["font.family"])
        for family in families:
            missing -= _found(family, missing)
        while missing and (others := _others(missing)):
            family = max(sorted(others), key=lambda name: len(others[name]))
            families.append(family)
            missing -= _found(family, missing)
        return cls(tuple(families), missing)

    def fit(self, text: str) -> str:
        """Return a text on one line, missing letters escaped, cut where it gets too long."""
        parts = [printable(each) if each not in self.missing else _escaped(each) for each in text]
        room = _LABEL_WIDTH
        for number, part in enumerate(parts):
            room -= sum(1 + (east_asian_width(each) in "WF") for each in part)
            if room < 0:
                return "".join(parts[:number]) + self.fit("…")
        return "".join(parts)


def _escaped(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def _others(letters: frozenset[str]) -> dict[str, frozenset[str]]:
    """Return which of the letters each installed family has, without families that have none."""
    names = {each.name for each in fontManager.ttflist if _drawn(each.fname, letters)}
    return {name: found for name in names if (found := _found(name, letters))}


def _found(family: str, letters: frozenset[str]) -> frozenset[str]:
    """Return those of the letters that a family has, in the font that matplotlib takes of it."""
    try:
        path = fontManager.findfont(FontProperties(family=[family]), fallback_to_default=False)
    except ValueError:  # it is not installed
        return frozenset()
    return _drawn(path, letters)


@lru_cache(maxsize=4096)
def _drawn(path: str, letters: frozenset[str]) -> frozenset[str]:
    """Return those of the letters that a font has."""
    try:
        font = get_font(path)
    except (OSError, RuntimeError):  # it is gone since matplotlib listed it, or cannot be read
        return frozenset()
    if font.get_char_index(ord(_UNASSIGNED)):
        return frozenset()
    return frozenset(each for each in letters if font.get_char_index(ord(each)))
