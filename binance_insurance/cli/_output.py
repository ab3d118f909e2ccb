"""Pools and weights as tables for people, and as JSON and CSV for programs.

A number, a symbol and an asset are shown whole. Where the table is wider than the terminal, each
pool is a block instead: its symbols, then a line for each asset, which may run over the edge.
"""

from __future__ import annotations

import csv
import io
import shutil
import sys
from typing import TYPE_CHECKING

from msgspec import Struct, structs, to_builtins
from rich.box import SIMPLE_HEAD, Box
from rich.cells import cell_len
from rich.console import Console, Group
from rich.table import Table
from rich.text import Text

from ._streams import encoding
from ._text import json_text, name

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime
    from decimal import Decimal

    from rich.console import RenderableType

    from ..budget import BudgetState
    from ..models import InsurancePool, RequestWeight

_FIELDS = ("asset", "marginBalance", "updateTime", "symbols")
_HEADS = ("Symbols", "Balance", "Asset", "Updated (UTC)")
_NAMED = 12  # a pool of up to so many symbols is shown with all of them
_NAMED_OF_MANY = 8  # a larger pool with its first ones
_PIPE = 200  # columns of a table in a pipe, if it fits: few lists of symbols are broken
_ENDLESS = 1_000_000
_LIST = 24  # columns that a list of symbols should have at least
_GAP = 2  # columns between two columns of a table
_ASCII_RULES = Box(str(SIMPLE_HEAD).replace("─", "-"), ascii=True)


class _Line(Struct, frozen=True):
    """One asset of a pool, as it is shown; the amounts of a pool have equally long fractions."""

    amount: str
    asset: str
    updated: str


class _Block(Struct, frozen=True):
    """One pool, as it is shown."""

    symbols: tuple[str, ...]
    more: str
    asked: bool
    lines: tuple[_Line, ...]

    def text(self) -> Text:
        """Return the symbols between blanks, and how many more there are on a line of its own."""
        text = Text(" ".join(self.symbols), style="bold" if self.asked else "")
        if self.more:
            text.append(f"\n{self.more}", style="not bold dim")
        return text


def print_pools(asked: Sequence[str], pools: Sequence[InsurancePool]) -> None:
    """Print a table with the symbols and the balances of each pool, or a block for each."""
    blocks = [_block(pool, asked) for pool in pools]
    output, widths = console(), _widths(blocks)
    least = max(min(_LIST, widths[0]), *(_width(each.symbols) for each in blocks))
    room = (output.width if output.is_terminal else _PIPE) - sum(widths[1:]) - 3 * _GAP
    if room < least and output.is_terminal:
        _print(output, _stack(blocks, output))
    else:
        widths[0] = min(widths[0], max(room, least))
        _print(output, _table(blocks, widths, output))


def print_weight(weight: RequestWeight, budget: BudgetState) -> None:
    """Print the limit, used weight, weight left, and when the window rolls over."""
    table = Table.grid(padding=(0, _GAP))
    table.add_column(style="bold", no_wrap=True)
    table.add_column(justify="right", no_wrap=True)
    table.add_column(style="dim")
    table.add_row("Limit", f"{weight.limit:,}", f"weight per {weight.interval} s, for the whole IP")
    table.add_row("Used", _number(weight.used_weight), "by all clients on the IP, as last reported")
    table.add_row("Left", _number(weight.left), "for all clients on the IP")
    ours = f"for this budget, after a reserve of {budget.reserve:,}"
    table.add_row("Ours", f"{_ours(weight, budget):,}", ours)
    table.add_row("Resets", _time(weight.resets_at), "UTC, by the exchange's clock")
    if budget.frozen_until is not None:
        table.add_row("Frozen", _time(budget.frozen_until), "UTC; nothing is sent until then")
    if budget.banned_until is not None:
        end = f"{budget.banned_until:%Y-%m-%d %H:%M:%S}"
        table.add_row("Banned", end, "UTC; nothing is sent until then")
    _print(console(), table)


def weight_json(weight: RequestWeight, budget: BudgetState) -> str:
    """Return the same values as JSON."""
    content = structs.asdict(weight) | {
        "left": weight.left,
        "available": _ours(weight, budget),
        "reserve": budget.reserve,
        "frozen_until": budget.frozen_until,
        "banned_until": budget.banned_until,
    }
    return json_text(to_builtins(content), encoding())


def pools_json(pools: Sequence[InsurancePool]) -> str:
    """Return a JSON list of pools under the exchange's names, each pool once."""
    return json_text([pool.to_dict() for pool in pools], encoding())


def pools_csv(pools: Iterable[InsurancePool]) -> str:
    """Return one CSV line for each asset of each pool; adding up an asset counts none twice."""
    out, code = io.StringIO(), encoding()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(_FIELDS)
    for pool in pools:
        symbols = " ".join(name(symbol, code) for symbol in pool.symbols)
        for held in pool.assets:
            asset, amount = name(held.asset, code), f"{held.margin_balance:f}"
            writer.writerow((asset, amount, held.update_time, symbols))
    return out.getvalue().rstrip("\n")


