"""The file of a history: opened, made, brought up to date, and refused where it is none.

Nothing but SQLite opens it: to close a file that one has opened oneself drops the locks that SQLite
holds on it in this process.
"""

from __future__ import annotations

import errno
import os
import sqlite3
import time
from contextlib import closing, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .._files import make_directory
from .steps import ask

if TYPE_CHECKING:
    from .steps import Steps

BUSY = 5.0  # seconds to wait for another process that writes
_APPLICATION = 0x42494E53
_PAUSE = 0.01  # seconds between two tries to use the log
_PASSING = {errno.EAGAIN, errno.EDQUOT, errno.EIO, errno.EMFILE, errno.ENFILE, errno.ENOSPC}

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


class Momentary(sqlite3.Connection):
    """A connection that does not see what is written later."""


def open_to_write(path: Path) -> sqlite3.Connection:
    """Open a file to write, and make it where it is missing; its schema may be an older one."""
    make_directory(path.parent)
    with suppress(FileExistsError):  # so that one that is there is not opened
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))
    _check(path)
    connection = _connect(path, "rw")
    try:
        _use_log(connection)
        # What an append has acknowledged is there after a crash of the machine.
        connection.execute("PRAGMA synchronous = FULL")
    except BaseException:
        connection.close()
        raise
    return connection


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a file that is there, only to read."""
    _check(path)
    connection = _connect_to_read(path)
    try:
        if version_of(connection) < VERSION:
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
        connection.execute("BEGIN")  # another process may make the tables at this moment
        ((application,),) = connection.execute("PRAGMA application_id")
        ((tables,),) = connection.execute("SELECT count(*) FROM sqlite_master")
        if application != _APPLICATION and (application or tables):
            raise OSError("it is a database of another program")
        if version_of(connection) > VERSION:
            raise OSError(
                f"its schema has version {version_of(connection)}, and this program knows "
                f"{VERSION}: upgrade binance-insurance"
            )


def _connect_to_read(path: Path) -> sqlite3.Connection:
    """Connect so that nothing is written, and no file of the log is left behind.

    A connection that may only read leaves the files of an empty log behind, and one that may write
    clears a log, or a journal, away that is not empty.
    """
    real = path.resolve()
    left = any(_has_content(Path(f"{real}-{each}")) for each in ("wal", "journal"))
    connection = _connect(path, "ro" if left else "rw")
    try:
        connection.execute("PRAGMA query_only = ON")
        version_of(connection)
    except sqlite3.OperationalError as error:
        connection.close()
        if left or code_of(error) not in {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY}:
            raise
        # Nobody writes now, or the files of the log would be there, and we must not make them.
        return _connect(path, "ro&immutable=1", Momentary)
    except BaseException:
        connection.close()
        raise
    return connection


def logs(path: Path) -> list[Path]:
    """Return the files of a log: the log itself, and its index; beside what a link leads to."""
    real = path.resolve()
    return [Path(f"{real}-wal"), Path(f"{real}-shm")]


def _has_content(path: Path) -> bool:
    try:
        return path.stat().st_size > 0
    except FileNotFoundError:
        return False


def _connect(
    path: Path, mode: str, kind: type[sqlite3.Connection] = sqlite3.Connection
) -> sqlite3.Connection:
    return sqlite3.connect(
        f"{path.as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY,
        isolation_level=None,
        check_same_thread=False,
        factory=kind,
    )


def version_of(connection: sqlite3.Connection) -> int:
    """Return the version of the schema."""
    ((version,),) = connection.execute("PRAGMA user_version")
    return int(version)


def _use_log(connection: sqlite3.Connection) -> None:
    """Let readers and a writer go on together; to begin with that takes the file alone."""
    deadline = time.monotonic() + BUSY
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except sqlite3.OperationalError as error:  # which does not wait by itself
            if not is_busy(error) or time.monotonic() > deadline:
                raise
            time.sleep(_PAUSE)
        else:
            return


def migrate() -> Steps[None]:
    """Bring the schema up to date."""
    ((version,),) = yield from ask("PRAGMA user_version")
    for script in _SCHEMAS[version:]:
        for statement in filter(str.strip, script.split(";")):
            yield from ask(statement)
    yield from ask(f"PRAGMA application_id = {_APPLICATION}")
    yield from ask(f"PRAGMA user_version = {VERSION}")


def is_busy(error: Exception) -> bool:
    """Whether another process writes."""
    return code_of(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def may_pass(error: Exception) -> bool:
    """Whether the same can go well later."""
    if isinstance(error, OSError):
        return error.errno in _PASSING
    return code_of(error) in {
        sqlite3.SQLITE_BUSY,
        sqlite3.SQLITE_LOCKED,
        sqlite3.SQLITE_FULL,
        sqlite3.SQLITE_IOERR,
    }


def code_of(error: Exception) -> int | None:
    """Return the kind of an error of SQLite."""
    return error.sqlite_errorcode & 0xFF if isinstance(error, sqlite3.Error) else None


def reason_of(error: Exception) -> str:
    """Say why a file cannot be used."""
    if is_busy(error):
        return f"another process has locked it for {BUSY:g} s"
    if code_of(error) == sqlite3.SQLITE_IOERR:
        return f"{error}; the disk may be full, or the file too large"
    return (error.strerror if isinstance(error, OSError) else None) or str(error)
