"""All facts of a store, page by page: for another store, or for a file."""

from __future__ import annotations

from decimal import Decimal
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeAlias, TypeVar

from .facts import Facts, layout_from
from .steps import ask, ask_for, fetch
from .times import FOREVER
from .writing import write

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .facts import ValueKey
    from .steps import Row, Steps

T = TypeVar("T")

_PAGE = 2_000
_Page: TypeAlias = "tuple[dict[ValueKey, int], Row | None]"
_Reported: TypeAlias = tuple[int, Decimal, int]  # update time, balance, first report


class _Read(Protocol):
    """Carries steps out in another store."""

    async def __call__(self, steps: Steps[T]) -> T: ...


def copy_from(read: _Read) -> Steps[int]:
    """Add all that another store has, and return the number of values that are new."""
    # What was observed is read first and written last, so that no value is missing to it.
    observations = yield from fetch(partial(read, read_observations()))
    values, place = yield from fetch(partial(read, read_values(None)))
    new = yield from write(Facts(values))
    while place is not None:
        values, place = yield from fetch(partial(read, read_values(place)))
        new += yield from write(Facts(values))
    for page in observations:
        yield from write(page)
    return new


def read_observations() -> Steps[list[Facts]]:
    """Return what was observed and when, in pages, without the values; the last has the spans."""
    rows = yield from ask("SELECT id, content FROM layout")
    layouts = {number: layout_from(content) for number, content in rows}
    pages: list[Facts] = []
    key: Row = (-FOREVER, 0)
    while True:
        page = yield from ask(
            "SELECT time, layout FROM observation WHERE (time, layout) > (?, ?) "
            "ORDER BY time, layout LIMIT ?",
            *key,
            _PAGE,
        )
        seen = {layouts[number].digest: layouts[number] for _, number in page}
        times = {(time, layouts[number].digest) for time, number in page}
        pages.append(Facts(layouts=seen, observations=times))
        if len(page) < _PAGE:
            break
        key = tuple(page[-1])
    spans = yield from ask("SELECT first, last FROM span")
    pages.append(Facts(spans=[(first, last) for first, last in spans]))
    return pages


def read_values(after: Row | None) -> Steps[_Page]:
    """Return a page of values with their first reports, and where the next page begins.

    Args:
        after: where it begins; None for the first page.
    """
    sql = "SELECT pool, asset, update_time, balance, observed_time FROM value {} ORDER BY "
    sql += "pool, asset, update_time, balance LIMIT ?"
    if after is None:
        page = yield from ask(sql.format(""), _PAGE)
    else:
        where = "WHERE (pool, asset, update_time, balance) > (?, ?, ?, ?)"
        page = yield from ask(sql.format(where), *after, _PAGE)
    numbers = {row[0] for row in page}
    pools: dict[int, str] = dict(
        (yield from ask_for("SELECT id, symbols FROM pool WHERE id IN", numbers))
    )
    assets: dict[int, str] = dict((yield from ask("SELECT id, name FROM asset")))
    values = {
        (pools[pool], assets[asset], updated, str(balance)): observed
        for pool, asset, updated, balance, observed in page
    }
    return values, tuple(page[-1][:4]) if len(page) == _PAGE else None


class Held(NamedTuple):
    """A pool and an asset; the numbers are those of one store."""

    symbols: str  # the pool's key
    asset: str
    pool_number: int
    asset_number: int


class Value(NamedTuple):
    """One value, as the view `balances` has it."""

    update_time: int
    observed_time: int
    symbols: str  # the pool's key
    asset: str
    balance: str


Place: TypeAlias = tuple[int, int]  # which of the pools and assets, and after which update time
START: Place = (0, -FOREVER)


def read_held() -> Steps[list[Held]]:
    """Return each pool with each asset, by name; some do not go together."""
    pools: list[tuple[str, int]] = [
        (symbols, number) for symbols, number in (yield from ask("SELECT symbols, id FROM pool"))
    ]
    assets = sorted((yield from ask("SELECT name, id FROM asset")))
    return [
        Held(symbols, name, pool, asset)
        for symbols, pool in sorted(pools)
        for name, asset in assets
    ]


def read_sorted(held: Sequence[Held], place: Place) -> Steps[tuple[list[Value], Place | None]]:
    """Return a page of values, and where the next one begins.

    The order is that of pools, assets, update times and balances, so it is the same for all stores
    that hold the same.
    """
    number, after = place
    values: list[Value] = []
    while number < len(held) and len(values) < _PAGE:
        pool = held[number]
        rows, cut = yield from _read_after(pool, after, _PAGE - len(values))
        values += [
            Value(updated, observed, pool.symbols, pool.asset, f"{balance:f}")
            for updated, balance, observed in rows
        ]
        number, after = (number, rows[-1][0]) if cut else (number + 1, -FOREVER)
    return values, (number, after) if number < len(held) else None


def _read_after(held: Held, after: int, most: int) -> Steps[tuple[list[_Reported], bool]]:
    """Return the values after an update time, sorted, and whether there may be more of them.

    There are about as many as asked for: those of one update time are not separated.
    """
    sql = (
        "SELECT update_time, balance, observed_time FROM value "
        "WHERE pool = ? AND asset = ? AND update_time {} ORDER BY update_time, balance LIMIT ?"
    )
    numbers = held.pool_number, held.asset_number
    rows = list((yield from ask(sql.format("> ?"), *numbers, after, most)))
    cut = len(rows) == most
    if cut:
        last: int = rows[-1][0]
        rows = [row for row in rows if row[0] < last]
        rows += yield from ask(sql.format("= ?"), *numbers, last, FOREVER)
    return sorted((updated, Decimal(text), first) for updated, text, first in rows), cut
