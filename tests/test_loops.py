"""One client in several event loops, one after another, and in a forked process; in real time."""

from __future__ import annotations

import asyncio
import os
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import msgspec
import pytest
import trustme
from aiohttp import web

from binance_insurance import (
    ClientClosedError,
    InsuranceClient,
    InsurancePool,
    RequestTimeoutError,
    RetryPolicy,
)
from binance_insurance.sandbox import Documented, Fault, Sandbox

from .conftest import IN_CAMPAIGN
from .exchange import exchange_in_a_thread

SYMBOLS = [symbol for pool in Documented().pools(0) for symbol in pool.symbols]


@pytest.fixture(scope="module")
def shared_exchange() -> Iterator[Sandbox]:
    with exchange_in_a_thread() as sandbox:
        yield sandbox


@pytest.fixture
def exchange(shared_exchange: Sandbox) -> Iterator[Sandbox]:
    yield shared_exchange
    shared_exchange.faults.clear()
    shared_exchange.latency = 0.0


def test_three_runs_with_six_calls_each_and_two_slots_give_18_pools(exchange: Sandbox) -> None:
    client = InsuranceClient(exchange.url, max_concurrency=2)
    exchange.latency = 0.02

    async def six() -> list[InsurancePool]:
        return await asyncio.gather(*map(client.fetch_pool, SYMBOLS[::4]))

    pools = [pool for _ in range(3) for pool in asyncio.run(six())]
    assert len(pools) == 18
    assert all(isinstance(pool, InsurancePool) for pool in pools)
    stats = client.stats()
    assert stats.requests_sent + stats.calls_shared == 18, "the statistics go on"
    asyncio.run(client.aclose())


def test_what_answers_taught_goes_on(exchange: Sandbox) -> None:
    client = InsuranceClient(exchange.url)
    snapshot = asyncio.run(client.fetch_snapshot())
    sent = client.stats().requests_sent
    assert asyncio.run(client.fetch_pool("BTCUSDT", max_age=60)) is snapshot["BTCUSDT"]
    assert client.stats().requests_sent == sent
    asyncio.run(client.aclose())
    with pytest.raises(ClientClosedError, match="closed"):
        asyncio.run(client.fetch_pool("BTCUSDT"))


def test_a_second_run_that_meets_a_stalled_exchange_fails_after_the_attempt_timeout(
    exchange: Sandbox,
) -> None:
    retry = RetryPolicy(max_attempts=1)
    client = InsuranceClient(exchange.url, attempt_timeout=0.6, retry=retry)
    asyncio.run(client.fetch_pool("BTCUSDT"))
    exchange.inject(Fault.stall())
    begin = time.monotonic()
    with pytest.raises(RequestTimeoutError, match=r"no complete answer within 0\.6 s"):
        asyncio.run(asyncio.wait_for(client.fetch_pool("BTCUSDT"), 30))
    assert time.monotonic() - begin >= 0.6


@pytest.mark.parametrize("cut", ["cancelled", "in the middle"])
def test_a_run_that_ends_with_calls_in_the_middle_leaves_slots_for_the_next(
    exchange: Sandbox, cut: str
) -> None:
    client = InsuranceClient(exchange.url, max_concurrency=2)
    asyncio.run(client.fetch_request_weight())
    exchange.inject(*[Fault.stall()] * 2)

    async def leave() -> None:
        calls = [asyncio.create_task(client.fetch_pool(symbol)) for symbol in SYMBOLS[::4]]
        while exchange.faults:  # noqa: ASYNC110 - the exchange is another thread's
            await asyncio.sleep(0.01)
        if cut == "cancelled":
            for call in calls:
                call.cancel()

    async def six() -> list[InsurancePool]:
        return await asyncio.gather(*map(client.fetch_pool, SYMBOLS[::4]))

    asyncio.run(leave())
    for _ in range(2):
        assert len(asyncio.run(asyncio.wait_for(six(), 30))) == 6
    asyncio.run(client.aclose())


CALLS: dict[str, Callable[[InsuranceClient], Awaitable[object]]] = {
    "fetch_pool": lambda client: client.fetch_pool("BTCUSDT"),
    "fetch_pool, max_age": lambda client: client.fetch_pool("BTCUSDT", max_age=60),
    "fetch_pools": lambda client: client.fetch_pools(["BTCUSDT"]),
    "fetch_pools of nothing": lambda client: client.fetch_pools([]),
    "fetch_snapshot": lambda client: client.fetch_snapshot(),
    "fetch_request_weight": lambda client: client.fetch_request_weight(),
    "aclose": lambda client: client.aclose(),
    "aenter": lambda client: client.__aenter__(),
}


def test_a_second_running_loop_is_refused_at_once_by_every_coroutine(exchange: Sandbox) -> None:
    client = InsuranceClient(exchange.url)
    used, done = threading.Event(), threading.Event()
    results: list[object] = []

    async def use() -> None:
        results.append(await client.fetch_pool("BTCUSDT"))
        used.set()
        while not done.is_set():  # noqa: ASYNC110 - the event is another thread's
            await asyncio.sleep(0.01)
        results.append(await client.fetch_pool("BTCUSDT"))
        await client.aclose()

    async def use_too(call: Callable[[InsuranceClient], Awaitable[object]]) -> None:
        with pytest.raises(RuntimeError, match="a client serves one loop at a time"):
            await call(client)

    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    assert used.wait(30)
    sent = client.stats().requests_sent
    for call in CALLS.values():
        asyncio.run(use_too(call))
    assert client.stats().requests_sent == sent
    done.set()
    thread.join(30)
    assert [type(result) for result in results] == [InsurancePool] * 2, "it is not disturbed"


