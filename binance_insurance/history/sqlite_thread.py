"""A connection to SQLite in a thread of its own, and what is carried out there."""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import TYPE_CHECKING, TypeVar

from .sqlite_file import Momentary, is_busy
from .steps import Ask, Change, Fetch

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Future

    from .steps import Insert, Rows, Statement, Steps

T = TypeVar("T")


class Connection:
    """A connection and its thread.

    Args:
        connect: opens it, in the thread.
    """

    def __init__(self, connect: Callable[[], sqlite3.Connection]) -> None:
        self._connect = connect
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="binance-insurance-history")
        self._connection: sqlite3.Connection | None = None

    @property
    def is_open(self) -> bool:
        """Whether it is."""
        return self._connection is not None

    def submit(self, work: Callable[[], T]) -> Future[T]:
        """Do something in the thread.

        Raises:
            BlockingIOError: it cannot be started.
        """
        try:
            return self._thread.submit(work)
        except RuntimeError as error:
            raise BlockingIOError(errno.EAGAIN, str(error)) from error

    def shut(self) -> None:
        """Let the thread end after what it has to do."""
        self._thread.shutdown(wait=False)

    async def carry_out(self, begin: str, steps: Steps[T]) -> T:
        """Carry steps out in a transaction."""
        loop = asyncio.get_running_loop()
        return await asyncio.wrap_future(
            self.submit(lambda: self._used(lambda open_: transact(open_, begin, steps, loop)))
        )

    def open(self) -> sqlite3.Connection:
        """Open it, unless that was done; in its thread."""
        if self._connection is None:
            self._connection = self._connect()
        return self._connection

    def close(self) -> None:
        """Close it; in its thread."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _used(self, work: Callable[[sqlite3.Connection], T]) -> T:
        connection = self.open()
        try:
            done = work(connection)
        except sqlite3.Error as error:
            if not is_busy(error):
                self.close()
            raise
        if isinstance(connection, Momentary):
            self.close()
        return done


def transact(
    connection: sqlite3.Connection,
    begin: str,
    steps: Steps[T],
    loop: asyncio.AbstractEventLoop | None = None,
) -> T:
    """Carry steps out in a transaction; what they fetch is awaited in the loop."""
    connection.execute(begin)
    try:
        done = _carry_out(connection, steps, loop)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    return done


def _carry_out(
    connection: sqlite3.Connection, steps: Steps[T], loop: asyncio.AbstractEventLoop | None
) -> T:
    try:
        statement = next(steps)
        while True:
            statement = steps.send(_answer(connection, statement, loop))
    except StopIteration as ended:
        done: T = ended.value
        return done


def _answer(
    connection: sqlite3.Connection,
    statement: Statement,
    loop: asyncio.AbstractEventLoop | None,
) -> Rows:
    if isinstance(statement, Ask):
        return connection.execute(statement.sql, statement.parameters).fetchall()
    if isinstance(statement, Change):
        connection.executemany(statement.sql, statement.rows)
        return ()
    if isinstance(statement, Fetch):
        if loop is None:
            raise RuntimeError("there is no event loop to fetch in")
        return [(asyncio.run_coroutine_threadsafe(statement.call(), loop).result(),)]
    return [(connection.executemany(_inserting(statement), statement.rows).rowcount,)]


def _inserting(statement: Insert) -> str:
    columns, values = ", ".join(statement.columns), ", ".join("?" * len(statement.columns))
    # Tables and columns are those of our own statements.
    return f"INSERT INTO {statement.table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"
