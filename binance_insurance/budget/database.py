"""The database of a shared budget: a file that may be deleted or moved away at any time."""

from __future__ import annotations

import contextlib
import os
import sqlite3
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import Identity, identity, make_directory

if sys.platform != "win32":
    import fcntl

if TYPE_CHECKING:
    from collections.abc import Callable, Generator

_SCHEMA = 1
_BUSY = 5.0  # seconds to wait for the other processes, each of which takes far less
_TRIES = 6  # a file that is moved or broken while it is used is tried again so often
_PAUSE = 0.01  # seconds before the second of these tries; twice as long before each one after it
_MOVING = 0.05  # seconds in which the rest of a database that is moved away follows its file

_Files = tuple[Identity, Identity, Identity]


class Database:
    """The database at a path, which may be deleted or moved away at any time.

    SQLite keeps a database in three files. One process at a time opens them, since only then can a
    new database begin, and what is left of another one at its path be cleared away. A process whose
    three files are no longer those at the path goes on with what is there now.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection | None = None
        self._names = _names(path)
        self._files: _Files = (None, None, None)  # those of the connection
        self._mode = 0o600

    def transact(self, decide: Callable[[sqlite3.Connection], None]) -> None:
        """Run a transaction, on the file that is still at the path after it.

        Args:
            decide: reads and writes; it may be called several times.

        Raises:
            sqlite3.Error: the file cannot be used,
            OSError: or cannot be reached.
        """
        for number in range(_TRIES):
            try:
                connection = self._opened()
                _run(connection, decide)
                if self._in_place():
                    return
            except (sqlite3.DatabaseError, FileNotFoundError) as error:
                # What another process replaces at this moment can look broken.
                if number == _TRIES - 1 or (_is_busy(error) and self._in_place()):
                    raise
                self.close()
                time.sleep(_PAUSE * 2**number)
            except BaseException:
                self.close()
                raise
        raise OSError("it is deleted or moved away again and again")

    def close(self) -> None:
        """Let go of the files; the next transaction opens them again."""
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _in_place(self) -> bool:
        return self._connection is not None and _identities(self._names) == self._files

    def _opened(self) -> sqlite3.Connection:
        """Return the connection; a new one if the files are others than those that were opened."""
        if self._connection is None or not self._in_place():
            make_directory(self._path.parent)
            self._names = _names(self._path)
            with _alone(self._path.resolve().parent):
                self._connection = self._reopen()
        return self._connection

    def _reopen(self) -> sqlite3.Connection:
        """Open what is at the path, or begin a new file."""
        file, torn = identity(self._names[0]), False
        if self._connection is not None:
            # If it is there and what belongs to it is not, others may write past it.
            torn = file == self._files[0]
            if file is None or torn:
                time.sleep(_MOVING)
            self.close()
        if file is None or torn:
            for each in _names(self._path.resolve()):
                Path(each).unlink(missing_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT, self._mode))
            self._path.chmod(self._mode)
            file = identity(self._names[0])
        connection = _connect(self._path)
        try:
            self._mode = self._path.stat().st_mode & 0o777
            # If it was moved away in between, it is not in place, and is opened again.
            self._files = (file, *_identities(self._names)[1:])
        except BaseException:
            connection.close()
            raise
        return connection


def _run(connection: sqlite3.Connection, decide: Callable[[sqlite3.Connection], None]) -> None:
    connection.execute("BEGIN IMMEDIATE")
    try:
        decide(connection)
        connection.execute("COMMIT")
    except BaseException:
        with contextlib.suppress(sqlite3.Error):
            connection.execute("ROLLBACK")
        raise


def _connect(path: Path) -> sqlite3.Connection:
    """Open a file that is there: one that SQLite itself makes may begin with the log of another."""
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode=rw",
        uri=True,
        timeout=_BUSY,
        isolation_level=None,
        check_same_thread=False,
    )
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        # A crash of the machine may cost the last decisions, and then the window is another.
        connection.execute("PRAGMA synchronous = NORMAL")
        (schema,) = connection.execute("PRAGMA user_version").fetchone()
        if schema not in {0, _SCHEMA}:
            raise OSError(f"it is of version {schema}, not {_SCHEMA}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS budget (name TEXT PRIMARY KEY, state BLOB NOT NULL)"
        )
        if schema != _SCHEMA:
            connection.execute(f"PRAGMA user_version = {_SCHEMA}")
    except BaseException:
        connection.close()
        raise
    return connection


def _names(path: Path) -> tuple[str, str, str]:
    """Return where SQLite keeps a database: the file, its log, and the index of the log."""
    real = path.resolve()
    return str(path), f"{real}-wal", f"{real}-shm"


def _identities(names: tuple[str, str, str]) -> _Files:
    file, log, index = names
    return identity(file), identity(log), identity(index)


def _is_busy(error: Exception) -> bool:
    code = error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else None
    return code in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


@contextlib.contextmanager
def _alone(directory: Path) -> Generator[None]:
    """Let one process at a time open or make the database in a directory."""
    if sys.platform == "win32":  # a file that is open cannot be deleted there
        yield
        return
    file = os.open(directory, os.O_RDONLY)
    try:
        deadline = time.monotonic() + _BUSY
        while True:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"another process holds the lock of {directory}") from None
                time.sleep(_PAUSE / 4)
            else:
                break
        try:
            yield
        finally:
            # Closing it is not enough while a process that was forked meanwhile has it open too.
            fcntl.flock(file, fcntl.LOCK_UN)
    finally:
        os.close(file)
