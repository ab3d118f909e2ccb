"""What a snapshot adds to a history: values, its layout, and the span that it covers. Pure.

Everything is keyed by names and numbers of the exchange, so the facts of two stores can be united.
"""

from __future__ import annotations

import re
from decimal import Decimal  # noqa: TC003 - msgspec reads annotations at run time
from functools import lru_cache
from hashlib import sha256
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import quote, unquote

import msgspec
from msgspec import Struct

from ..models import InsuranceSnapshot
from .times import FOREVER, microseconds, milliseconds

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime

_SPECIAL = re.compile(r"[%\s\x00-\x1f\x7f]")

Observed: TypeAlias = "tuple[InsuranceSnapshot, datetime | None]"
# A snapshot, when it was observed, and since when somebody looked; in microseconds.
Observation: TypeAlias = tuple[InsuranceSnapshot, int, int]
# The sorted symbols of a pool, as text; the asset; update time (ms); the balance, as text.
ValueKey: TypeAlias = tuple[str, str, int, str]
_Structure: TypeAlias = tuple[tuple[tuple[str, ...], tuple[str, ...]], ...]


class LayoutPool(Struct, frozen=True, gc=False, array_like=True):
    """A pool of a layout: its symbols and the assets that it holds, in an order of the exchange."""

    symbols: tuple[str, ...]
    assets: tuple[str, ...]

    @property
    def key(self) -> str:
        """What identifies the pool: its sorted symbols, as text."""
        return pool_key(self.symbols)


class Layout(Struct, frozen=True, gc=False):
    """The pools of a snapshot, with the assets that each holds, but without balances.

    Attributes:
        digest: what identifies it, whatever the order of pools, symbols and assets.
        content: the pools, as text, in an order of the exchange.
        keys: what identifies each pool of the snapshot.
    """

    digest: bytes
    content: str
    keys: tuple[str, ...]


class Facts(Struct):
    """A set of facts, which any store takes in any order.

    Attributes:
        values: when each was first reported, in milliseconds.
        layouts: by their digests.
        observations: when (in microseconds), and the digest of the layout that was observed.
        spans: first and last moment (in microseconds) of times in which somebody looked.
    """

    values: dict[ValueKey, int] = msgspec.field(default_factory=dict[ValueKey, int])
    layouts: dict[bytes, Layout] = msgspec.field(default_factory=dict[bytes, Layout])
    observations: set[tuple[int, bytes]] = msgspec.field(default_factory=set[tuple[int, bytes]])
    spans: list[tuple[int, int]] = msgspec.field(default_factory=list[tuple[int, int]])

    def add(self, snapshot: InsuranceSnapshot, observed: int, begun: int) -> None:
        """Add that a snapshot was observed, in microseconds, and since when somebody looked."""
        layout = layout_of(snapshot)
        known = self.layouts.setdefault(layout.digest, layout)
        if layout.content < known.content:  # so that it does not matter which came first
            self.layouts[layout.digest] = layout
        self.observations.add((observed, layout.digest))
        self.spans.append((begun, observed))

    def add_values(self, snapshot: InsuranceSnapshot, observed: int) -> None:
        """Add what a snapshot reported, in microseconds.

        Raises:
            ValueError: an update time is none; an answer of the exchange cannot have it.
        """
        values, first = self.values, milliseconds(observed)
        for key, pool in zip(layout_of(snapshot).keys, snapshot.pools, strict=True):
            for held in pool.assets:
                if not -FOREVER < held.update_time < FOREVER:
                    raise ValueError(f"{held.update_time} is no update time in milliseconds")
                value = (key, held.asset, held.update_time, canonical(held.margin_balance))
                known = values.get(value)
                if known is None or first < known:
                    values[value] = first


class Known(Struct, frozen=True):
    """A snapshot whose values a store has.

    Attributes:
        content: what it reported, as a digest.
        newest: a time in milliseconds by which all of that was first reported.
    """

    content: bytes
    newest: int


