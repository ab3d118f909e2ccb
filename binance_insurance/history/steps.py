"""What a store does for a history: it carries statements out, and gives their rows back.

What is read and written is decided once for all stores, in generators that yield statements and are
sent rows. Statements are of the SQL that SQLite and PostgreSQL share, with `?` for parameters.
"""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeAlias, TypeVar

from msgspec import Struct

T = TypeVar("T")
Row: TypeAlias = tuple[Any, ...]
Rows: TypeAlias = Sequence[Row]

_AT_ONCE = 400  # keys of one statement


class Ask(Struct, frozen=True):
    """A statement whose rows are sent back."""

    sql: str
    parameters: Row = ()


class Insert(Struct, frozen=True):
    """Rows for a table; sent back is one row with how many were not there before."""

    table: str
    columns: tuple[str, ...]
    rows: Rows


class Change(Struct, frozen=True):
    """A statement to carry out for each row; nothing is sent back."""

    sql: str
    rows: Rows


class Fetch(Struct, frozen=True):
    """Something to await, such as what another store has; sent back is one row with it."""

    call: Callable[[], Coroutine[object, object, object]]


Statement: TypeAlias = Ask | Insert | Change | Fetch
Steps: TypeAlias = Generator[Statement, Rows, T]


class Store(Protocol):
    """Where a history lies. Every failure is a `StoreError`."""

    @property
    def version(self) -> int:
        """The version of its schema."""
        ...

    def __str__(self) -> str:
        """Return how messages name it: without user and password."""
        ...

    async def open(self) -> None:
        """Open it, and make what is missing, where that has not been done."""
        ...

    async def read(self, steps: Steps[T]) -> T:
        """Carry steps out that all see the same state."""
        ...

    async def write(self, steps: Steps[T]) -> T:
        """Carry steps out in one transaction, alone."""
        ...

    async def size(self) -> int:
        """Return the bytes that it takes."""
        ...

    async def aclose(self) -> None:
        """Let go of files and connections."""
        ...


def ask(sql: str, *parameters: object) -> Steps[Rows]:
    """Return the rows of a statement."""
    return (yield Ask(sql, parameters))


def insert(table: str, columns: tuple[str, ...], rows: Rows) -> Steps[int]:
    """Add rows to a table, and return how many were not there before."""
    if not rows:
        return 0
    ((count,),) = yield Insert(table, columns, rows)
    return int(count)


def change(sql: str, rows: Rows) -> Steps[None]:
    """Carry a statement out for each row."""
    if rows:
        yield Change(sql, rows)


def fetch(call: Callable[[], Coroutine[object, object, T]]) -> Steps[T]:
    """Return what is awaited."""
    ((found,),) = yield Fetch(call)
    done: T = found
    return done


def ask_for(sql: str, keys: Iterable[object]) -> Steps[list[Row]]:
    """Return the rows of a statement that ends with `IN`, for all of the keys."""
    found: list[Row] = []
    for some in chunks(list(keys)):
        found += yield from ask(f"{sql} ({', '.join('?' * len(some))})", *some)
    return found


def chunks(keys: Sequence[T]) -> Iterator[Sequence[T]]:
    """Yield as many keys at a time as a statement can have."""
    for number in range(0, len(keys), _AT_ONCE):
        yield keys[number : number + _AT_ONCE]
