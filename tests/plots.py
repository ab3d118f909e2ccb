# What matplotlib leaves without a type: `**kwargs`, dates, some paths.
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false
"""Draws the picture of the plots in the docs: the sandbox's market, and a recorded series.

`python -m tests.plots` writes the picture again. It needs the extra `plot`.
"""

from __future__ import annotations

import asyncio
import io
import tempfile
from collections.abc import Iterable, Iterator
from datetime import UTC, datetime, timedelta

from matplotlib import rc_context
from matplotlib.figure import Figure

from binance_insurance import InsuranceSnapshot
from binance_insurance.history import Series, open_history
from binance_insurance.plots import plot_series, plot_snapshot
from binance_insurance.sandbox import Market, Regrouping

from . import ROOT

PICTURE = ROOT / "docs" / "_static" / "plots.svg"
MIDNIGHT = datetime(2026, 11, 24, tzinfo=UTC)
Observed = tuple[InsuranceSnapshot, datetime | None]


def market() -> InsuranceSnapshot:
    """Return the pools of the sandbox's market."""
    return InsuranceSnapshot(Market().pools(MIDNIGHT.timestamp()), MIDNIGHT)


def observed() -> Iterator[Observed]:
    """Yield what a watch sees in a day of regroupings: every 10 minutes, but not in the outage."""
    scenario, since = Regrouping(day=86_400), None
    for number in range(144):
        at = MIDNIGHT + timedelta(minutes=10 * number, seconds=5)
        if scenario.fault(at.timestamp()):
            since = None
            continue
        yield InsuranceSnapshot(scenario.pools(at.timestamp()), at), since
        since = at


def recorded(seen: Iterable[Observed], symbol: str | None) -> Series:
    """Record what was seen, and return the series of a symbol in USDT."""

    async def main() -> Series:
        with tempfile.TemporaryDirectory() as directory:
            async with open_history(f"sqlite:///{directory}/insurance.db") as history:
                await history.extend(seen)
                return await history.series(symbol, "USDT")

    return asyncio.run(main())


def draw() -> str:
    """Draw both plots in one figure, as SVG."""
    with rc_context({"svg.hashsalt": "plots"}):  # the same file each time
        figure = Figure(figsize=(8, 7.5), layout="constrained")
        above, below = figure.subplots(2, height_ratios=(3, 2))
        plot_snapshot(market(), "USDT", top=12, ax=above)
        plot_series(recorded(observed(), "XRPUSDT"), ax=below).set_ylabel("USDT behind XRPUSDT")
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return "".join(f"{line.rstrip()}\n" for line in text.getvalue().splitlines())


if __name__ == "__main__":
    PICTURE.write_text(draw(), "utf-8")
