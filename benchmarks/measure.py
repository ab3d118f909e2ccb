"""Rounds in turn, ratios within a round, and a table of them."""

from __future__ import annotations

import statistics
import sys
from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence


class Result(msgspec.Struct):
    """What one side took.

    Attributes:
        side: whose.
        time: the median, in the row's unit.
        ratio: the median over the rounds of its time by that of the row's first side.
        spread: the first and third quartile of that ratio.
        notes: other figures, such as requests and weight.
    """

    side: str
    time: float
    ratio: float | None = None
    spread: tuple[float, float] = (0.0, 0.0)
    notes: str = ""


class Row(msgspec.Struct):
    """One comparison: what was measured, what it leaves out, and the results."""

    title: str
    unit: str
    leaves_out: str
    results: list[Result]


async def alternate(
    sides: Mapping[str, Callable[[], Awaitable[float]]], *, rounds: int
) -> dict[str, list[float]]:
    """Measure each side once in every round; the first round only warms up.

    The order turns from round to round, so that none always comes after the same other.
    """
    times: dict[str, list[float]] = {side: [] for side in sides}
    order = deque(sides)
    for number in range(rounds + 1):
        for side in order:
            time = await sides[side]()
            if number:
                times[side].append(time)
        order.rotate(1)
    return times


def compare(times: Mapping[str, Sequence[float]], notes: Mapping[str, str]) -> list[Result]:
    """Compare each side with the first one, round by round."""
    first = next(iter(times.values()))
    results: list[Result] = []
    for side, taken in times.items():
        ratios = [time / base for time, base in zip(taken, first, strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        results.append(
            Result(side, statistics.median(taken), middle, (low, high), notes.get(side, ""))
        )
    return results


def write_table(rows: Sequence[Row]) -> str:
    """Lay the rows out as text."""
    version = ".".join(map(str, sys.version_info[:3]))
    lines = [f"Python {version}; medians, and ratios to the first side with their quartiles"]
    for row in rows:
        lines += ["", f"{row.title} ({row.unit})"]
        for result in row.results:
            low, high = result.spread
            ratio = (
                "" if result.ratio is None else f"{result.ratio:7.2f}  ({low:.2f} to {high:.2f})"
            )
            line = f"  {result.side:<30} {result.time:>9,.4g}  {ratio:<26} {result.notes}"
            lines.append(line.rstrip())
        lines.append(f"  Leaves out: {row.leaves_out}")
    return "\n".join(lines)
