"""A history in PostgreSQL: one connection writes, one reads."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from ..errors import StoreError
from .postgres_place import find_place
from .postgres_server import SCHEMA, Connections, UnusableError, carry_out, connect, translated
from .steps import ask, change

if TYPE_CHECKING:
    from .._address import Address
    from .postgres_server import Connection
    from .steps import Steps

T = TypeVar("T")

_LOCK = 0x42494E53  # held by a process that writes; each database has its own

# What each version of the schema adds to the one before.
_SCHEMAS = (
    """
    CREATE TABLE pool (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest bytea NOT NULL UNIQUE, symbols text NOT NULL
    );
    CREATE TABLE asset (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, name text NOT NULL UNIQUE
    );
    CREATE TABLE value (
        pool bigint NOT NULL, asset bigint NOT NULL, update_time bigint NOT NULL,
        balance numeric NOT NULL, observed_time bigint NOT NULL,
        PRIMARY KEY (pool, asset, update_time, balance)
    );
    CREATE INDEX value_early ON value (pool, asset, update_time, observed_time)
        WHERE update_time > observed_time + 999;
    CREATE TABLE layout (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        digest bytea NOT NULL UNIQUE, content text NOT NULL
    );
    CREATE TABLE observation (
        time bigint NOT NULL, layout bigint NOT NULL, begins bigint NOT NULL,
        PRIMARY KEY (time, layout)
    );
    CREATE INDEX observation_begins ON observation (time) WHERE begins = 1;
    CREATE TABLE span (first bigint NOT NULL PRIMARY KEY, last bigint NOT NULL);
    CREATE TABLE reported (newest bigint NOT NULL, content bytea NOT NULL);
    INSERT INTO reported VALUES (0, '');
    CREATE VIEW balances AS
        SELECT v.update_time, v.observed_time, p.symbols, a.name AS asset, v.balance
        FROM value v JOIN pool p ON p.id = v.pool JOIN asset a ON a.id = v.asset;
    """,
)
VERSION = len(_SCHEMAS)

_WRITE = (
    "BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE; "
    # A process that is stopped locks the others out for so long only.
    "SET LOCAL idle_in_transaction_session_timeout = '10min'; "
    f"SELECT pg_advisory_xact_lock({_LOCK})"
)
_READ = (
    "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; "
    # No plan stays from when the tables were small. Writes repeat theirs too often for it.
    "SET LOCAL plan_cache_mode = force_custom_plan"
)


class PostgresStore:
    """The store in a database, in a schema of its own.

    Args:
        address: of the database.
        read_only: whether nothing is ever made or written.

    Raises:
        ValueError: the address is not complete, or has an option that is not known.
    """

    version = VERSION

    def __init__(self, address: Address, *, read_only: bool) -> None:
        self._place = find_place(address)
        self._read_only = read_only
        self._reader = Connections(self._open_to_read)
        self._writer = self._reader if read_only else Connections(self._open)

    def __str__(self) -> str:
        return str(self._place)

    async def open(self) -> None:
        """Connect, and make what is missing."""
        with translated(self._place):
            await self._writer.connect()

    async def read(self, steps: Steps[T]) -> T:
        """Carry steps out that all see the same state."""
        with translated(self._place):
            if not self._writer.are_open:
                await self._writer.connect()
            return await self._reader.transact(_READ, steps)

    async def write(self, steps: Steps[T]) -> T:
        """Carry steps out in one transaction, alone."""
        if self._read_only:
            raise StoreError(f"the history {self} is opened to read only")
        with translated(self._place):
            return await self._writer.transact(_WRITE, steps)

    async def size(self) -> int:
        """Return the bytes of its tables and indexes."""
        return await self.read(_read_size())

    async def aclose(self) -> None:
        """Close the connections."""
        await self._reader.aclose()
        await self._writer.aclose()

    async def _open(self) -> Connection:
        """Connect to write, and make the schema, or bring it up to date."""
        connection = await connect(self._place)
        try:
            if await _version(connection) < VERSION:
                await connection.execute(_WRITE)
                steps = _migrate(await _version(connection))
                await carry_out(connection, steps, next(steps))
                await connection.execute("COMMIT")
        except BaseException:
            connection.terminate()
            raise
        return connection

    async def _open_to_read(self) -> Connection:
        """Connect only to read what is there."""
        connection = await connect(self._place)
        try:
            if await _version(connection) < VERSION:
                raise UnusableError(
                    "it holds no history, or one of an older schema; open it once to write"
                )
        except BaseException:
            connection.terminate()
            raise
        return connection


async def _version(connection: Connection) -> int:
    """Return the version of the schema; 0 if there is none.

    Raises:
        UnusableError: it is a newer one.
    """
    # Not to_regclass, whose cache misses what another process has made during the wait for it.
    ((tables,),) = await connection.fetch(
        "SELECT count(*) FROM pg_tables WHERE schemaname = $1 AND tablename = 'version'", SCHEMA
    )
    if not tables:
        return 0
    ((version,),) = await connection.fetch(f"SELECT number FROM {SCHEMA}.version")
    if version > VERSION:
        raise UnusableError(
            f"its schema has version {version}, and this program knows {VERSION}: "
            "upgrade binance-insurance"
        )
    return int(version)


def _migrate(version: int) -> Steps[None]:
    """Bring the schema up to date."""
    ((there,),) = yield from ask("SELECT count(*) FROM pg_namespace WHERE nspname = ?", SCHEMA)
    if not there:  # else somebody with the right to make it may have done so
        yield from ask(f"CREATE SCHEMA {SCHEMA}")
    if not version:
        yield from ask("CREATE TABLE version (number bigint NOT NULL)")
        yield from ask("INSERT INTO version VALUES (0)")
    for script in _SCHEMAS[version:]:
        for statement in filter(str.strip, script.split(";")):
            yield from ask(statement)
    yield from change("UPDATE version SET number = ?", [(VERSION,)])


def _read_size() -> Steps[int]:
    ((size,),) = yield from ask(
        "SELECT coalesce(sum(pg_total_relation_size(oid)), 0)::bigint FROM pg_class "
        "WHERE relnamespace = to_regnamespace(?) AND relkind = 'r'",
        SCHEMA,
    )
    return int(size)
