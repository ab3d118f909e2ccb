"""A history from a URL, for configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._address import read_address
from .history import History
from .sqlite import SqliteStore

if TYPE_CHECKING:
    from .._address import Address
    from .steps import Store

_POSTGRES = {"postgres", "postgresql"}


def open_history(url: str, *, read_only: bool = False) -> History:
    """Return the history that a URL names; `async with` opens it, as the first call does.

    Args:
        url: `sqlite:///relative/path` or `sqlite:////absolute/path`, a file on a local disk, which
            is made where it is missing, for this user alone (0600); or
            `postgresql://user@host/database` (extra `postgres`). A relative path makes no
            directories, an absolute one does (0700).
        read_only: never make or write anything; a missing history is a `StoreError`.

    Raises:
        ValueError: invalid URL, or the directory of a relative path is missing.
        ModuleNotFoundError: the extra for this URL is not installed.
    """
    address = read_address(url, "history")
    if address.scheme == "sqlite":
        address.check_names(())
        return History(SqliteStore(address.file(), read_only=read_only))
    if address.scheme in _POSTGRES:
        return History(_postgres(address, read_only=read_only))
    raise ValueError(
        f"a history is sqlite:///path or postgresql://host/database, not {str(address)!r}"
    )


def _postgres(address: Address, *, read_only: bool) -> Store:
    try:
        from .postgres import PostgresStore
    except ModuleNotFoundError as error:
        if error.name != "asyncpg":
            raise
        raise ModuleNotFoundError(
            "asyncpg is missing, which the extra 'postgres' brings: "
            "pip install 'binance-insurance[postgres]'",
            name="asyncpg",
        ) from None
    return PostgresStore(address, read_only=read_only)
