"""The clients that are compared. Each makes one request for one symbol, as its users write it.

All are given what they need to run as fast as they can: open sessions, no rate limiting of their
own (ccxt's is switched off), and no API keys.
"""

from __future__ import annotations

import asyncio
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import aiohttp
import ccxt.async_support as ccxt
import msgspec
from binance import AsyncClient
from binance_common.configuration import ConfigurationRestAPI
from binance_sdk_derivatives_trading_usds_futures import DerivativesTradingUsdsFutures

from binance_insurance import InsuranceClient, LocalBudget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable
    from contextlib import AbstractAsyncContextManager

    Fetch = Callable[[str], Awaitable[object]]
    Side = Callable[[str], AbstractAsyncContextManager[Fetch]]

AT_ONCE = 50
_UNLIMITED = 10**9
_PATH = "/fapi/v1/insuranceBalance"


def unlimited() -> LocalBudget:
    """Make a budget that never holds anything back, so that only its cost shows."""
    return LocalBudget(_UNLIMITED)


@asynccontextmanager
async def ours(url: str) -> AsyncGenerator[Fetch]:
    """Open this package's client with all that it does by default."""
    async with InsuranceClient(url, budget=unlimited()) as client:
        yield client.fetch_pool


class _Asset(msgspec.Struct):
    asset: str
    marginBalance: Decimal  # noqa: N815 - the exchange's name
    updateTime: int  # noqa: N815


class _Pool(msgspec.Struct):
    symbols: list[str]
    assets: list[_Asset]


@asynccontextmanager
async def bare(url: str) -> AsyncGenerator[Fetch]:
    """Open a tuned aiohttp session, decode with msgspec, and do nothing else at all."""
    decode = msgspec.json.Decoder(_Pool).decode
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:

        async def fetch(symbol: str) -> _Pool:
            async with session.get(f"{url}{_PATH}?symbol={symbol}") as response:
                return decode(await response.read())

        yield fetch


@asynccontextmanager
async def hand_written(url: str) -> AsyncGenerator[Fetch]:
    """Open what people write: a session, `await response.json()`, exact numbers."""
    async with aiohttp.ClientSession() as session:

        async def fetch(symbol: str) -> dict[str, Decimal]:
            async with session.get(url + _PATH, params={"symbol": symbol}) as response:
                response.raise_for_status()
                pool = await response.json()
                return {held["asset"]: Decimal(held["marginBalance"]) for held in pool["assets"]}

        yield fetch


@asynccontextmanager
async def python_binance(url: str) -> AsyncGenerator[Fetch]:
    """Open python-binance's asynchronous client."""
    client = AsyncClient()
    client.FUTURES_URL = f"{url}/fapi"

    async def fetch(symbol: str) -> object:
        # Only its blocking client has a method for this endpoint.
        return await client._request_futures_api("get", "insuranceBalance", data={"symbol": symbol})

    yield fetch
    await client.close_connection()


@asynccontextmanager
async def ccxt_async(url: str) -> AsyncGenerator[Fetch]:
    """Open ccxt's asynchronous client, its throttle off."""
    exchange = ccxt.binanceusdm({"enableRateLimit": False})
    exchange.urls["api"]["fapiPublic"] = f"{url}/fapi/v1"

    async def fetch(symbol: str) -> object:
        return await exchange.fapipublic_get_insurancebalance({"symbol": symbol})

    yield fetch
    await exchange.close()


@asynccontextmanager
async def official_sdk(url: str) -> AsyncGenerator[Fetch]:
    """Open the exchange's own SDK, which blocks, in as many threads as there are requests."""
    configuration = ConfigurationRestAPI(base_path=url, timeout=10_000)
    client = DerivativesTradingUsdsFutures(config_rest_api=configuration).rest_api
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(AT_ONCE) as threads:

        def ask(symbol: str) -> object:
            return client.query_insurance_fund_balance_snapshot(symbol=symbol).data()

        async def fetch(symbol: str) -> object:
            return await loop.run_in_executor(threads, ask, symbol)

        yield fetch


SIDES: dict[str, Side] = {
    "binance_insurance": ours,
    "bare aiohttp, tuned, msgspec": bare,
    "hand-written aiohttp": hand_written,
    "python-binance": python_binance,
    "ccxt": ccxt_async,
    "official SDK, in threads": official_sdk,
}