def checked(observed: Iterable[Observed]) -> list[Observation]:
    """Return snapshots that a history can take.

    Args:
        observed: each with the observation before it, if nothing was missed in between.

    Raises:
        ValueError: one of them cannot be taken.
    """
    found: list[Observation] = []
    for each in observed:
        try:
            snapshot, since = each
        except (TypeError, ValueError):
            raise ValueError(
                "a history takes pairs of a snapshot and the observation before it (or None), "
                f"not {type(each).__name__}"
            ) from None
        found.append(_checked(snapshot, since))
    return found


def facts_of(observed: Iterable[Observation], known: Known) -> tuple[Facts, Known]:
    """Return the facts of several snapshots, and what a store knows after it has taken them.

    Values that the one before has reported are left out: most snapshots say nothing new.

    Args:
        observed: the snapshots.
        known: what the store has.
    """
    facts = Facts()
    for snapshot, at, begun in observed:
        facts.add(snapshot, at, begun)
        content = _content(snapshot)
        if content != known.content or milliseconds(at) < known.newest:
            facts.add_values(snapshot, at)
            known = Known(content, milliseconds(at))
    return facts, known


def _content(snapshot: InsuranceSnapshot) -> bytes:
    """Return a digest of what a snapshot reports, whenever that was observed."""
    pools = [(pool.symbols, pool.assets) for pool in snapshot.pools]
    return sha256(msgspec.json.encode(pools)).digest()


def _checked(snapshot: InsuranceSnapshot, since: datetime | None) -> Observation:
    if not isinstance(snapshot, InsuranceSnapshot):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise ValueError(f"a history takes an InsuranceSnapshot, not {type(snapshot).__name__}")
    if not snapshot.complete or not snapshot.pools:
        kind = "an empty one" if snapshot.complete else "part of the pools"
        raise ValueError(f"a history takes whole snapshots only, and this is {kind}")
    observed = microseconds(snapshot.observed_at, "observed_at")
    begun = observed if since is None else microseconds(since, "since")
    if begun > observed:
        raise ValueError(f"since {since} is after the observation at {snapshot.observed_at}")
    return snapshot, observed, begun


def layout_of(snapshot: InsuranceSnapshot) -> Layout:
    """Return the layout of a snapshot."""
    structure = tuple(
        (pool.symbols, tuple(held.asset for held in pool.assets)) for pool in snapshot.pools
    )
    return _layout(structure)


@lru_cache(maxsize=4)
def _layout(structure: _Structure) -> Layout:
    keys = tuple(pool_key(symbols) for symbols, _ in structure)
    pools: dict[str, tuple[tuple[str, ...], dict[str, None]]] = {}
    for key, (symbols, assets) in zip(keys, structure, strict=True):
        # Two pools of the same symbols are one, with the assets of both.
        pools.setdefault(key, (symbols, {}))[1].update(dict.fromkeys(assets))
    canonical_form = sorted([key, *sorted(assets)] for key, (_, assets) in pools.items())
    digest = sha256(msgspec.json.encode(canonical_form)).digest()
    content = [(symbols, tuple(assets)) for symbols, assets in pools.values()]
    return Layout(digest, msgspec.json.encode(content).decode(), keys)


def read_layout(content: str) -> tuple[LayoutPool, ...]:
    """Return the pools of a layout from its content."""
    return msgspec.json.decode(content, type=tuple[LayoutPool, ...])


def layout_from(content: str) -> Layout:
    """Return a layout from its content."""
    return _layout(tuple((pool.symbols, pool.assets) for pool in read_layout(content)))


def pool_key(symbols: Iterable[str]) -> str:
    """Return the sorted symbols of a pool as text, with blanks in between."""
    return " ".join(_SPECIAL.sub(lambda found: quote(found[0]), each) for each in sorted(symbols))


def symbols_of(key: str) -> tuple[str, ...]:
    """Return the sorted symbols of a pool from their text."""
    symbols = tuple(key.split(" "))
    return tuple(map(unquote, symbols)) if "%" in key else symbols


def key_digest(key: str) -> bytes:
    """Return a short name of a pool's key, for an index."""
    return sha256(key.encode()).digest()


def canonical(balance: Decimal) -> str:
    """Return the one text of a balance, whatever its trailing zeros and exponent."""
    text = f"{balance:f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text == "-0" else text
