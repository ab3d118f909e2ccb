"""Alternating rounds, ratios within each round, and a table of them."""

from __future__ import annotations

import statistics
import sys
from collections import deque
from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence

_SHOWN = 0.005  # half of the last digit that the table shows


class Ratio(msgspec.Struct):
    """How many times what another side took a side took, round by round.

    Attributes:
        to: the other side.
        median: the median of the rounds' ratios.
        spread: their first and third quartile.
        of_medians: the ratio of both sides' medians, which a quiet machine brings between these.
    """

    to: str
    median: float
    spread: tuple[float, float]
    of_medians: float

    @property
    def agrees(self) -> bool:
        """Whether medians and ratios say the same, to the digits that the table shows."""
        low, high = self.spread
        return low - _SHOWN <= self.of_medians <= high + _SHOWN


class Result(msgspec.Struct):
    """What one side took.

    Attributes:
        side: whose.
        time: the median, in the row's unit.
        ratio: to the row's first side, or None where rounds say nothing.
        notes: other figures, such as requests and weight.
    """

    side: str
    time: float
    ratio: Ratio | None = None
    notes: str = ""


class Row(msgspec.Struct):
    """One comparison.

    Attributes:
        title: what was measured.
        unit: of the times.
        leaves_out: what it says nothing about.
        results: of each side.
        first: the ratios of the first side to those that it is to be judged by.
        measure: what is compared, as the ratios are read: "times the CPU time of".
    """

    title: str
    unit: str
    leaves_out: str
    results: list[Result]
    first: list[Ratio] = []
    measure: str = "time"


async def alternate(
    sides: Mapping[str, Callable[[], Awaitable[float]]], *, rounds: int
) -> dict[str, list[float]]:
    """Measure each side once in every round; the first round only warms up.

    The order rotates from round to round, so that each side comes first as often as any other.
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


def ratio(times: Mapping[str, Sequence[float]], side: str, to: str) -> Ratio:
    """Compare a side with another, round by round."""
    ratios = [time / base for time, base in zip(times[side], times[to], strict=True)]
    low, middle, high = statistics.quantiles(ratios, n=4)
    of_medians = statistics.median(times[side]) / statistics.median(times[to])
    return Ratio(to, middle, (low, high), of_medians)


def compare(times: Mapping[str, Sequence[float]], notes: Mapping[str, str]) -> list[Result]:
    """Compare each side with the first one."""
    first = next(iter(times))
    return [
        Result(side, statistics.median(taken), ratio(times, side, first), notes.get(side, ""))
        for side, taken in times.items()
    ]


def write_table(rows: Sequence[Row]) -> str:
    """Lay the rows out as text."""
    version = ".".join(map(str, sys.version_info[:3]))
    lines = [
        f"Python {version}. For each side: its median; how many times what the first side took it",
        "took, as the median of the rounds' ratios; and the quartiles of these ratios.",
    ]
    for row in rows:
        lines += ["", f"{row.title} ({row.unit})"]
        for result in row.results:
            line = f"  {result.side:<30} {result.time:>9,.4g}  {_show(result.ratio):<26} "
            lines.append((line + result.notes).rstrip())
        first = row.results[0].side
        for each in row.first:
            low, high = each.spread
            lines.append(
                f"  {first} takes {each.median:.3f} times ({low:.3f} to {high:.3f}) "
                f"the {row.measure} of {each.to}."
            )
        shown = [result.ratio for result in row.results if result.ratio is not None]
        if not all(each.agrees for each in (*shown, *row.first)):
            lines.append("  The machine was too busy: medians and ratios disagree. Run it again.")
        lines.append(f"  Leaves out: {row.leaves_out}")
    return "\n".join(lines)


def _show(ratio: Ratio | None) -> str:
    if ratio is None:
        return ""
    low, high = ratio.spread
    return f"{ratio.median:7.2f}  ({low:.2f} to {high:.2f})"
