"""Connections to PostgreSQL, and what is carried out through them."""

from __future__ import annotations

import asyncio
import os
import re
import ssl
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Protocol, TypeAlias, TypeVar, cast

import asyncpg  # type: ignore[import-untyped]
from msgspec import Struct

from .._forks import in_children, keep
from .._text import one_line, repeats
from ..budget.ending import Ending
from ..errors import StoreError
from .steps import Ask, Change, Fetch, Statement

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Generator, Sequence

    from .postgres_place import Place
    from .steps import Rows, Steps

T = TypeVar("T")

SCHEMA = "binance_insurance"
_ANSWER = 5.0  # seconds for a new connection, and for another process that writes
_BEGIN = 8.0  # seconds to begin a transaction, with the wait for that process
_WORK = 30.0  # seconds for the answer to one statement
_GOODBYE = 1.0  # seconds to end a connection in good order
_AGAIN = 2.0  # seconds after which a server that is away is worth another try
_AT_ONCE = 5_000  # rows of one insertion
# Of the columns that are no bigint.
_TYPES = {
    "balance": "numeric",
    "content": "text",
    "digest": "bytea",
    "name": "text",
    "symbols": "text",
}

_SETTINGS = {
    "search_path": SCHEMA,
    "application_name": "binance-insurance",
    "lock_timeout": f"{_ANSWER:g}s",
    "jit": "off",
}

# Errors of the server by the beginnings of their codes.
_MAY_PASS = "08", "25P03", "40", "53", "55P03", "57", "58"
_LOST = "08", "25P03", "57P"
_REASONS = {
    "28": "it refuses this user or password",
    "55P03": f"another process has locked it for {_ANSWER:g} s",
}
_USER = re.compile(r'\b(role|user) "[^"]*"')
_SHORT = 4  # characters of a secret that can be part of any word
_FAILURES = (OSError, asyncpg.PostgresError, asyncpg.InterfaceError, asyncpg.InternalClientError)


class Connection(Protocol):
    """What is used of a connection of asyncpg."""

    async def execute(self, sql: str, *parameters: object, timeout: float | None = None) -> str:
        """Carry out a statement, or several without parameters."""
        ...

    async def fetch(self, sql: str, *parameters: object) -> Rows:
        """Return the rows of a statement."""
        ...

    async def executemany(self, sql: str, rows: Rows) -> None:
        """Carry a statement out for each of some rows."""
        ...

    async def close(self, *, timeout: float) -> None:
        """Close it in good order."""
        ...

    def terminate(self) -> None:
        """Close it at once."""
        ...

    def is_closed(self) -> bool:
        """Whether it is closed, by whomever."""
        ...


async def connect(place: Place) -> Connection:
    """Connect to a database.

    Raises:
        Exception: one of those that `translated` turns into a `StoreError`.
    """
    if missing := await asyncio.to_thread(_missing, place.files):
        raise UnusableError(f"there is no file {missing[0]}")
    settings = dict(_SETTINGS)
    if place.application is not None:
        settings["application_name"] = place.application
    library: Any = asyncpg  # which has no types
    try:
        connection = await library.connect(
            place.tls,
            host=place.host,
            port=place.port,
            user=place.user,
            password=place.password,
            passfile=place.passfile,
            database=place.database,
            server_settings=settings,
            timeout=_ANSWER,
            command_timeout=_WORK,
        )
    except ValueError as error:  # of a file of certificates, or of the environment
        raise UnusableError(str(error)) from error
    try:
        # As text, exact whatever its size, and made a number where no event loop waits for it.
        await connection.set_type_codec(
            "numeric", schema="pg_catalog", encoder=str, decoder=str, format="text"
        )
    except BaseException:
        connection.terminate()
        raise
    return cast("Connection", connection)


def _missing(files: Sequence[str]) -> list[str]:
    return [name for name in files if not Path(name).exists()]


