"""All facts of a store, page by page: for another store, or for a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .facts import Facts, layout_from
from .steps import ask, ask_for

if TYPE_CHECKING:
    from .facts import ValueKey
    from .steps import Row, Steps

_PAGE = 2_000
_Page: TypeAlias = "tuple[dict[ValueKey, int], Row | None]"


def read_observations() -> Steps[list[Facts]]:
    """Return what was observed and when, in pages, without the values; the last has the spans."""
    rows = yield from ask("SELECT id, content FROM layout")
    layouts = {number: layout_from(content) for number, content in rows}
    pages: list[Facts] = []
    key: Row = (-(2**62), 0)
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
