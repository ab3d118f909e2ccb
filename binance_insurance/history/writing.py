"""Facts into a store. A store is a set of facts, so what is there already changes nothing."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, TypeAlias

from .facts import Known, facts_of, key_digest
from .lookup import asset_numbers, pool_numbers, spans_between
from .spans import united
from .steps import ask, ask_for, change, insert

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

    from .facts import Facts, Layout, Observation, ValueKey
    from .spans import Span
    from .steps import Steps

_Seen: TypeAlias = tuple[int, bytes, int]  # when, the digest and the number of the layout

_OBSERVATIONS = (
    "SELECT o.time, l.digest, o.layout, o.begins "
    "FROM observation o JOIN layout l ON l.id = o.layout"
)


def write_observed(observed: Iterable[Observation]) -> Steps[int]:
    """Add snapshots, and return the number of new values."""
    ((newest, content),) = yield from ask("SELECT newest, content FROM reported")
    before = Known(bytes(content), newest)
    facts, known = facts_of(observed, before)
    new = yield from write(facts)
    if known.content != before.content:
        yield from change("UPDATE reported SET content = ?", [(known.content,)])
    return new


def write(facts: Facts) -> Steps[int]:
    """Add facts, and return the number of values that are new."""
    new = yield from _write_values(facts.values)
    layouts = yield from _write_layouts(facts.layouts)
    if facts.observations:
        yield from _write_observations(
            {(time, digest, layouts[digest]) for time, digest in facts.observations}
        )
    yield from _write_spans(facts.spans)
    return new


def _write_values(values: Mapping[ValueKey, int]) -> Steps[int]:
    if not values:
        return 0
    pools = yield from _pool_ids({pool for pool, _, _, _ in values})
    assets = yield from _asset_ids({asset for _, asset, _, _ in values})
    rows = [
        (pools[pool], assets[asset], update_time, balance, observed)
        for (pool, asset, update_time, balance), observed in values.items()
    ]
    columns = ("pool", "asset", "update_time", "balance", "observed_time")
    new = yield from insert("value", columns, rows)
    ((newest,),) = yield from ask("SELECT newest FROM reported")
    if new < len(rows):
        # Of a value that is there already, the earlier first report counts.
        yield from change(
            "UPDATE value SET observed_time = ? WHERE pool = ? AND asset = ? AND update_time = ? "
            "AND balance = ? AND observed_time > ?",
            [(row[4], *row) for row in rows if row[4] < newest],
        )
    latest = max(values.values())
    if latest > newest:
        yield from change("UPDATE reported SET newest = ?", [(latest,)])
    return new


def _pool_ids(keys: Collection[str]) -> Steps[dict[str, int]]:
    known = yield from pool_numbers(keys)
    if missing := sorted((key_digest(key), key) for key in set(keys) - set(known)):
        yield from insert("pool", ("digest", "symbols"), missing)
        known |= yield from pool_numbers(key for _, key in missing)
    return known


def _asset_ids(names: Collection[str]) -> Steps[dict[str, int]]:
    known = yield from asset_numbers()
    if missing := sorted(set(names) - set(known)):
        yield from insert("asset", ("name",), [(name,) for name in missing])
        known = yield from asset_numbers()
    return known


def _write_layouts(layouts: Mapping[bytes, Layout]) -> Steps[dict[bytes, int]]:
    """Return the numbers of layouts.

    Of several orders of pools, symbols and assets the first by the alphabet stays, so that a store
    does not depend on which came first.
    """
    sql = "SELECT digest, content, id FROM layout WHERE digest IN"
    rows = yield from ask_for(sql, layouts)
    known = {digest: content for digest, content, _ in rows}
    yield from insert(
        "layout",
        ("digest", "content"),
        [(each.digest, each.content) for each in layouts.values() if each.digest not in known],
    )
    yield from change(
        "UPDATE layout SET content = ? WHERE digest = ?",
        [
            (layouts[digest].content, digest)
            for digest, content in known.items()
            if layouts[digest].content < content
        ],
    )
    if len(known) < len(layouts):
        rows = yield from ask_for(sql, layouts)
    return {digest: number for digest, _, number in rows}


def _write_observations(new: Collection[_Seen]) -> Steps[None]:
    """Add observations, and mark those that begin a run of their layout."""
    low, high = min(new)[0], max(new)[0]
    before = yield from ask(
        f"{_OBSERVATIONS} WHERE o.time < ? ORDER BY o.time DESC, l.digest DESC LIMIT 1", low
    )
    between = yield from ask(f"{_OBSERVATIONS} WHERE o.time >= ? AND o.time <= ?", low, high)
    after = yield from ask(
        f"{_OBSERVATIONS} WHERE o.time > ? ORDER BY o.time, l.digest LIMIT 1", high
    )
    marks = {tuple(key): begins for *key, begins in (*before, *between, *after)}
    begins = _begins(sorted({*marks, *new}))
    yield from insert(
        "observation",
        ("time", "layout", "begins"),
        [(each[0], each[2], begins[each]) for each in new if each not in marks],
    )
    yield from change(
        "UPDATE observation SET begins = ? WHERE time = ? AND layout = ?",
        [
            (begins[time, digest, layout], time, layout)
            for time, digest, layout, begun in (*between, *after)
            if begins[time, digest, layout] != begun
        ],
    )


def _begins(observations: Sequence[_Seen]) -> dict[_Seen, int]:
    """Say of each observation whether the one before it was of another layout."""
    begins = dict.fromkeys(observations[:1], 1)
    begins |= {later: int(earlier[1] != later[1]) for earlier, later in pairwise(observations)}
    return begins


def _write_spans(spans: Sequence[Span]) -> Steps[None]:
    """Unite spans with those that they touch."""
    if not spans:
        return
    first, last = min(spans)[0], max(last for _, last in spans)
    before = yield from spans_between(first, last)
    after = united([*before, *spans])
    gone, come = set(before) - set(after), set(after) - set(before)
    yield from change("DELETE FROM span WHERE first = ?", [(first,) for first, _ in gone])
    yield from insert("span", ("first", "last"), sorted(come))
