"""`examples/gateway.py`: a program that knows only its base URL spends from the budget."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager
from importlib.util import module_from_spec, spec_from_file_location
from statistics import median
from typing import cast

import aiohttp
import pytest
from aiohttp import web

from benchmarks.processes import running
from binance_insurance import Budget, InsuranceClient, LocalBudget, Runtime
from binance_insurance.sandbox import Fault, Sandbox

from . import ROOT
from .conftest import wall_time
from .exchange import exchange_in_a_thread

GATEWAY = ROOT / "examples" / "gateway.py"
DEPTH, DEPTH_PATH = "GET /fapi/v1/depth", "/fapi/v1/depth?symbol=BTCUSDT&limit=5"
LIMIT, INTERVAL = 2400, 2

MakeApp = Callable[[Budget, str], web.Application]


@pytest.fixture(scope="module")
def make_app() -> MakeApp:
    spec = spec_from_file_location("gateway", GATEWAY)
    assert spec is not None
    assert spec.loader is not None
    gateway = module_from_spec(spec)
    spec.loader.exec_module(gateway)
    return cast("MakeApp", gateway.make_app)


@asynccontextmanager
async def program(app: web.Application) -> AsyncGenerator[aiohttp.ClientSession]:
    """Start the gateway, and open what a program that knows nothing of it would."""
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        async with aiohttp.ClientSession(f"http://127.0.0.1:{runner.addresses[0][1]}") as session:
            yield session
    finally:
        await runner.cleanup()


def used(exchange: Sandbox) -> list[int]:
    """What each full window was charged."""
    windows: dict[int, int] = {}
    for seen in exchange.requests:
        number = int(seen.at // INTERVAL)
        windows[number] = windows.get(number, 0) + seen.weight
    return [windows[number] for number in sorted(windows)][1:-1]


async def test_a_program_that_knows_only_its_base_url_shares_the_limit(
    make_app: MakeApp, runtime: Runtime
) -> None:
    answers = {"program": 0, "client": 0}
    loop = asyncio.get_running_loop()
    end = loop.time() + 4.5 * INTERVAL

    async def again(name: str, ask: Callable[[], object]) -> None:
        while loop.time() < end:
            await cast("asyncio.Future[object]", ask())
            answers[name] += 1

    async with (
        Sandbox(
            "market", limit=LIMIT, interval=INTERVAL, latency=0.02, clock=wall_time
        ) as exchange,
        LocalBudget(LIMIT, interval=INTERVAL, reserve=0, runtime=runtime) as budget,
        InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client,
        program(make_app(budget, exchange.url)) as session,
    ):

        async def depth() -> None:
            async with session.get("/fapi/v1/depth?symbol=BTCUSDT") as response:
                assert response.status == 200
                assert (await response.json())["bids"]

        async with asyncio.TaskGroup() as busy:
            for _ in range(8):
                busy.create_task(again("program", depth))
                busy.create_task(again("client", lambda: client.fetch_pool("BTCUSDT")))
    assert set(exchange.accounting.verdicts) == {200}
    assert median(used(exchange)) >= 0.95 * LIMIT, used(exchange)
    assert min(answers.values()) > 30


async def test_only_public_reads_pass(
    exchange: Sandbox, make_app: MakeApp, runtime: Runtime
) -> None:
    app = make_app(LocalBudget(runtime=runtime), exchange.url)
    async with program(app) as session:
        key = {"x-mbx-apikey": "secret"}
        assert (await session.get(DEPTH_PATH, headers=key)).status == 403
        assert (await session.get(f"{DEPTH_PATH}&signature=1")).status == 403
        assert (await session.get(f"{DEPTH_PATH}&%73ignature=1")).status == 403
        assert (await session.post("/fapi/v1/order")).status == 405
        assert (await session.delete("/fapi/v1/order")).status == 405
    assert exchange.requests == ()


async def test_it_is_no_proxy_for_other_hosts(exchange: Sandbox, make_app: MakeApp) -> None:
    async with program(make_app(LocalBudget(), exchange.url)) as session:
        gateway = (await session.get("/fapi/v1/ping")).url.origin()
        assert (await session.get("http://localhost/ping", proxy=gateway)).status == 403


async def test_answers_pass_as_they_are(
    exchange: Sandbox, make_app: MakeApp, runtime: Runtime
) -> None:
    async with program(make_app(LocalBudget(runtime=runtime), exchange.url)) as session:
        good = await session.get(DEPTH_PATH)
        assert (good.status, good.headers["X-MBX-USED-WEIGHT-1M"]) == (200, "2")
        assert good.content_type == "application/json"
        unknown = await session.get("/fapi/v1/depth?symbol=NONE")
        assert (unknown.status, (await unknown.json())["code"]) == (400, -1121)


async def test_a_ban_reaches_the_program(
    exchange: Sandbox, make_app: MakeApp, runtime: Runtime
) -> None:
    exchange.inject(Fault.of_status(418, b"{}", {"Retry-After": "120"}), request=DEPTH)
    async with program(make_app(LocalBudget(runtime=runtime), exchange.url)) as session:
        for _ in range(2):  # the second one does not leave
            banned = await session.get(DEPTH_PATH)
            assert banned.status == 418
            assert 120 <= int(banned.headers["Retry-After"]) <= 121
    assert len(exchange.requests) == 1


async def test_weight_that_never_comes_and_an_exchange_that_is_not_there_have_a_status(
    make_app: MakeApp, unused_tcp_port: int
) -> None:
    gone = make_app(LocalBudget(), f"http://127.0.0.1:{unused_tcp_port}")
    async with program(gone) as session:
        assert (await session.get(DEPTH_PATH)).status == 502
    small = make_app(LocalBudget(1, reserve=0), f"http://127.0.0.1:{unused_tcp_port}")
    async with program(small) as session:
        assert (await session.get(DEPTH_PATH)).status == 503


def test_it_runs_as_a_program_and_is_short() -> None:
    assert len(GATEWAY.read_text("utf-8").splitlines()) <= 80
    with exchange_in_a_thread() as exchange:
        command = [sys.executable, str(GATEWAY), "--base-url", exchange.url, "--port", "0"]
        with running(command) as process:
            assert process.stdout is not None
            url = process.stdout.readline().strip()

            async def ask() -> int:
                async with aiohttp.ClientSession() as session:
                    return (await session.get(url + DEPTH_PATH)).status

            assert url.startswith("http://127.0.0.1:")
            assert asyncio.run(ask()) == 200
        assert [seen.weight for seen in exchange.requests] == [2]
