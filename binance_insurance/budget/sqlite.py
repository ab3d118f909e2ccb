"""One budget for the processes of one host, in a file."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from .._runtime import Runtime
from ..errors import StoreError
from .change import ClockBounds
from .exchange import DEFAULT_GROUP
from .settings import Settings
from .shared import SharedBudget

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from .change import Change

_SCHEMA = 1
_BUSY = 5.0  # seconds to wait for the other processes' transactions, each of which takes far less
_POLLING = 0.02


class SqliteBudget(SharedBudget):
    """The weight budget that the processes of one host share through a file.

    Args:
        path: the file; it is made, with its directory, where it is missing. It has to lie on a
            local disk (SQLite's write-ahead log does not work over a network).
        limit: weight that the exchange grants the IP in one window.
        interval: seconds of a window, a whole number.
        reserve: weight in each window that is left to the other clients on the IP.
        group: names the egress IP, where processes on one file leave by several.
        runtime: clocks, for tests.

    Raises:
        ValueError: unless 0 <= reserve < limit and interval is a whole number >= 1.

    Every decision is one short transaction in a thread of its own. A process can be killed at any
    point: the file stays whole, and the weight that the process held is settled within a window.
    Used weight, a freeze after a 429 and a ban with its end are known to all, and survive
    restarts. A file that cannot be used is a `StoreError` of `acquire`. Close it with `aclose()`
    or `async with`.
    """

    def __init__(
        self,
        path: str | PathLike[str],
        limit: int = 2400,
        *,
        interval: float = 60.0,
        reserve: int = 480,
        group: str = DEFAULT_GROUP,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        settings = Settings(limit, interval, reserve)
        store = _File(Path(path), runtime)
        super().__init__(settings, store, runtime, group)
        weakref.finalize(self, store.shut).atexit = True


class _File:
    polling = _POLLING
    apart = False
    least_reserve = 0
    look_at = inf

    def __init__(self, path: Path, runtime: Runtime) -> None:
        self._path = path
        self._runtime = runtime
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="binance-insurance-budget")
        self._lock = threading.Lock()
        self._connection: sqlite3.Connection | None = None
        self._file: int | None = None
        self._process: int | None = None

    async def change(self, change: Change) -> None:
        loop = asyncio.get_running_loop()
        self._process = os.getpid()
        try:
            await loop.run_in_executor(self._thread, self._transact, change)
        except (sqlite3.Error, OSError) as error:
            raise StoreError(f"the budget file {self._path} cannot be used: {error}") from error

    def watch(self, wake: Callable[[], None]) -> None:
        """Do nothing: a file wakes nobody, so callers that wait look again by themselves."""

    def restart(self) -> None:
        """Do nothing: the thread belongs to no event loop."""

    async def aclose(self) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.shut)

    def shut(self) -> None:
        if self._process not in {None, os.getpid()}:
            return  # the thread and the connection are those of the process that was forked
        self._thread.shutdown(wait=True)
        with self._lock:
            if self._connection is not None:
                self._connection.close()
                self._connection = None

    def _transact(self, change: Change) -> None:
        with self._lock:
            connection = self._opened()
            connection.execute("BEGIN IMMEDIATE")
            try:
                row = connection.execute(
                    "SELECT state FROM budget WHERE name = ?", (change.place,)
                ).fetchone()
                # The wall clock is the only one that survives a restart of the machine.
                before, wall = self._runtime.monotonic(), self._runtime.wall()
                now = self._runtime.monotonic()
                bounds = ClockBounds(wall - now, wall - before)
                written = change(None if row is None else row[0], now, bounds)
                if written is not None:
                    connection.execute(
                        "INSERT OR REPLACE INTO budget (name, state) VALUES (?, ?)",
                        (change.place, written.value),
                    )
                connection.execute("COMMIT")
            except BaseException:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise

    def _opened(self) -> sqlite3.Connection:
        """Return the connection; a new one if the file was moved away under the last."""
        if self._connection is not None and _inode(self._path) != self._file:
            self._connection.close()
            self._connection = None
        if self._connection is None:
            self._connection = self._open()
            self._file = _inode(self._path)
        return self._connection

    def _open(self) -> sqlite3.Connection:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        connection = sqlite3.connect(
            self._path, timeout=_BUSY, isolation_level=None, check_same_thread=False
        )
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            # A crash of the machine may cost the last decisions, and then the window is another.
            connection.execute("PRAGMA synchronous = NORMAL")
            (schema,) = connection.execute("PRAGMA user_version").fetchone()
            if schema not in {0, _SCHEMA}:
                raise sqlite3.DatabaseError(f"it is of version {schema}, not {_SCHEMA}")
            connection.execute(
                "CREATE TABLE IF NOT EXISTS budget (name TEXT PRIMARY KEY, state BLOB NOT NULL)"
            )
            connection.execute(f"PRAGMA user_version = {_SCHEMA}")
        except BaseException:
            connection.close()
            raise
        return connection


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return None
