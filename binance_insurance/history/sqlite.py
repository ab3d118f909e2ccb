"""A history in a file of SQLite: one thread writes, one reads."""

from __future__ import annotations

import asyncio
import errno
import os
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from .._files import Identity, identity, make_directory
from .._text import one_line
from ..errors import StoreError
from .steps import Ask, Change, ask

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

    from .steps import Insert, Rows, Statement, Steps

T = TypeVar("T")

_APPLICATION = 0x42494E53
_BUSY = 5.0  # seconds to wait for another process that writes
_PAUSE = 0.01  # seconds between two tries to use the log
_AGAIN = 2.0  # seconds after which a locked or full store is worth another try

# What each version of the schema adds to the one before.
_SCHEMAS = (
    """
    CREATE TABLE pool (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, symbols TEXT NOT NULL
    );
    CREATE TABLE asset (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE);
    CREATE TABLE value (
        pool INTEGER NOT NULL, asset INTEGER NOT NULL, update_time INTEGER NOT NULL,
        balance TEXT NOT NULL, observed_time INTEGER NOT NULL,
        PRIMARY KEY (pool, asset, update_time, balance)
    ) WITHOUT ROWID;
    CREATE INDEX value_early ON value (pool, asset, update_time, observed_time)
        WHERE update_time > observed_time + 999;
    CREATE TABLE layout (
        id INTEGER PRIMARY KEY, digest BLOB NOT NULL UNIQUE, content TEXT NOT NULL
    );
    CREATE TABLE observation (
        time INTEGER NOT NULL, layout INTEGER NOT NULL, begins INTEGER NOT NULL,
        PRIMARY KEY (time, layout)
    ) WITHOUT ROWID;
    CREATE INDEX observation_begins ON observation (time) WHERE begins = 1;
    CREATE TABLE span (first INTEGER NOT NULL PRIMARY KEY, last INTEGER NOT NULL) WITHOUT ROWID;
    CREATE TABLE reported (newest INTEGER NOT NULL, content BLOB NOT NULL);
    INSERT INTO reported VALUES (0, X'');
    CREATE VIEW balances AS
        SELECT v.update_time, v.observed_time, p.symbols, a.name AS asset, v.balance
        FROM value v JOIN pool p ON p.id = v.pool JOIN asset a ON a.id = v.asset;
    """,
)
VERSION = len(_SCHEMAS)


class SqliteStore:
    """The store in a file.

    Args:
        path: absolute; its directories are made where they are missing.
        read_only: whether nothing is ever made or written.
    """

    version = VERSION

    def __init__(self, path: Path, *, read_only: bool) -> None:
        self._path = path
        self._read_only = read_only
        self._writer = _Connection(path, _open_to_read if read_only else _open)
        self._reader = _Connection(path, _open_to_read)

    def __str__(self) -> str:
        return one_line(str(self._path))

    async def open(self) -> None:
        """Open the file, and make it where it is missing."""
        with self._translated():
            await self._writer.run(lambda _: None)

    async def read(self, steps: Steps[T]) -> T:
        """Carry steps out that all see the same state."""
        with self._translated():
            if not self._writer.is_open:
                await self._writer.run(lambda _: None)
            return await self._reader.run(lambda connection: _transact(connection, "BEGIN", steps))

    async def write(self, steps: Steps[T]) -> T:
        """Carry steps out in one transaction, alone."""
        if self._read_only:
            raise StoreError(f"the history {self} is opened to read only")
        with self._translated():
            return await self._writer.run(
                lambda connection: _transact(connection, "BEGIN IMMEDIATE", steps)
            )

    async def size(self) -> int:
        """Return the bytes of its files."""
        names = (self._path, Path(f"{self._path}-wal"), Path(f"{self._path}-shm"))
        return sum(name.stat().st_size for name in names if name.exists())

    async def aclose(self) -> None:
        """Let go of the files."""
        await self._reader.aclose()
        await self._writer.aclose()

    @contextmanager
    def _translated(self) -> Generator[None]:
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            failure = StoreError(f"the history {self} cannot be used: {one_line(_reason(error))}")
            failure.retry_after = _AGAIN if _may_pass(error) else None
            raise failure from error


class _Connection:
    """A connection and its thread. A file that was deleted or moved away is opened anew."""

    def __init__(self, path: Path, connect: Callable[[Path], sqlite3.Connection]) -> None:
        self._path = path
        self._connect = connect
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="binance-insurance-history")
        self._connection: sqlite3.Connection | None = None
        self._file: Identity = None

    @property
    def is_open(self) -> bool:
        return self._connection is not None

    async def run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        try:
            waited = asyncio.get_running_loop().run_in_executor(self._thread, self._run, work)
        except RuntimeError as error:  # the thread has been shut down
            raise OSError("it is closed") from error
        return await waited

    async def aclose(self) -> None:
        with suppress(RuntimeError):  # it is closed already
            await asyncio.get_running_loop().run_in_executor(self._thread, self._close)
        self._thread.shutdown(wait=False)

    def _run(self, work: Callable[[sqlite3.Connection], T]) -> T:
        if self._connection is not None and self._file != identity(self._path):
            self._close()
        if self._connection is None:
            self._connection = self._connect(self._path)
            self._file = identity(self._path)
        try:
            return work(self._connection)
        except sqlite3.Error as error:
            if not _is_busy(error):
                self._close()
            raise

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _transact(connection: sqlite3.Connection, begin: str, steps: Steps[T]) -> T:
    connection.execute(begin)
    try:
        done = _carry_out(connection, steps)
        connection.execute("COMMIT")
    except BaseException:
        with suppress(sqlite3.Error):  # a full disk has ended it already
            connection.execute("ROLLBACK")
        raise
    return done


