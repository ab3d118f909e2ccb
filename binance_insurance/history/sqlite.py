"""A history in a file of SQLite: one thread writes, one reads."""

from __future__ import annotations

import asyncio
import os
import sqlite3
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

from .._files import identity
from .._text import one_line
from ..errors import StoreError
from .sqlite_file import (
    VERSION,
    logs,
    may_pass,
    migrate,
    open_to_read,
    open_to_write,
    reason_of,
    version_of,
)
from .sqlite_thread import Connection, transact

if TYPE_CHECKING:
    from collections.abc import Generator
    from concurrent.futures import Future
    from pathlib import Path

    from .._files import Identity
    from .steps import Steps

T = TypeVar("T")

_AGAIN = 2.0  # seconds after which a locked or full store is worth another try


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
        # The writer opens the file; of what is read only it keeps it open, too.
        self._writer = Connection(self._open)
        self._reader = Connection(lambda: open_to_read(path))
        self._files: dict[Path, Identity] = {}  # those that are open
        self._process = os.getpid()
        self._closed = False

    def __str__(self) -> str:
        return one_line(str(self._path))

    async def open(self) -> None:
        """Open the file, and make it where it is missing."""
        with self._translated():
            await asyncio.wrap_future(self._writer.submit(self._begin))

    async def read(self, steps: Steps[T]) -> T:
        """Carry steps out that all see the same state."""
        with self._translated():
            await self._open_in_place()
            return await self._reader.carry_out("BEGIN", steps)

    async def write(self, steps: Steps[T]) -> T:
        """Carry steps out in one transaction, alone."""
        if self._read_only:
            raise StoreError(f"the history {self} is opened to read only")
        with self._translated():
            await self._open_in_place()
            return await self._writer.carry_out("BEGIN IMMEDIATE", steps)

    async def size(self) -> int:
        """Return the bytes of its files."""
        with self._translated():
            await self._open_in_place()
            size = self._path.stat().st_size
            for log in logs(self._path):
                with suppress(FileNotFoundError):
                    size += log.stat().st_size
        return size

    async def aclose(self) -> None:
        """Let go of the files; what was called before is finished, also if this is cancelled."""
        if self._closed or self._process != os.getpid():
            return
        self._closed = True
        reader = self._reader.submit(self._reader.close)
        # The last one to close takes the log away, which the reader may not.
        writer = self._writer.submit(lambda: self._end(reader))
        self._reader.shut()
        self._writer.shut()
        await asyncio.shield(asyncio.wrap_future(writer))

    def _end(self, reader: Future[None]) -> None:
        reader.result()
        self._writer.close()

    def _open(self) -> sqlite3.Connection:
        if self._read_only:
            connection = open_to_read(self._path)
        else:
            connection = open_to_write(self._path)
            if version_of(connection) < VERSION:
                transact(connection, "BEGIN IMMEDIATE", migrate())
        self._files = {each: identity(each) for each in (self._path, *logs(self._path))}
        return connection

    async def _open_in_place(self) -> None:
        """Open the file that is at the path, unless that was done."""
        if not self._is_in_place():
            await self.open()

    def _is_in_place(self) -> bool:
        """Whether the file that is open is the one at the path."""
        return self._writer.is_open and self._files.get(self._path) == identity(self._path)

    def _begin(self) -> None:
        """Open the file that is at the path; in the writer's thread."""
        if self._writer.is_open and not self._is_in_place():
            self._leave()
        self._writer.open()

    def _leave(self) -> None:
        """Let go of a file that was moved away or replaced, with all that it has to hold."""
        self._reader.submit(self._reader.close).result()
        if not self._read_only:
            with suppress(sqlite3.Error):  # it may be gone
                self._writer.open().execute("PRAGMA wal_checkpoint(PASSIVE)")
        self._writer.close()
        for log in logs(self._path):
            # The next file must not take it for its own; a link may lead to another one by now.
            if log in self._files and identity(log) == self._files[log]:
                log.unlink(missing_ok=True)

    @contextmanager
    def _translated(self) -> Generator[None]:
        """Turn every failure into a `StoreError`."""
        self._check()
        try:
            yield
        except (sqlite3.Error, OSError) as error:
            self._check()
            failure = StoreError(f"the history {self} cannot be used: {one_line(reason_of(error))}")
            failure.retry_after = _AGAIN if may_pass(error) else None
            raise failure from error

    def _check(self) -> None:
        if self._closed:
            raise StoreError(f"the history {self} is closed")
        if self._process != os.getpid():
            raise StoreError(f"the history {self} was made before this process was forked from it")