def console() -> Console:
    """Return standard output, with the width of its terminal."""
    terminal = sys.stdout.isatty()  # whatever FORCE_COLOR says: a pipe gets plain text
    width = shutil.get_terminal_size().columns if terminal else _ENDLESS
    return Console(force_terminal=terminal, width=width, highlight=False)


def _print(console: Console, content: RenderableType) -> None:
    if console.is_terminal:
        console.print(content, soft_wrap=True)  # nothing is cut at the edge
        return
    with console.capture() as capture:
        console.print(content, soft_wrap=True)
    print("\n".join(line.rstrip() for line in capture.get().split("\n")).strip("\n"))


def _block(pool: InsurancePool, asked: Sequence[str]) -> _Block:
    """Name the requested symbols of a pool, or its first ones, and the number of the others."""
    code = encoding()
    wanted = [symbol for symbol in asked if symbol in pool.symbols]
    first = pool.symbols if len(pool.symbols) <= _NAMED else pool.symbols[:_NAMED_OF_MANY]
    named = wanted or first
    more = len(pool.symbols) - len(named)
    decimals = max(len(_fraction(held.margin_balance)) for held in pool.assets)
    lines = tuple(
        _Line(
            f"{held.margin_balance:f}"  # no exponent, so that it can be copied
            + " " * (decimals - len(_fraction(held.margin_balance))),
            name(held.asset, code),
            f"{held.updated_at:%Y-%m-%d %H:%M:%S}",
        )
        for held in pool.assets
    )
    symbols = tuple(name(symbol, code) for symbol in named)
    return _Block(symbols, f"and {more} more" if more > 0 else "", bool(wanted), lines)


def _widths(blocks: Sequence[_Block]) -> list[int]:
    """Measure what each column needs to have every cell on one line."""
    rows = [_HEADS]
    for block in blocks:
        rows += [(each, "", "", "") for each in (" ".join(block.symbols), block.more)]
        rows += [("", line.amount, line.asset, line.updated) for line in block.lines]
    return [_width(column) for column in zip(*rows, strict=True)]


def _width(cells: Iterable[str]) -> int:
    return max(map(cell_len, cells))


def _table(blocks: Sequence[_Block], widths: Sequence[int], console: Console) -> Table:
    table = Table(
        box=_ASCII_RULES if console.options.ascii_only else SIMPLE_HEAD,
        header_style="bold",
        show_edge=False,
        pad_edge=False,
        padding=(0, _GAP - 1, 0, 0),  # and one between two columns by the box
    )
    for head, width in zip(_HEADS, widths, strict=True):
        title = Text(head, justify="right" if head == "Balance" else "left")
        table.add_column(title, width=width, overflow="fold")  # no word is wider than its column
    table.columns[-1].style = "dim"
    for number, block in enumerate(blocks):
        if number:
            table.add_section()
        amounts = "\n".join(line.amount.rjust(widths[1]) for line in block.lines)
        assets = "\n".join(line.asset for line in block.lines)
        updated = "\n".join(line.updated for line in block.lines)
        table.add_row(block.text(), Text(amounts), Text(assets), Text(updated))
    return table


def _stack(blocks: Sequence[_Block], console: Console) -> Group:
    """Put the pools one below the other; balances come first, where the edge is far."""
    parts: list[Text] = []
    for block in blocks:
        if parts:
            parts.append(Text())
        style = "bold" if block.asked else ""
        parts += [Text(line, style) for line in wrapped(block.symbols, console.width)]
        if block.more:
            parts.append(Text(block.more, "dim"))
        parts += _asset_lines(block, console.width)
    return Group(*parts)


def _asset_lines(block: _Block, width: int) -> list[Text]:
    """Return a line for each asset: in columns if they fit, else as short as they can be."""
    amount = _width(line.amount for line in block.lines)
    asset = _width(line.asset for line in block.lines)
    fits = amount + asset + len(f"  {block.lines[0].updated} UTC") <= width
    lines: list[Text] = []
    for line in block.lines:
        text = Text(line.amount.rjust(amount) if fits else line.amount.strip())
        text.append(f" {line.asset} ")
        text.append(" " * (asset - cell_len(line.asset)) * fits)
        lines.append(text.append(f"{line.updated} UTC", style="dim"))
    return lines


def wrapped(words: Sequence[str], width: int) -> list[str]:
    """Put words on lines, and one that is wider than a line on a line of its own."""
    lines = [words[0]]
    for word in words[1:]:
        if cell_len(lines[-1]) + 1 + cell_len(word) <= width:
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines


def _ours(weight: RequestWeight, budget: BudgetState) -> int:
    """Return the weight that the budget may grant: what is left to all, without the reserve."""
    if weight.used_weight is None or budget.frozen_until or budget.banned_until:
        return budget.available
    return max(0, min(weight.limit, budget.limit) - weight.used_weight - budget.reserve)


def _number(value: int | None) -> str:
    return "unknown" if value is None else f"{value:,}"


def _time(at: datetime | None) -> str:
    return "unknown" if at is None else f"{at:%H:%M:%S}"


def _fraction(amount: Decimal) -> str:
    return f"{amount:f}".partition(".")[2]
