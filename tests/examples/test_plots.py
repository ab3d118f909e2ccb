# What matplotlib leaves without a type: `**kwargs`, dates, some paths.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Plots show what was reported, nothing else, in letters that the installed fonts have."""

from __future__ import annotations

import io
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from itertools import pairwise
from math import isnan
from pathlib import Path
from typing import Any, cast

import pytest
from matplotlib import get_data_path, rc_context
from matplotlib.axes import Axes
from matplotlib.dates import date2num
from matplotlib.figure import Figure
from matplotlib.font_manager import FontEntry, fontManager

from binance_insurance import (
    AssetBalance,
    AssetNotHeldError,
    InsurancePool,
    InsuranceSnapshot,
)
from binance_insurance.history import Gap, Point, Regrouping, Series
from binance_insurance.plots import plot_series, plot_snapshot
from binance_insurance.testing import make_pool

from .. import ROOT
from ..plots import MIDNIGHT, PICTURE, draw, market, observed, recorded
from ..scripts import script
from ..test_exports import documented

NOON = datetime(2026, 11, 24, 12, tzinfo=UTC)
BLOCK = re.compile(r"^```py\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = BLOCK.findall((ROOT / "docs" / "plots.md").read_text("utf-8"))


def snapshot(*pools: InsurancePool, complete: bool = True) -> InsuranceSnapshot:
    return InsuranceSnapshot(pools, NOON, complete)


def rendered(ax: Axes) -> str:
    """The picture as SVG, which has each text as a comment; a letter without glyph is a warning."""
    text = io.StringIO()
    figure = ax.get_figure(root=True)
    assert figure is not None
    figure.savefig(text, format="svg")
    return text.getvalue()


def bars(ax: Axes) -> list[tuple[str, float]]:
    """The labels and lengths of the bars, from the top down."""
    low, high = ax.get_ylim()
    labels = [(tick.get_position()[1], tick.get_text()) for tick in ax.get_yticklabels()]
    lengths = [bar.get_width() for bar in cast("Any", ax.patches)]
    found = [(at, text, length) for (at, text), length in zip(labels, lengths, strict=True)]
    return [(text, length) for _, text, length in sorted(found, reverse=bool(low < high))]


# --- A snapshot ---


def test_the_largest_pools_are_bars_with_the_largest_at_the_top() -> None:
    pools = (
        make_pool("BUSDT", USDT="-2.5"),
        make_pool("CUSDT", "DUSDT", "EUSDT", USDT="30", BTC="1"),
        make_pool("FUSDT", BTC="1000"),
        make_pool("AUSDT", "GUSDT", USDT="300.25"),
        make_pool("HUSDT", USDT="0"),
    )
    ax = plot_snapshot(snapshot(*pools), "usdt")
    assert bars(ax) == [
        ("AUSDT and 1 more", 300.25),
        ("CUSDT and 2 more", 30),
        ("HUSDT", 0),
        ("BUSDT", -2.5),
    ]
    assert ax.get_xlabel() == "USDT"
    assert ax.get_title() == "4 pools, 2026-11-24 12:00:00 UTC"
    assert bars(plot_snapshot(snapshot(*pools), "USDT", top=2)) == bars(ax)[:2]
    abroad = NOON.astimezone(timezone(timedelta(hours=9)))
    part = plot_snapshot(InsuranceSnapshot(pools, abroad, False), "USDT", top=2)
    assert part.get_title() == "2 largest of 4 pools, part of all, 2026-11-24 12:00:00 UTC"


def test_an_asset_that_no_pool_holds_is_an_error_that_names_the_others() -> None:
    with pytest.raises(AssetNotHeldError, match="none of the 60 pools holds EUR, but BNFCR, BTC,"):
        plot_snapshot(market(), "EUR")
    with pytest.raises(AssetNotHeldError, match=r"none of the 0 pools holds USDT$"):
        plot_snapshot(snapshot(), "USDT")
    with pytest.raises(ValueError, match="top must be at least 1, not 0"):
        plot_snapshot(market(), "USDT", top=0)


@pytest.fixture
def _only_fonts_of_matplotlib(monkeypatch: pytest.MonkeyPatch) -> None:
    """No font with Chinese letters but the one that draws the same box for everything."""
    ours = [each for each in fontManager.ttflist if each.fname.startswith(get_data_path())]
    monkeypatch.setattr(fontManager, "ttflist", ours)


@pytest.mark.usefixtures("_only_fonts_of_matplotlib")
def test_letters_without_a_font_are_escaped() -> None:
    chinese = [pool for pool in market() if any(each >= "\u4e00" for each in pool.symbols)]
    turned = [InsurancePool(pool.symbols[::-1], pool.assets) for pool in chinese]
    ax = plot_snapshot(snapshot(*turned, make_pool("币USDT", 币="1", USDT="1")), "USDT")
    labels = " ".join(label for label, _ in bars(ax))
    assert labels.isascii()
    assert r"\u54c8\u57fa\u7c73USDT and 131 more" in labels
    texts = re.findall("<!-- (.*) -->", rendered(ax))
    assert r"\u5e01USDT" in texts
    assert plot_snapshot(snapshot(make_pool("A", 币="1")), "币").get_xlabel() == r"\u5e01"


@pytest.mark.usefixtures("_only_fonts_of_matplotlib")
def test_letters_of_any_installed_font_are_drawn() -> None:
    ax = plot_snapshot(snapshot(make_pool("A\u2312\u1d81币", USDT="1")), "USDT")
    assert [label for label, _ in bars(ax)] == ["A\u2312\u1d81\\u5e01"]
    assert "<!-- A\u2312\u1d81\\u5e01 -->" in rendered(ax)


@pytest.mark.usefixtures("_only_fonts_of_matplotlib")
def test_fonts_that_are_not_there_are_left_out(tmp_path: Path) -> None:
    (broken := tmp_path / "broken.ttf").write_bytes(b"no font")
    for path in (tmp_path / "gone.ttf", broken):
        fontManager.ttflist.append(FontEntry(fname=str(path), name=path.stem))
    with rc_context({"font.family": ["not installed", "sans-serif"]}):
        ax = plot_snapshot(snapshot(make_pool("A\u2312币", USDT="1")), "USDT")
        assert "<!-- A\u2312\\u5e01 -->" in rendered(ax)


def test_a_label_is_one_short_line_without_mathematics() -> None:
    odd = InsurancePool(("A\n$x^2$\x1b[31m",), make_pool("A", USDT="1").assets)
    long = InsurancePool(("L" * 1000,), odd.assets)
    ax = plot_snapshot(snapshot(odd, long), "USDT")
    assert [label for label, _ in bars(ax)] == [r"A\n$x^2$\x1b[31m", "L" * 36 + "…"]
    assert r"<!-- A\n$x^2$\x1b[31m -->" in rendered(ax)
    no_formula = InsurancePool(("$_{$",), (AssetBalance("$_{$", Decimal(1), 0),))
    ax = plot_snapshot(snapshot(no_formula), "$_{$")
    assert rendered(ax).count("<!-- $_{$ -->") == 2
    wide = InsurancePool(("\u26a1" * 20,), odd.assets)  # letters of two columns
    assert bars(plot_snapshot(snapshot(wide), "USDT"))[0][0] == "\u26a1" * 18 + "…"


# --- A series ---


def at(hours: float) -> datetime:
    return MIDNIGHT + timedelta(hours=hours)


def point(hours: float, balance: str) -> Point:
    time = int(at(hours).timestamp() * 1000)
    return Point(time, time, Decimal(balance), ("A",))


def line(ax: Axes) -> list[tuple[float, float]]:
    """The corners of the step line: hours since midnight, and balances."""
    steps = ax.get_lines()[0]
    assert steps.get_drawstyle() == "steps-post"
    corners = cast("Any", steps.get_xydata())
    return [(round((x - day(0)) * 24, 6), y) for x, y in corners]


def day(hours: float) -> float:
    return float(date2num(at(hours)))  # type: ignore[no-untyped-call]


def shown(ax: Axes, time: datetime) -> float | None:
    """What the step line shows at a time; None where it has a hole."""
    hours = (time - MIDNIGHT) / timedelta(hours=1)
    for (begin, balance), (end, _) in pairwise(line(ax)):
        if begin <= hours < end:
            return None if isnan(balance) else balance
    return None


def dots(ax: Axes) -> list[tuple[float, float]]:
    found = ax.get_lines()[1]
    assert found.get_linestyle() == "None"
    return [(round((x - day(0)) * 24, 6), y) for x, y in cast("Any", found.get_xydata())]


def test_a_balance_stands_until_the_next_one() -> None:
    points = point(1, "10"), point(2, "12.5"), point(2, "11"), point(4, "-3")
    ax = plot_series(Series(points, (), ()))
    assert line(ax) == [(1, 10), (2, 12.5), (2, 11), (4, -3), (4, -3)]
    assert dots(ax) == [(1, 10), (2, 12.5), (2, 11), (4, -3)]
    assert ax.get_legend() is None
    assert (ax.get_xlabel(), ax.get_ylabel(), ax.get_title()) == ("UTC", "balance", "")
    rendered(ax)


def test_no_line_crosses_a_gap() -> None:
    points = point(1, "10"), point(4.5, "20"), point(7, "30")
    gaps = Gap(at(2), at(3)), Gap(at(4), at(5)), Gap(at(6), at(7)), Gap(at(8), at(9))
    ax = plot_series(Series(points, gaps, ()))
    found = line(ax)
    assert [corner for corner in found if not isnan(corner[1])] == [
        *((1, 10), (2, 10)),
        *((3, 10), (4, 10)),
        *((5, 20), (6, 20)),  # reported after the gap in which it was updated
        *((7, 30), (8, 30)),
    ]
    assert [hours for hours, balance in found if isnan(balance)] == [2, 4, 6]
    assert dots(ax)[1] == (4.5, 20)
    spans = [span.get_extents().transformed(ax.transData.inverted()) for span in ax.patches]
    assert [(round(24 * (s.x0 - day(0))), round(24 * (s.x1 - day(0)))) for s in spans] == [
        (2, 3),
        (4, 5),
        (6, 7),
        (8, 9),
    ]


@pytest.mark.parametrize("end", [9, 10])
def test_a_series_that_is_cut_in_a_gap_ends_and_begins_with_it(end: float) -> None:
    gaps = Gap(at(0), at(1)), Gap(at(8), at(end))
    found = line(plot_series(Series((point(1, "10"), point(2, "20")), gaps, ())))
    assert found == [(1, 10), (2, 20), (8, 20)]


def test_a_regrouping_is_a_vertical_line_and_no_fall() -> None:
    points = point(1, "100"), point(5, "10"), point(6, "11")
    moved = Regrouping(at(3), at(4), ("A", "B"), ("A",))
    ax = plot_series(Series(points, (), (moved,)))
    hole = line(ax)[2]
    assert hole[0] == 3
    assert isnan(hole[1])
    assert line(ax)[:2] + line(ax)[3:] == [(1, 100), (3, 100), (5, 10), (6, 11), (6, 11)]
    (vertical,) = ax.get_lines()[2:]
    assert set(cast("Any", vertical.get_xdata())) == {day(4)}
    assert set(cast("Any", vertical.get_ydata())) == {0, 1}, "from the bottom to the top"
    legend = ax.get_legend()
    assert legend is not None
    assert [text.get_text() for text in legend.get_texts()] == ["balance", "regrouping"]


def test_a_balance_right_after_a_regrouping_begins_a_new_line() -> None:
    second = 1 / 3600
    moved = Regrouping(at(3), at(4), ("A", "B"), ("A",))
    points = point(1, "100"), point(3 + second / 2, "90"), point(3 + second, "10")
    found = line(plot_series(Series(points, (), (moved,))))
    assert [balance for _, balance in found if balance < 100] == [90, 90, 10, 10]
    assert isnan(found[-3][1]), "90 is the last of the pool before, in its last second"


@pytest.mark.parametrize("symbol", ["XRPUSDT", "BTCUSDT", "HYPEUSDT", None])
def test_a_recorded_day_shows_what_was_seen_and_no_more(symbol: str | None) -> None:
    seen = list(observed())
    series = recorded(seen, symbol)
    assert len(series.gaps) == 1 or symbol == "HYPEUSDT"
    ax = plot_series(series)
    values = 0
    for pools, _ in seen:
        pool = pools.get(symbol) if symbol else None
        balance = pool.balance("USDT") if pool else pools.totals()["USDT"]
        value = shown(ax, pools.observed_at + timedelta(seconds=1))
        values += value is not None
        assert value is None or value == float(balance) or (symbol and not pool)
    assert values > (30 if symbol == "HYPEUSDT" else 80)
    for gap in series.gaps:
        assert shown(ax, gap.start + (gap.end - gap.start) / 2) is None
    moves = [each.get_xdata()[0] for each in cast("Any", ax.get_lines()[2:])]
    assert moves == [
        day((each.observed_at - MIDNIGHT) / timedelta(hours=1)) for each in series.regroupings
    ]
    rendered(ax)


def test_a_series_without_points_says_so() -> None:
    for gaps in ((), (Gap(at(1), at(2)),)):
        ax = plot_series(Series((), gaps, ()))
        assert ax.get_title() == "no balance was reported"
        assert line(ax) == []
        assert list(ax.get_yticks()) == []
        rendered(ax)


def test_a_single_moment_has_an_hour_around_it_until_more_is_drawn() -> None:
    ax = plot_series(Series((point(12, "10"),), (), ()))
    rendered(ax)
    assert [round(24 * (edge - day(0)), 6) for edge in ax.get_xlim()] == [11.5, 12.5]
    plot_series(Series((point(1, "10"), point(20, "12")), (), ()), ax=ax)
    rendered(ax)
    begin, end = ax.get_xlim()
    assert begin < day(1) < day(20) < end
    fixed = Figure().add_subplot()
    fixed.set_xlim(day(0), day(24))
    plot_series(Series((point(12, "10"),), (), ()), ax=fixed)
    assert fixed.get_xlim() == (day(0), day(24))


def test_neighbours_on_the_axis_of_balances_differ() -> None:
    points = point(1, "304123456.781"), point(2, "304123456.782")
    ax = plot_series(Series(points, (), ()))
    ticks = ax.get_yticks()
    labels = ax.yaxis.get_major_formatter().format_ticks(list(ticks))
    assert len(set(labels)) == len(ticks)


def test_several_plots_share_a_figure_and_several_series_an_axes() -> None:
    figure = Figure(layout="constrained")
    above, below = figure.subplots(2)
    below.set_ylabel("USDT")
    assert plot_snapshot(market(), "BTC", ax=above) is above
    moved = Regrouping(at(1), at(2), ("A",), ("B",))
    for balance in "1", "2":
        assert plot_series(Series((point(1, balance),), (), (moved,)), ax=below) is below
    first, _, _, second, _, vertical = below.get_lines()
    assert first.get_color() != second.get_color() == vertical.get_color()
    assert below.get_legend() is None
    assert below.get_ylabel() == "USDT"
    rendered(above)


# --- The module ---

NO_GLOBAL_STATE = """
import sys
import binance_insurance
assert "matplotlib" not in sys.modules
import gc, weakref
from matplotlib import rcParams
before = rcParams.copy()
from binance_insurance.plots import plot_series, plot_snapshot
from binance_insurance.history import Series
from binance_insurance.sandbox import Documented
from datetime import datetime, UTC
snapshot = binance_insurance.InsuranceSnapshot(Documented().pools(0), datetime.now(UTC))
figures = [plot_snapshot(snapshot, "USDT").figure, plot_series(Series((), (), ())).figure]
kept = [weakref.ref(figure) for figure in figures]
del figures
gc.collect()
print([ref() for ref in kept], "matplotlib.pyplot" in sys.modules, before == rcParams.copy())
"""

MISSING = """
import sys
sys.modules["matplotlib"] = None
try:
    import binance_insurance.plots
except ModuleNotFoundError as error:
    print(error)
"""


def test_nothing_is_left_behind() -> None:
    assert script(NO_GLOBAL_STATE, options=("-W", "error")) == "[None, None] False True\n"


def test_without_matplotlib_the_error_names_the_extra() -> None:
    assert script(MISSING).endswith("needs matplotlib: pip install 'binance-insurance[plot]'\n")


@pytest.mark.parametrize("function", [plot_series, plot_snapshot])
def test_the_functions_are_documented(function: object) -> None:
    assert any(function is each for each in documented())


@pytest.mark.parametrize("code", BLOCKS)
def test_a_block_of_the_page_runs(code: str, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-W", "error", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout
    assert list(tmp_path.glob("*.png"))


def test_the_picture_in_the_docs_is_what_is_drawn() -> None:
    committed, drawn = (
        re.findall("<!-- (.*) -->", picture) for picture in (PICTURE.read_text("utf-8"), draw())
    )
    assert len(committed) > 20
    assert committed == drawn, "draw it again: python -m tests.plots"
