"""What reading and writing both look up in a store."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .facts import key_digest
from .steps import ask, ask_for

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .spans import Span
    from .steps import Steps


def pool_numbers(keys: Iterable[str]) -> Steps[dict[str, int]]:
    """Return the numbers of those pools that are known, by what identifies them."""
    digests = {key_digest(key): key for key in keys}
    rows = yield from ask_for("SELECT digest, id FROM pool WHERE digest IN", digests)
    return {digests[digest]: number for digest, number in rows}


def asset_numbers() -> Steps[dict[str, int]]:
    """Return the numbers of all assets, by their names."""
    return dict((yield from ask("SELECT name, id FROM asset")))


def spans_between(first: int, last: int) -> Steps[list[Span]]:
    """Return the spans that touch a time from one moment to another, in microseconds."""
    rows = yield from ask(
        "SELECT first, last FROM span WHERE first <= ? AND last >= ? AND first >= "
        # Spans do not overlap, so the one before is the last that can reach into it.
        "coalesce((SELECT max(first) FROM span WHERE first <= ?), ?)",
        *(last, first, first, first),
    )
    return [(begun, ended) for begun, ended in rows]
