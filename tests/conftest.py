"""Virtual time, mocked sessions, and the strictness that all tests share."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import ExitStack
from decimal import Decimal
from functools import cache
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import aiohttp
import pytest
from aioresponses import aioresponses
from looptime import LoopTimeEventLoop

from benchmarks.postgres_server import PostgresServer
from benchmarks.redis_server import RedisServer, find_servers
from binance_insurance import AssetBalance, InsuranceClient, InsurancePool, LocalBudget, Runtime
from binance_insurance.sandbox import Sandbox, Scenario

from .scale import CAMPAIGN, EXAMPLES

# `pytest tests/foreign`, `pytest tests/examples`: where what they need is installed.
collect_ignore = ["examples", "foreign"]

# The local clock's reading of the real time; where an exchange's clock comes in, its own differs.
EPOCH = 1_790_000_000.0

# The Redis servers that this Python has wheels of, by name; there is always one.
SERVERS = find_servers()
StartServer = Callable[[str], RedisServer]
# For tests with each of them: the suite takes the first, the campaign all.
IN_CAMPAIGN = [pytest.mark.campaign, pytest.mark.long]
EVERY_SERVER = [
    pytest.param(name, marks=IN_CAMPAIGN * bool(number)) for number, name in enumerate(SERVERS)
]


class VirtualTimeLoop(LoopTimeEventLoop, asyncio.SelectorEventLoop):
    """A loop whose waits take no time, while its sockets are real."""

    async def shutdown_default_executor(self, timeout: float | None = None) -> None:
        """Wait for the threads, which take real time: a bound in virtual time is over at once."""
        await super().shutdown_default_executor()


def pytest_asyncio_loop_factories() -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Let every coroutine test and its fixtures run in virtual time."""
    return {"virtual": VirtualTimeLoop}


def pytest_configure() -> None:
    """Let Ctrl-C reach what tests run; a shell that starts them in the background ignores it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what takes long to the campaign, and most pages to the examples."""
    elsewhere = {"long": not CAMPAIGN, "example": not EXAMPLES}
    left = {name for name, leave in elsewhere.items() if leave}
    out = [item for item in items if any(item.get_closest_marker(name) for name in left)]
    config.hook.pytest_deselected(items=out)
    items[:] = [item for item in items if item not in set(out)]


def _takes_no_time(record: logging.LogRecord) -> bool:
    """Leave out what asyncio's debug mode says of a slow machine."""
    return not str(record.msg).startswith("Executing ")


logging.getLogger("asyncio").addFilter(_takes_no_time)


@pytest.fixture(scope="session", autouse=True)
def quiet_processes() -> Iterator[None]:
    """Keep processes that tests start from saying that on standard error; their warnings stay."""
    with pytest.MonkeyPatch.context() as patch:
        if sys.flags.dev_mode:
            for mode in ("PYTHONASYNCIODEBUG", "PYTHONDEVMODE"):
                patch.delenv(mode, raising=False)
            patch.setenv("PYTHONWARNINGS", os.environ.get("PYTHONWARNINGS", "default"))
        yield


def loop_time() -> float:
    """Virtual monotonic seconds."""
    return asyncio.get_running_loop().time()


def wall_time() -> float:
    """Virtual seconds since 1970 by the local clock."""
    return EPOCH + loop_time()


class Singles(Scenario):
    """An exchange on which every symbol has a pool of its own: S0USDT, S1USDT and so on."""

    def __init__(self, count: int) -> None:
        balance = AssetBalance("USDT", Decimal("1.5"), 0)
        self._pools = tuple(InsurancePool((f"S{n}USDT",), (balance,)) for n in range(count))

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        return self._pools


@pytest.fixture
def runtime() -> Runtime:
    """Time from the test's loop, and a chance that always takes the longest wait."""
    return Runtime(monotonic=loop_time, wall=wall_time, random=lambda: 1.0)


@pytest.fixture
async def exchange() -> AsyncIterator[Sandbox]:
    """A local exchange with about 900 symbols, in virtual time."""
    async with Sandbox("market", clock=wall_time) as sandbox:
        yield sandbox


@pytest.fixture
async def client(exchange: Sandbox, runtime: Runtime) -> AsyncIterator[InsuranceClient]:
    """A client of the exchange."""
    budget = LocalBudget(runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        yield client


class _Response(aiohttp.ClientResponse):
    """Supplies what aiohttp 3.14 asks for and aioresponses 0.7.9 does not give."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        kwargs.setdefault("stream_writer", Mock())
        super().__init__(*args, **kwargs)


@pytest.fixture
def mocked() -> Iterator[Callable[..., None]]:
    """Mock every session: `mocked(url, status=…, body=…, headers=…)` adds the next answer."""
    with aioresponses() as mock:

        def add(url: str, **answer: Any) -> None:
            mock.get(url, response_class=_Response, **answer)  # pyright: ignore[reportUnknownMemberType]

        yield add


@pytest.fixture(scope="session")
def redis_servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[StartServer]:
    """Start a server of `SERVERS` by its name, once; each test takes keys of its own."""
    with ExitStack() as stack:

        @cache
        def start(name: str) -> RedisServer:
            server = RedisServer(tmp_path_factory.mktemp(name), SERVERS[name])
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture(params=EVERY_SERVER)
def redis_server(request: pytest.FixtureRequest, redis_servers: StartServer) -> RedisServer:
    """A running server; a test that asks for it runs on each."""
    return redis_servers(request.param)


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[PostgresServer]:
    """A running server; a test that stops it starts it again."""
    server = PostgresServer()
    try:
        server.start()
        yield server
    finally:
        server.remove()


@pytest.fixture
def postgres_url(postgres_server: PostgresServer) -> Iterator[str]:
    """An empty database of its own. For `asyncio.run`: in virtual time a server is always late."""
    with postgres_server.database() as name:
        yield postgres_server.url(name)


@pytest.fixture(params=["sqlite", "postgresql"])
def history_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A store that is not there yet; a test that asks for it runs on each kind."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'history.db'}"
    url: str = request.getfixturevalue("postgres_url")
    return url
