"""Rows as a table that fits the terminal, or as a block for each row where it does not."""

from __future__ import annotations

from typing import TYPE_CHECKING

from msgspec import Struct
from rich.cells import cell_len
from rich.text import Text

from ._output import console, wrapped

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator, Mapping, Sequence

_GAP = "  "
_ENDLESS = 1_000_000  # columns of a pipe


class Column(Struct, frozen=True):
    """A column of text.

    Attributes:
        head: what it shows.
        cells: one for each row; without blanks at their ends.
        amounts: whether they are amounts, which are aligned at the point.
    """

    head: str
    cells: Sequence[str]
    amounts: bool = False


def print_table(*columns: Column) -> None:
    """Print columns that have equally many cells; no cell is cut."""
    output = console()
    heads = [Text(column.head, style="bold") for column in columns]
    aligned = [_aligned(column) for column in columns]
    widths = [
        max(cell_len(column.head), *map(cell_len, cells)) if cells else cell_len(column.head)
        for column, cells in zip(columns, aligned, strict=True)
    ]
    if output.is_terminal and sum(widths) + len(_GAP) * (len(widths) - 1) > output.width:
        for line in _blocks(columns, output.width):
            print(line)
        return
    for head, column, width in zip(heads, columns, widths, strict=True):
        head.align("right" if column.amounts else "left", width)
    title = Text(_GAP).join(heads)
    title.rstrip()
    output.print(title, soft_wrap=True)
    print(_GAP.join(("-" if output.options.ascii_only else "─") * width for width in widths))
    for row in zip(*aligned, strict=True):
        cells = (
            " " * (width - cell_len(cell)) + cell
            if column.amounts
            else cell + " " * (width - cell_len(cell))
            for cell, column, width in zip(row, columns, widths, strict=True)
        )
        print(_GAP.join(cells).rstrip())


def _aligned(column: Column) -> Sequence[str]:
    if not column.amounts:
        return column.cells
    decimals = [len(cell.partition(".")[2]) for cell in column.cells]
    most = max(decimals, default=0)
    return [
        cell + " " * (most - count + ("." not in cell) * (most > 0))
        for cell, count in zip(column.cells, decimals, strict=True)
    ]


def print_facts(facts: Mapping[str, str]) -> None:
    """Print facts one below the other, each behind its name; those without a text are left out."""
    for line in _facts(facts.items(), _width()):
        print(line)


def print_words(text: str) -> None:
    """Print words between blanks, on as many lines as they need."""
    for line in wrapped(text.split(" "), _width()):
        print(line)


def _width() -> int:
    output = console()
    return output.width if output.is_terminal else _ENDLESS


def _blocks(columns: Sequence[Column], width: int) -> Iterator[str]:
    """Yield the lines of a block for each row."""
    heads = [column.head for column in columns]
    for number, row in enumerate(zip(*(column.cells for column in columns), strict=True)):
        if number:
            yield ""
        yield from _facts(list(zip(heads, row, strict=True)), width)


def _facts(facts: Collection[tuple[str, str]], width: int) -> Iterator[str]:
    """Yield a line for each fact, and more where it has many words."""
    indent = max(cell_len(head) for head, _ in facts) + len(_GAP)
    for head, text in facts:
        if text:
            first, *others = wrapped(text.split(" "), max(width - indent, 1))
            yield head + " " * (indent - cell_len(head)) + first
            yield from (" " * indent + line for line in others)
