"""A ban that one program meets reaches all, as an error that each of them understands.

In real time, since servers and processes are real.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from binance_insurance import IPBannedError, create_budget
from binance_insurance.middleware import BudgetAdapter, BudgetMiddleware, BudgetTransport
from binance_insurance.sandbox import Fault, Sandbox

from ..conftest import SERVERS, StartServer
from ..exchange import exchange_in_a_thread
from ..scripts import script
from .clients import ccxt_async, foreign

BAN = Fault.of_status(418, headers={"Retry-After": "300"})

FETCH = """
import asyncio, sys
from binance_insurance import InsuranceClient, InsuranceError, create_budget

async def main(url, address):
    async with create_budget(address) as budget, InsuranceClient(url, budget=budget) as client:
        try:
            await client.fetch_pool("BTCUSDT")
        except InsuranceError as error:
            print(type(error).__name__)

asyncio.run(main(*sys.argv[1:]))
"""


def causes(error: BaseException | None) -> list[type[BaseException]]:
    found: list[type[BaseException]] = []
    while error is not None:
        found.append(type(error))
        error = error.__cause__ or error.__context__
    return found


@pytest.fixture(params=["sqlite", "redis"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path / 'budget.sqlite'}"
    start: StartServer = request.getfixturevalue("redis_servers")
    return f"{start(next(iter(SERVERS))).url}?group={tmp_path.name}"


def test_a_ban_of_ccxt_reaches_a_client_in_another_process(address: str) -> None:
    asyncio.run(_a_ban_of_ccxt_reaches_a_client_in_another_process(address))


async def _a_ban_of_ccxt_reaches_a_client_in_another_process(address: str) -> None:
    async with (
        Sandbox("documented") as exchange,
        create_budget(address) as budget,
        ccxt_async(exchange.url, budget) as ccxt,
    ):
        exchange.inject(BAN, request="GET /fapi/v1/depth")
        with pytest.raises(foreign("ccxt").BaseError):
            await ccxt.fetch_order_book("BTC/USDT:USDT")
        sent = len(exchange.requests)
        said = await asyncio.to_thread(script, FETCH, exchange.url, address)
        assert said == "IPBannedError\n"
        with pytest.raises(foreign("ccxt").NetworkError) as caught:
            await ccxt.fetch_order_book("BTC/USDT:USDT")
        assert IPBannedError in causes(caught.value)
        assert len(exchange.requests) == sent


def test_a_ban_of_a_client_in_another_process_reaches_all_libraries(address: str) -> None:
    asyncio.run(_a_ban_of_a_client_in_another_process_reaches_all_libraries(address))


async def _a_ban_of_a_client_in_another_process_reaches_all_libraries(address: str) -> None:
    async with Sandbox("documented") as exchange, create_budget(address) as budget:
        url = f"{exchange.url}/fapi/v1/depth?symbol=BTCUSDT"
        async with ccxt_async(exchange.url, budget) as ccxt:
            exchange.inject(BAN)
            said = await asyncio.to_thread(script, FETCH, exchange.url, address)
            assert said == "IPBannedError\n"
            sent = len(exchange.requests)
            with pytest.raises(foreign("ccxt").NetworkError) as of_ccxt:
                await ccxt.fetch_order_book("BTC/USDT:USDT")
        paying = BudgetMiddleware(budget, base_url=exchange.url)
        async with aiohttp.ClientSession(middlewares=[paying]) as session:
            with pytest.raises(aiohttp.ClientConnectionError) as of_aiohttp:
                await session.get(url)
        httpx: Any = foreign("httpx")
        transport = BudgetTransport(budget, base_url=exchange.url)
        async with httpx.AsyncClient(transport=transport) as client:
            with pytest.raises(httpx.ConnectError) as of_httpx:
                await client.get(url)
        requests: Any = foreign("requests")

        def ask() -> BaseException:
            with requests.Session() as session:
                session.mount(exchange.url, BudgetAdapter(budget.blocking()))
                with pytest.raises(requests.ConnectionError) as caught:
                    session.get(url)
            error: BaseException = caught.value
            return error

        of_requests = await asyncio.to_thread(ask)
        for error in (of_ccxt.value, of_aiohttp.value, of_httpx.value, of_requests):
            assert IPBannedError in causes(error)
        assert len(exchange.requests) == sent


def test_after_a_ban_nothing_leaves_of_30_callers_that_wait_for_two_connections() -> None:
    asyncio.run(_after_a_ban_nothing_leaves_of_30_callers_that_wait_for_two_connections())


async def _after_a_ban_nothing_leaves_of_30_callers_that_wait_for_two_connections() -> None:
    with exchange_in_a_thread() as exchange:
        url = f"{exchange.url}/fapi/v1/depth?symbol=BTCUSDT"
        exchange.latency = 0.05
        async with create_budget("memory://") as budget:
            paying = BudgetMiddleware(budget, base_url=exchange.url)
            connector = aiohttp.TCPConnector(limit=2)
            async with aiohttp.ClientSession(middlewares=[paying], connector=connector) as session:
                await (await session.get(url)).read()
                exchange.inject(BAN, request="GET /fapi/v1/depth")
                asked = [session.get(url) for _ in range(30)]
                answers = await asyncio.gather(*asked, return_exceptions=True)
        refused = [each for each in answers if isinstance(each, aiohttp.ClientConnectionError)]
        assert len(refused) >= 28
        assert all(isinstance(each.__cause__, IPBannedError) for each in refused)
        assert len(exchange.requests) <= 1 + 2, "one was on the wire beside the refused one"