@contextmanager
def translated(place: Place) -> Generator[None]:
    """Turn every failure into a `StoreError` that names the place."""
    try:
        yield
    except _FAILURES as error:
        secrets = {*place.secrets, os.getenv("PGPASSWORD", "")} - {""}
        reason = _without(_reason(error), {*secrets, f'"{place.user}"'})
        failure = StoreError(f"the history {place} cannot be used: {one_line(reason)}")
        failure.retry_after = _AGAIN if _may_pass(error) else None
        # What a server says can repeat a password that was sent to it.
        raise failure from None if repeats(error, secrets) else error


def _without(reason: str, secrets: Collection[str]) -> str:
    """Return a reason on one line with `***` for each secret."""
    for secret in sorted(secrets, key=len, reverse=True):
        if len(secret) < _SHORT and secret in reason:
            return "why is not shown, since the reason may repeat the password"
        reason = reason.replace(secret, "***")
    return " ".join(reason.split())


class UnusableError(OSError):
    """Waiting cannot help."""


class _Done(Struct, Generic[T]):
    """Steps that have ended with a value."""

    value: T


_Step: TypeAlias = Statement | _Done[T]


class Connections:
    """One connection in each event loop."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self._sessions: dict[asyncio.AbstractEventLoop, _Session] = {}
        self._closed = False

    @property
    def are_open(self) -> bool:
        """Whether the loop that runs has one."""
        session = self._sessions.get(asyncio.get_running_loop())
        return session is not None and session.connection is not None

    async def connect(self) -> None:
        """Connect, unless that was done."""
        session = await self._session()
        async with session.lock:
            self._check()
            await session.connect()

    async def transact(self, begin: str, steps: Steps[T]) -> T:
        """Carry steps out in a transaction."""
        # What comes before the first statement needs no server, and locks nobody out.
        first = await asyncio.to_thread(_advance, steps, None)
        session = await self._session()
        async with session.lock:
            self._check()
            return await session.transact(begin, steps, first)

    async def aclose(self) -> None:
        """Close that of this loop, and make no more; other loops close theirs when they end."""
        self._closed = True
        session = self._sessions.pop(asyncio.get_running_loop(), None)
        if session is not None:
            async with session.lock:
                await session.ending.aclose()

    def _check(self) -> None:
        if self._closed:
            raise UnusableError("it is closed")

    async def _session(self) -> _Session:
        self._check()
        loop = asyncio.get_running_loop()
        if loop not in self._sessions:
            for ended in [each for each in self._sessions if each.is_closed()]:
                self._sessions.pop(ended).leave()
            session = self._sessions[loop] = _Session(self._connect)
            in_children(session, keep)
            await session.ending.begin()
        return self._sessions[loop]


class _Session:
    """The connection of one event loop, which closes it when it ends."""

    def __init__(self, connect: Callable[[], Awaitable[Connection]]) -> None:
        self._connect = connect
        self.connection: Connection | None = None
        self.lock = asyncio.Lock()
        self.ending = Ending(self._close)

    def leave(self) -> None:
        """Touch nothing more of the loop, which has ended."""
        if not self.ending.came:
            keep(self)  # that loop ended without closing anything

    async def connect(self) -> Connection:
        """Return a connection that was not closed, as far as that is known."""
        if self.ending.came:
            raise UnusableError("its event loop ends")
        with self.ending.used():
            if self.connection is None or self.connection.is_closed():
                self.connection = await self._connect()
        return self.connection

    async def transact(self, begin: str, steps: Steps[T], first: _Step[T]) -> T:
        """Carry steps out, of which the first statement is known."""
        try:
            connection = await self._begin(begin)
            with self.ending.used():
                done = await carry_out(connection, steps, first)
                await connection.execute("COMMIT")
        except BaseException:
            # In whatever state it is: the server takes back what was not committed.
            if self.connection is not None:
                self.connection.terminate()
                self.connection = None
            raise
        return done

    async def _begin(self, begin: str) -> Connection:
        """Begin a transaction, on a new connection if the old one has been lost."""
        if self.connection is not None:
            try:
                with self.ending.used():
                    await self.connection.execute(begin, timeout=_BEGIN)
            except _FAILURES as error:
                if not _is_lost(error):
                    raise
                self.connection.terminate()
            else:
                return self.connection
        connection = await self.connect()
        with self.ending.used():
            await connection.execute(begin, timeout=_BEGIN)
        return connection

    async def _close(self) -> None:
        connection, self.connection = self.connection, None
        if connection is not None:
            with suppress(*_FAILURES):  # it is closed, in good order or not
                await connection.close(timeout=_GOODBYE)


def _advance(steps: Steps[T], rows: Rows | None) -> _Step[T]:
    """Send rows to steps, in a thread, where what they work out stops no event loop."""
    try:
        return next(steps) if rows is None else steps.send(rows)
    except StopIteration as ended:
        return _Done(ended.value)


async def carry_out(connection: Connection, steps: Steps[T], first: _Step[T]) -> T:
    """Carry steps out, of which the first statement is known, and return their value."""
    statement = first
    while not isinstance(statement, _Done):
        rows = await _answer(connection, statement)
        statement = await asyncio.to_thread(_advance, steps, rows)
    return statement.value


async def _answer(connection: Connection, statement: Statement) -> Rows:
    if isinstance(statement, Ask):
        return await connection.fetch(_numbered(statement.sql), *statement.parameters)
    if isinstance(statement, Change):
        await connection.executemany(_numbered(statement.sql), statement.rows)
        return ()
    if isinstance(statement, Fetch):
        return [(await statement.call(),)]
    inserted, sql = 0, _inserting(statement.table, statement.columns)
    for number in range(0, len(statement.rows), _AT_ONCE):
        rows = statement.rows[number : number + _AT_ONCE]
        done = await connection.execute(sql, *zip(*rows, strict=True))
        inserted += int(done.rpartition(" ")[2])  # INSERT 0 240
    return [(inserted,)]


@lru_cache(maxsize=32)
def _inserting(table: str, columns: tuple[str, ...]) -> str:
    """Write an insertion whose parameters are columns: one statement for all rows."""
    arrays = ", ".join(
        f"${number}::{_TYPES.get(column, 'bigint')}[]"
        for number, column in enumerate(columns, start=1)
    )
    return (
        f"INSERT INTO {table} ({', '.join(columns)}) SELECT * FROM unnest({arrays}) "
        "ON CONFLICT DO NOTHING"
    )


@lru_cache(maxsize=128)
def _numbered(sql: str) -> str:
    """Write parameters as PostgreSQL does: `$1`, `$2` and so on."""
    first, *others = sql.split("?")
    return first + "".join(f"${number}{each}" for number, each in enumerate(others, start=1))


def _code(error: BaseException) -> str:
    return str(getattr(error, "sqlstate", None) or "")


def _may_pass(error: Exception) -> bool:
    """Whether the same can go well later."""
    if isinstance(error, asyncpg.PostgresError):
        return _code(error).startswith(_MAY_PASS)
    return not isinstance(error, (UnusableError, ssl.SSLCertVerificationError, ValueError))


def _is_lost(error: Exception) -> bool:
    """Whether a connection is of no use any more.

    Where the server has said goodbye, and its end is not noticed yet, asyncpg fails in itself.
    """
    return not isinstance(error, asyncpg.PostgresError) or _code(error).startswith(_LOST)


def _reason(error: Exception) -> str:
    code = _code(error)
    for start, reason in _REASONS.items():
        if code.startswith(start):
            return reason
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    if type(error) is asyncpg.InternalClientError:
        return "the connection is lost"
    text = str(error.args[0] if error.args else "it does not answer in time")
    return _USER.sub(r"\1 ***", text)