def run(code: str, *arguments: str) -> None:
    """Run a program, with all warnings and without a word of complaint."""
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", code, *arguments],
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


LOOPS = """
import asyncio, gc, sys
from binance_insurance import InsuranceClient

url, close, middle = sys.argv[1:]
client = InsuranceClient(url)

async def fetch(symbol="BTCUSDT"):
    pools = await asyncio.gather(*map(client.fetch_pool, ("BTCUSDT", "ADAUSDT", "ETHUSDT")))
    assert len(pools) == 3
    if middle == "middle":
        call = asyncio.ensure_future(client.fetch_pool("BTCUSDT"))
        await asyncio.sleep(0.02)
        call.cancel()

loops = []
for _ in range(3):
    loop = asyncio.new_event_loop()  # ended without shutdown_asyncgens
    loop.slow_callback_duration = 60  # says nothing of a slow machine
    loops.append(loop)
    loop.run_until_complete(fetch())
    if close == "at once":
        loop.close()
    gc.collect()
if close == "later":
    for loop in loops:
        loop.close()
elif close == "again":
    for loop in loops:
        loop.run_until_complete(fetch())
        loop.run_until_complete(asyncio.sleep(0.01))
        loop.close()
gc.collect()

async def end():
    asyncio.get_running_loop().slow_callback_duration = 60
    await client.aclose()

asyncio.run(end())
gc.collect()
"""


@pytest.mark.parametrize("middle", ["", pytest.param("middle", marks=IN_CAMPAIGN)])
@pytest.mark.parametrize("close", ["at once", "later", "again"])
def test_loops_that_are_not_shut_down_leave_no_complaint(
    exchange: Sandbox, close: str, middle: str
) -> None:
    exchange.latency = 0.05
    run(LOOPS, exchange.url, close, middle)


@pytest.fixture
def encrypted_exchange(tmp_path: Path) -> Iterator[tuple[str, Path]]:
    """The exchange behind TLS, and the certificate that vouches for it."""
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(context)  # pyright: ignore[reportUnknownMemberType]
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    started, loop, done = threading.Event(), asyncio.new_event_loop(), asyncio.Event()
    ports: list[int] = []

    async def answer(request: web.Request) -> web.Response:
        pool = next(pool for pool in Documented().pools(0) if request.query["symbol"] in pool)
        return web.Response(body=msgspec.json.encode(pool))

    async def serve() -> None:
        app = web.Application()
        app.router.add_get("/fapi/v1/insuranceBalance", answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=context).start()
        ports.append(runner.addresses[0][1])
        started.set()
        await done.wait()
        await runner.cleanup()

    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    assert started.wait(30)
    yield f"https://127.0.0.1:{ports[0]}", tmp_path / "ca.pem"
    loop.call_soon_threadsafe(done.set)
    thread.join(30)
    loop.close()


@pytest.mark.parametrize("close", ["at once", "later"])
def test_neither_do_encrypted_connections(
    encrypted_exchange: tuple[str, Path], close: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    url, authority = encrypted_exchange
    monkeypatch.setenv("SSL_CERT_FILE", str(authority))
    run(LOOPS, url, close, "")


FORK = """
import asyncio, os, sys
from binance_insurance import InsuranceClient, LocalBudget, RetryPolicy

url, where = sys.argv[1:]

class OneForEach:  # each process has a budget of its own: this is about connections
    def __init__(self):
        self.budgets = {}
    def __getattr__(self, name):
        return getattr(self.budgets.setdefault(os.getpid(), LocalBudget()), name)
    def confirm(self, lease):
        return self.budgets[os.getpid()].confirm(lease)

client = InsuranceClient(url, budget=OneForEach(), retry=RetryPolicy(max_attempts=1))

def child(way_out):
    async def use():
        pools = await asyncio.gather(*map(client.fetch_pool, ("BTCUSDT", "ADAUSDT")))
        assert len(pools) == 2
        if way_out == "close":
            await client.aclose()
    for _ in range(2):
        asyncio.run(use())
        if way_out == "close":
            break
    if way_out == "exit":
        return True
    os._exit(0)

def fork():
    children = []
    for way_out in ("close", "leave", "exit"):
        pid = os.fork()
        if not pid:
            return child(way_out)
        children.append(pid)
    for pid in children:
        assert os.waitpid(pid, 0)[1] == 0

async def work(times):
    for _ in range(times):
        assert "BTCUSDT" in await client.fetch_pool("BTCUSDT", timeout=30)
        call = asyncio.ensure_future(client.fetch_pool("ADAUSDT", timeout=30))
        await asyncio.sleep(0)
        if where == "in the loop" and not forked:
            forked.append(True)
            if fork():
                os._exit(0)  # asyncio.run would go on with the parent's loop
        await call

forked = []
loop = asyncio.new_event_loop()
loop.slow_callback_duration = 60
loop.run_until_complete(work(3))
if where == "between runs" and fork():
    sys.exit()
loop.run_until_complete(work(20))
loop.run_until_complete(client.aclose())
loop.close()
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system does not fork")
@pytest.mark.parametrize("where", ["between runs", "in the loop"])
def test_a_forked_child_opens_connections_of_its_own(exchange: Sandbox, where: str) -> None:
    run(FORK, exchange.url, where)
