"""Pools and weights as tables for people, and as JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from decimal import Decimal

    from rich.console import RenderableType

    from ..budget import BudgetState
    from ..models import InsurancePool, RequestWeight

_FIELDS = ("asset", "marginBalance", "updateTime", "symbols")
_NAMED = 12  # a pool of up to so many symbols is shown with all of them
_NAMED_OF_MANY = 8  # a larger pool with its first ones


def pools_table(asked: Sequence[str], pools: Sequence[InsurancePool]) -> Table:
    """Build a table with one block for each pool: its symbols and its balances."""
    table = Table(box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    table.add_column("Symbols", overflow="fold", ratio=1)
    table.add_column("Balance", justify="right", no_wrap=True)
    table.add_column("Asset", no_wrap=True)
    table.add_column("Updated (UTC)", no_wrap=True, style="dim")
    for number, pool in enumerate(pools):
        if number:
            table.add_section()
        symbols = _symbols(pool, [symbol for symbol in asked if symbol in pool.symbols])
        width = max(len(_fraction(held.margin_balance)) for held in pool.assets)
        for row, held in enumerate(pool.assets):
            amount = f"{held.margin_balance:f}"  # no exponent, so that it can be copied
            pad = " " * (width - len(_fraction(held.margin_balance)))
            table.add_row(
                symbols if row == 0 else "",
                amount + pad,
                held.asset,
                f"{held.updated_at:%Y-%m-%d %H:%M:%S}",
            )
    return table


def pools_json(pools: Sequence[InsurancePool]) -> str:
    """Return a JSON list of pools in the exchange's own format, each pool once."""
    return msgspec.json.format(msgspec.json.encode(pools), indent=2).decode()


def pools_csv(pools: Iterable[InsurancePool]) -> str:
    """Return one CSV line for each asset of each pool; adding up an asset counts none twice."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_FIELDS)
    for pool in pools:
        symbols = " ".join(pool.symbols)
        for held in pool.assets:
            writer.writerow((held.asset, f"{held.margin_balance:f}", held.update_time, symbols))
    return out.getvalue().rstrip("\n")


def weight_table(weight: RequestWeight, budget: BudgetState) -> RenderableType:
    """Build a table of the limit, used weight, weight left, and when the window rolls over."""
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(justify="right")
    table.add_column(style="dim")
    known = weight.used_weight is not None
    table.add_row("Limit", f"{weight.limit:,}", f"weight per {weight.interval} s, for the whole IP")
    table.add_row(
        "Used",
        f"{weight.used_weight:,}" if known else "unknown",
        "by all clients on the IP, this request included",
    )
    table.add_row("Left", f"{weight.left:,}" if known else "unknown", "for all clients on the IP")
    table.add_row(
        "Ours", f"{budget.available:,}", f"for this budget, after a reserve of {budget.reserve:,}"
    )
    resets = f"{weight.resets_at:%H:%M:%S}" if weight.resets_at else "unknown"
    table.add_row("Resets", resets, "UTC, by the exchange's clock")
    return table


def weight_json(weight: RequestWeight, budget: BudgetState) -> str:
    """Return the same values as JSON."""
    content = {
        **msgspec.structs.asdict(weight),
        "left": weight.left,
        "available": budget.available,
        "reserve": budget.reserve,
    }
    return msgspec.json.format(msgspec.json.encode(content), indent=2).decode()


def _symbols(pool: InsurancePool, asked: Sequence[str]) -> Text:
    """Name the requested symbols of a pool, or its first ones, and the number of the others."""
    if asked:
        named = asked
    elif len(pool.symbols) <= _NAMED:
        named = pool.symbols
    else:
        named = pool.symbols[:_NAMED_OF_MANY]
    text = Text(" ".join(named), style="bold" if asked else "")
    more = len(pool.symbols) - len(named)
    if more > 0:
        text.append(f"\nand {more} more", style="not bold dim")
    return text


def _fraction(amount: Decimal) -> str:
    return f"{amount:f}".partition(".")[2]