def _carry_out(connection: sqlite3.Connection, steps: Steps[T]) -> T:
    try:
        statement = next(steps)
        while True:
            statement = steps.send(_answer(connection, statement))
    except StopIteration as ended:
        done: T = ended.value
        return done


def _answer(connection: sqlite3.Connection, statement: Statement) -> Rows:
    if isinstance(statement, Ask):
        return connection.execute(statement.sql, statement.parameters).fetchall()
    if isinstance(statement, Change):
        connection.executemany(statement.sql, statement.rows)
        return ()
    return [(connection.executemany(_inserting(statement), statement.rows).rowcount,)]


def _inserting(statement: Insert) -> str:
    columns, values = ", ".join(statement.columns), ", ".join("?" * len(statement.columns))
    # Tables and columns are those of our own statements.
    return f"INSERT INTO {statement.table} ({columns}) VALUES ({values}) ON CONFLICT DO NOTHING"


def _open(path: Path) -> sqlite3.Connection:
    """Open a file to write, and make it, or bring its schema up to date."""
    make_directory(path.parent)
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _check(path)
    connection = _connect(path, "rw")
    try:
        _use_log(connection)
        # What an append has acknowledged is there after a crash of the machine.
        connection.execute("PRAGMA synchronous = FULL")
        if _version(connection) < VERSION:
            _transact(connection, "BEGIN IMMEDIATE", _migrate())
    except BaseException:
        connection.close()
        raise
    return connection


def _open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file that is there, only to read."""
    _check(path)
    connection = _connect_to_read(path)
    try:
        if _version(connection) < VERSION:
            raise OSError("it holds no history, or one of an older schema; open it once to write")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(path: Path) -> None:
    """Refuse what is no history that this version knows, before anything is written.

    Raises:
        sqlite3.Error: it is no database,
        OSError: or one of another program, or of a newer version, or there is none.
    """
    if not path.exists():
        raise FileNotFoundError("there is no such file")
    if not path.is_file():
        raise OSError("it is no file")
    with closing(_connect_to_read(path)) as connection:
        ((application,),) = connection.execute("PRAGMA application_id")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        if application != _APPLICATION and (application or tables):
            raise OSError("it is a database of another program")
        if _version(connection) > VERSION:
            raise OSError(
                f"its schema has version {_version(connection)}, and this program knows "
                f"{VERSION}: upgrade binance-insurance"
            )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect so that nothing is written, and no file of the log is left behind.

    A connection that may only read leaves the files of an empty log behind, and one that may write
    clears a log away that is not empty.
    """
    log = Path(f"{path}-wal")
    with path.open("rb") as file:
        uses_log = file.read(20)[18:] == b"\x02\x02"
    empty = uses_log and not (log.exists() and log.stat().st_size)
    connection = _connect(path, "rw" if empty else "ro")
    try:
        connection.execute("PRAGMA query_only = ON")
        _version(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if not empty or _code(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        # Nobody writes, or the files of the log would be there, and we must not make them.
        return _connect(path, "ro&immutable=1")
    except BaseException:
        connection.close()
        raise
    return connection


def _connect(path: Path, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )


def _version(connection: sqlite3.Connection) -> int:
    ((version,),) = connection.execute("PRAGMA user_version")
    return int(version)


def _use_log(connection: sqlite3.Connection) -> None:
    """Let readers and a writer go on together; to begin with that takes the file alone."""
    deadline = time.monotonic() + _BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # which does not wait by itself
            if not _is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def _migrate() -> Steps[None]:
    """Bring the schema up to date."""
    ((version,),) = yield from ask("PRAGMA user_version")
    for script in _SCHEMAS[version:]:
        for statement in filter(str.strip, script.split(";")):
            yield from ask(statement)
    yield from ask(f"PRAGMA application_id = {_APPLICATION}")
    yield from ask(f"PRAGMA user_version = {VERSION}")


def _is_busy(error: Exception) -> bool:
    return _code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def _may_pass(error: Exception) -> bool:
    """Whether the same can go well later."""
    if isinstance(error, OSError):
        return error.errno in {errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE}
    return _code(error) in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }


def _code(error: Exception) -> int | None:
    """Return the kind of an error of SQLite."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else None


def _reason(error: Exception) -> str:
    if _is_busy(error):
        return f"another process has locked it for {_BUSY:g} s"
    if _code(error) == sqlite3.SQLITE_IOERR:
        return f"{error}; the disk may be full, or the file too large"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
