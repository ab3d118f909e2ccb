"""What a history answers: as tables for people, as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
import sys
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import TYPE_CHECKING

from ..changes import BalanceChanged, SymbolMoved
from ._streams import encoding
from ._tables import Column, print_facts, print_table, print_words
from ._text import json_text, name
from ._watching import pool_name, said

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from ..changes import Change
    from ..history import Drawdown, Gap, HistoryInfo, Regrouping, Series

_NAMED = 12  # symbols of a list that is shown whole
_NAMED_OF_MANY = 8
_POINT = ("update_time", "observed_time", "balance", "symbols")
_FALL = ("peak", "trough", "depth", "fraction", "peak_time", "trough_time", "recovered_time")
_CHANGE = (
    *("change", "asset", "before", "after", "delta", "before_time", "after_time", "regrouped"),
    *("symbol", "symbols", "origin"),
)
_INFO = ("schema", "size", "values", "first", "last", "gaps", "gap_seconds")


def print_json(content: object) -> None:
    """Print JSON's own types."""
    print(json_text(content, encoding()))


# --- The series ---


def print_series(series: Series) -> None:
    """Print its points, then its gaps and regroupings."""
    points = series.points
    columns = [
        Column("Updated (UTC)", [_at(point.update_time) for point in points]),
        Column("Balance", [f"{point.balance:f}" for point in points], amounts=True),
        Column("First reported", [_at(point.observed_time) for point in points]),
    ]
    if any(point.symbols for point in points):
        columns.append(Column("Pool", [_pool(point.symbols) for point in points]))
    if points:
        print_table(*columns)
    _print_gaps(series.gaps, after=bool(points))
    _print_regroupings(series.regroupings, after=bool(points or series.gaps))


def _print_gaps(gaps: Sequence[Gap], *, after: bool) -> None:
    if not gaps:
        return
    if after:
        print()
    print_table(
        Column("Gap from (UTC)", [_time(gap.start) for gap in gaps]),
        Column("Until", [_time(gap.end) for gap in gaps]),
    )


def _print_regroupings(regroupings: Sequence[Regrouping], *, after: bool) -> None:
    if not regroupings:
        return
    if after:
        print()
    print_table(
        Column("Regrouped after", [_time(each.since) for each in regroupings]),
        Column("Seen (UTC)", [_time(each.observed_at) for each in regroupings]),
        Column("From", [_list(each.before) for each in regroupings]),
        Column("To", [_list(each.after) for each in regroupings]),
    )


def print_series_csv(series: Series) -> None:
    """Print a line for each point."""
    _print_csv(
        _POINT,
        (
            (point.update_time, point.observed_time, f"{point.balance:f}", _joined(point.symbols))
            for point in series.points
        ),
    )


# --- Falls ---


def print_falls(falls: Sequence[Drawdown]) -> None:
    """Print falls, one below the other."""
    print_table(
        Column("Fell by", [f"{fall.depth:f}" for fall in falls], amounts=True),
        Column("%", [_percent(fall.fraction) for fall in falls], amounts=True),
        Column("From", [f"{fall.peak:f}" for fall in falls], amounts=True),
        Column("At (UTC)", [_at(fall.peak_time) for fall in falls]),
        Column("To", [f"{fall.trough:f}" for fall in falls], amounts=True),
        Column("At", [_at(fall.trough_time) for fall in falls]),
        Column("Recovered", [_at(fall.recovered_time) or "not yet" for fall in falls]),
    )


def print_falls_csv(falls: Sequence[Drawdown]) -> None:
    """Print a line for each fall."""
    _print_csv(_FALL, (fall.to_dict().values() for fall in falls))


def _percent(fraction: Decimal | None) -> str:
    return "" if fraction is None else f"{fraction * 100:.2f}"


# --- What changed ---


def in_order(changes: Iterable[Change]) -> list[Change]:
    """Sort changes of balances by asset, the largest first; all others come after them."""
    return sorted(changes, key=_rank)  # stable: others stay as they are


def _rank(change: Change) -> tuple[bool, str, Decimal]:
    if not isinstance(change, BalanceChanged):
        return True, "", Decimal(0)
    amount = change.delta or change.after or change.before or Decimal(0)
    return False, change.asset, -abs(amount)


