"""A recorder of one's own with `sqlite3`: exact balances, each once, and when one looked.

It keeps the same facts as a history in the shortest code, and knows nothing of moves.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from pathlib import Path

    from binance_insurance import InsuranceSnapshot

_TABLES = """
    CREATE TABLE IF NOT EXISTS pools (id INTEGER PRIMARY KEY, symbols TEXT UNIQUE);
    CREATE TABLE IF NOT EXISTS assets (id INTEGER PRIMARY KEY, name TEXT UNIQUE);
    CREATE TABLE IF NOT EXISTS balances (
        pool INTEGER, asset INTEGER, update_time INTEGER, balance TEXT, observed_time INTEGER,
        PRIMARY KEY (pool, asset, update_time, balance)
    ) WITHOUT ROWID;
    CREATE TABLE IF NOT EXISTS observations (observed_time INTEGER PRIMARY KEY, since INTEGER);
"""
Point: TypeAlias = tuple[int, int, Decimal]
Fall: TypeAlias = tuple[Decimal, Point, Point]


class Bare:
    """The recorder, on a file."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = WAL")
        self._connection.execute("PRAGMA synchronous = FULL")
        self._connection.executescript(_TABLES)

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def extend(self, observed: Iterable[tuple[InsuranceSnapshot, datetime | None]]) -> int:
        """Add snapshots in one transaction, and return the number of new values."""
        execute, new = self._connection.execute, 0
        execute("BEGIN IMMEDIATE")
        pools = dict(execute("SELECT symbols, id FROM pools"))
        assets = dict(execute("SELECT name, id FROM assets"))
        for snapshot, since in observed:
            at = _milliseconds(snapshot.observed_at)
            rows: list[tuple[int, int, int, str, int]] = []
            for pool in snapshot.pools:
                key = " ".join(sorted(pool.symbols))
                if key not in pools:
                    done = execute("INSERT INTO pools (symbols) VALUES (?)", (key,))
                    pools[key] = done.lastrowid
                for held in pool.assets:
                    if held.asset not in assets:
                        done = execute("INSERT INTO assets (name) VALUES (?)", (held.asset,))
                        assets[held.asset] = done.lastrowid
                    numbers = pools[key], assets[held.asset]
                    rows.append((*numbers, held.update_time, f"{held.margin_balance:f}", at))
            add = "INSERT OR IGNORE INTO balances VALUES (?, ?, ?, ?, ?)"
            new += self._connection.executemany(add, rows).rowcount
            before = None if since is None else _milliseconds(since)
            execute("INSERT OR IGNORE INTO observations VALUES (?, ?)", (at, before))
        execute("COMMIT")
        return new

    def series(self, asset: str) -> list[Point]:
        """Return the points of the first pool, in order."""
        rows = self._connection.execute(
            "SELECT update_time, observed_time, balance FROM balances WHERE pool = 1 AND asset = "
            "(SELECT id FROM assets WHERE name = ?) ORDER BY update_time, observed_time",
            (asset,),
        )
        return [(updated, observed, Decimal(balance)) for updated, observed, balance in rows]

    def drawdowns(self, asset: str) -> list[Fall]:
        """Return the ten deepest falls from the highest balance so far: depth, peak, trough."""
        falls: list[Fall] = []
        peak: Point | None = None
        trough: Point | None = None
        for point in self.series(asset):
            if peak is None or point[2] >= peak[2]:
                if peak is not None and trough is not None:
                    falls.append((peak[2] - trough[2], peak, trough))
                peak, trough = point, None
            elif trough is None or point[2] < trough[2]:
                trough = point
        if peak is not None and trough is not None:
            falls.append((peak[2] - trough[2], peak, trough))
        return sorted(falls, reverse=True)[:10]


def _milliseconds(time: datetime) -> int:
    return int(time.timestamp() * 1000)
