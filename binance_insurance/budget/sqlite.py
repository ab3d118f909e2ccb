"""One budget for the processes of one host, in a file."""

from __future__ import annotations

import asyncio
import os
import sqlite3
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING

from .._forks import in_children, keep
from .._runtime import Runtime
from .._text import one_line
from ..errors import StoreError
from .boot import boot_id, slept
from .change import ClockBounds
from .database import Database
from .exchange import DEFAULT_GROUP
from .settings import Settings
from .shared import SharedBudget

if TYPE_CHECKING:
    from collections.abc import Callable
    from os import PathLike

    from .change import Change

_POLLING = 0.02


class SqliteBudget(SharedBudget):
    """The weight budget that the processes of one host share through a file.

    Args:
        path: the file; it is made, with its directories, where it is missing, for this user
            alone (modes 0600 and 0700); several users take Redis. A file that is there keeps its
            mode. It has to lie on a local disk (SQLite's write-ahead log does not work over a
            network).
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
    restarts. When the file is deleted or moved away, all go on with a new one. A file that cannot
    be used is a `StoreError` of `acquire`. Close it with `aclose()` or `async with`.
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

    @property
    def _place(self) -> str:
        return f"{one_line(str(self._store), 100)!r}, "


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
        self._database = Database(path)
        self._process: int | None = None
        self._shut = False  # whether the budget was dropped without closing it

    def __str__(self) -> str:
        return str(self._path)

    async def change(self, change: Change) -> None:
        loop = asyncio.get_running_loop()
        if self._process is None:
            self._process = os.getpid()
            in_children(self, keep)
        try:
            await loop.run_in_executor(self._thread, self._transact, change)
        except (sqlite3.Error, OSError) as error:
            path, reason = one_line(str(self._path)), one_line(str(error))
            raise StoreError(f"the budget file {path} cannot be used: {reason}") from error

    def watch(self, wake: Callable[[], None]) -> None:
        """Do nothing: a file wakes nobody, so callers that wait look again by themselves."""

    def restart(self) -> None:
        """Do nothing: the thread belongs to no event loop."""

    async def aclose(self) -> None:
        # In its own thread, since the loop's default one may be waited for in the loop's end.
        await asyncio.get_running_loop().run_in_executor(self._thread, self._let_go)
        self._thread.shutdown(wait=False)

    def shut(self) -> None:
        """Let go without waiting: the garbage collector may call this in any thread, at any time.

        To wait for the thread there can be a deadlock, since a thread that starts has locks.
        """
        if self._process not in {None, os.getpid()}:
            return  # the thread and the connection are those of the process that was forked
        self._shut = True
        self._thread.shutdown(wait=False)
        if self._lock.acquire(blocking=False):  # else the transaction under way closes it
            try:
                self._database.close()
            finally:
                self._lock.release()

    def _let_go(self) -> None:
        with self._lock:
            self._database.close()

    def _transact(self, change: Change) -> None:
        with self._lock:
            self._database.transact(lambda connection: self._apply(change, connection))
            if self._shut:
                self._database.close()

    def _apply(self, change: Change, connection: sqlite3.Connection) -> None:
        row = connection.execute(
            "SELECT state FROM budget WHERE name = ?", (change.place,)
        ).fetchone()
        # The wall clock is the only one that survives a restart of the machine.
        before, wall = self._runtime.monotonic(), self._runtime.wall()
        now = self._runtime.monotonic()
        away = slept(self._runtime.monotonic)
        bounds = ClockBounds(wall - now, wall - before, boot_id(), away)
        written = change(None if row is None else row[0], now, bounds)
        if written is not None:
            connection.execute(
                "INSERT OR REPLACE INTO budget (name, state) VALUES (?, ?)",
                (change.place, written.value),
            )