def print_changes(before: datetime, after: datetime, changes: Sequence[Change]) -> None:
    """Print changes of balances as a table, and a line for each of the others."""
    print_words(f"From {_time(before)} to {_time(after)} UTC")
    if not changes:
        print("Nothing changed")
    balances = [each for each in changes if isinstance(each, BalanceChanged)]
    if balances:
        print_table(
            Column("Asset", [_name(each.asset) for each in balances]),
            Column("Change", [_signed(each.delta) for each in balances], amounts=True),
            Column("", [_kind(each) for each in balances]),
            Column("Before", [_amount(each.before) for each in balances], amounts=True),
            Column("After", [_amount(each.after) for each in balances], amounts=True),
            Column("Pool", [pool_name(each.pool) for each in balances]),
        )
    others = [each for each in changes if not isinstance(each, BalanceChanged)]
    if balances and others:
        print()
    for each in others:
        print_words(said(each))


def print_changes_csv(changes: Sequence[Change]) -> None:
    """Print a line for each change; what a kind does not have is empty."""
    rows: list[list[object]] = []
    for change in changes:
        fields = change.to_dict() | {"symbols": _joined(change.pool.symbols)}
        fields |= {key: _name(str(fields[key])) for key in ("asset", "symbol") if key in fields}
        if isinstance(change, SymbolMoved):
            fields["origin"] = _joined(change.origin.symbols)
        rows.append([fields.get(column) for column in _CHANGE])
    _print_csv(_CHANGE, rows)


def _kind(change: BalanceChanged) -> str:
    if change.regrouped:
        return "regrouped"
    if change.delta is None:
        return "not held before" if change.before is None else "not held now"
    return "rose" if change.delta > 0 else "fell"


def _signed(delta: Decimal | None) -> str:
    return "" if delta is None else f"{delta:+f}"


def _amount(amount: Decimal | None) -> str:
    return "" if amount is None else f"{amount:f}"


# --- The history itself ---


def print_info(info: HistoryInfo) -> None:
    """Print what a history holds, one fact below the other."""
    facts = {
        "Schema": str(info.schema),
        "Size": f"{info.size:,} bytes",
        "Values": f"{info.values:,}",
        "First": f"{_time(info.first)} UTC" if info.first else "no observation yet",
        "Last": f"{_time(info.last)} UTC" if info.last else "",
        "Gaps": f"{len(info.gaps):,}",
    }
    if info.gaps:
        longest = max(info.gaps, key=_length)
        facts["Gaps"] += f", together {_together(info.gaps)}"
        facts["Longest gap"] = f"{_length(longest)} from {_time(longest.start)} UTC"
    if info.delays:
        late = info.delays
        facts["Reported"] = (
            f"{late.least:g} s to {late.greatest:g} s after the update, median {late.median:g} s"
        )
    print_facts(facts)


def print_info_csv(info: HistoryInfo) -> None:
    """Print one line; of gaps their number, and how long they are together."""
    late = info.delays
    plain = info.to_dict()
    gaps = len(info.gaps), _together(info.gaps).total_seconds()
    delays = ("least_delay", "median_delay", "greatest_delay")
    _print_csv(
        (*_INFO, *delays),
        [
            (
                *(plain[field] for field in _INFO[:5]),
                *gaps,
                *((late.least, late.median, late.greatest) if late else ("", "", "")),
            )
        ],
    )


def _length(gap: Gap) -> timedelta:
    return gap.end - gap.start


def _together(gaps: Sequence[Gap]) -> timedelta:
    return sum(map(_length, gaps), timedelta(0))


# --- Texts ---


def _print_csv(head: Sequence[str], rows: Iterable[Iterable[object]]) -> None:
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    for row in rows:
        writer.writerow([str(cell).lower() if isinstance(cell, bool) else cell for cell in row])
    sys.stdout.write(out.getvalue())


def _joined(symbols: Iterable[str]) -> str:
    return " ".join(map(_name, symbols))


def _list(symbols: Sequence[str]) -> str:
    """Name all symbols, or of many the first ones and the number of the others."""
    if len(symbols) <= _NAMED:
        return _joined(symbols)
    return f"{_joined(symbols[:_NAMED_OF_MANY])} and {len(symbols) - _NAMED_OF_MANY} more"


def _pool(symbols: Sequence[str]) -> str:
    more = len(symbols) - 1
    return f"{_name(symbols[0])}{f' and {more} more' * (more > 0)}" if symbols else ""


def _name(text: str) -> str:
    return name(text, encoding())


def _at(milliseconds: int | None) -> str:
    if milliseconds is None:
        return ""
    try:
        return _time(datetime.fromtimestamp(milliseconds // 1000, UTC))
    except (OverflowError, OSError, ValueError):  # the exchange can report any number
        return str(milliseconds)


def _time(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S}"
