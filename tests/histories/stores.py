"""Names stores that are not there yet, on SQLite and on PostgreSQL."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from functools import cache
from itertools import count
from pathlib import Path

from benchmarks.postgres_server import PostgresServer


class Stores(ExitStack):
    """Files in a directory, and databases of a server that starts when one is wanted."""

    def __init__(self, place: Path, server: Callable[[], PostgresServer]) -> None:
        super().__init__()
        self._place = place
        self._server = cache(server)
        self._numbers = count()

    def new(self, kind: str) -> str:
        """Return the URL of another store: `sqlite` or `postgresql`."""
        if kind == "sqlite":
            return f"sqlite:///{self._place / f'{next(self._numbers)}.db'}"
        server = self._server()
        return server.url(self.enter_context(server.database()))
