"""The clients that are compared, each in a process of its own, so that none disturbs another.

All are given what they need to run as fast as they can: open sessions, no rate limiting of their
own (ccxt's is switched off), and no API keys. Run as
`python -m benchmarks.sides SIDE URL SYMBOL...`: for each number that it reads, it asks for the next
so many of the symbols and prints two figures: the seconds, and the seconds of CPU time, of all its
threads and of the kernel on its behalf. It ends when its input does.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import TYPE_CHECKING

import aiohttp
import msgspec

from binance_insurance import InsuranceClient, LocalBudget

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
    from contextlib import AbstractAsyncContextManager

    Ask = Callable[[Sequence[str]], Awaitable[object]]
    Side = Callable[[str], AbstractAsyncContextManager[Ask]]

AT_ONCE = 50
_UNLIMITED = 10**9
_PATH = "/fapi/v1/insuranceBalance"


def unlimited() -> LocalBudget:
    """Make a budget that never holds anything back, so that only its cost shows."""
    return LocalBudget(_UNLIMITED)


def one_by_one(fetch: Callable[[str], Awaitable[object]]) -> Ask:
    """Ask for each symbol by itself, so many at a time."""

    async def work(left: Iterable[str]) -> None:
        for symbol in left:
            await fetch(symbol)

    async def ask(symbols: Sequence[str]) -> None:
        left = iter(symbols)
        await asyncio.gather(*(work(left) for _ in range(AT_ONCE)))

    return ask


@asynccontextmanager
async def fetch_pool(url: str) -> AsyncGenerator[Ask]:
    """Open this package's client with all that it does by default."""
    async with InsuranceClient(url, budget=unlimited()) as client:
        yield one_by_one(client.fetch_pool)


@asynccontextmanager
async def fetch_pools_again(url: str) -> AsyncGenerator[Ask]:
    """Open it to ask for many symbols at once."""
    async with InsuranceClient(url, budget=unlimited()) as client:
        yield client.fetch_pools


@asynccontextmanager
async def fetch_pools_cold(url: str) -> AsyncGenerator[Ask]:
    """Open it once more for each batch."""

    async def ask(symbols: Sequence[str]) -> None:
        async with InsuranceClient(url, budget=unlimited()) as client:
            await client.fetch_pools(symbols)

    yield ask


class _Asset(msgspec.Struct):
    asset: str
    marginBalance: Decimal  # noqa: N815 - the exchange's name
    updateTime: int  # noqa: N815


class _Pool(msgspec.Struct):
    symbols: list[str]
    assets: list[_Asset]


@asynccontextmanager
async def bare(url: str) -> AsyncGenerator[Ask]:
    """Open a tuned aiohttp session, decode with msgspec, and do nothing else at all."""
    decode = msgspec.json.Decoder(_Pool).decode
    connector = aiohttp.TCPConnector(limit=AT_ONCE)
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(connector=connector, cookie_jar=jar) as session:

        async def fetch(symbol: str) -> _Pool:
            async with session.get(f"{url}{_PATH}?symbol={symbol}") as response:
                return decode(await response.read())

        yield one_by_one(fetch)


def hand_written_on(session: aiohttp.ClientSession, url: str) -> Ask:
    """Ask as people write it: `await response.json()`, exact numbers."""

    async def fetch(symbol: str) -> dict[str, Decimal]:
        async with session.get(url + _PATH, params={"symbol": symbol}) as response:
            response.raise_for_status()
            pool = await response.json()
            return {held["asset"]: Decimal(held["marginBalance"]) for held in pool["assets"]}

    return one_by_one(fetch)


@asynccontextmanager
async def hand_written(url: str) -> AsyncGenerator[Ask]:
    """Open a session as people do."""
    async with aiohttp.ClientSession() as session:
        yield hand_written_on(session, url)


@asynccontextmanager
async def python_binance(url: str) -> AsyncGenerator[Ask]:
    """Open python-binance's asynchronous client."""
    from binance import AsyncClient

    client = AsyncClient()
    client.FUTURES_URL = f"{url}/fapi"

    async def fetch(symbol: str) -> object:
        # Only its blocking client has a method for this endpoint.
        return await client._request_futures_api("get", "insuranceBalance", data={"symbol": symbol})

    yield one_by_one(fetch)
    await client.close_connection()


@asynccontextmanager
async def ccxt_async(url: str) -> AsyncGenerator[Ask]:
    """Open ccxt's asynchronous client, its throttle off."""
    import ccxt.async_support as ccxt

    exchange = ccxt.binanceusdm({"enableRateLimit": False})
    exchange.urls["api"]["fapiPublic"] = f"{url}/fapi/v1"

    async def fetch(symbol: str) -> object:
        return await exchange.fapipublic_get_insurancebalance({"symbol": symbol})

    yield one_by_one(fetch)
    await exchange.close()


@asynccontextmanager
async def official_sdk(url: str) -> AsyncGenerator[Ask]:
    """Open the exchange's own SDK, which blocks, in as many threads as there are requests."""
    from binance_common.configuration import ConfigurationRestAPI
    from binance_sdk_derivatives_trading_usds_futures import DerivativesTradingUsdsFutures

    configuration = ConfigurationRestAPI(base_path=url, timeout=10_000)
    client = DerivativesTradingUsdsFutures(config_rest_api=configuration).rest_api
    loop = asyncio.get_running_loop()
    with ThreadPoolExecutor(AT_ONCE) as threads:

        def ask(symbol: str) -> object:
            return client.query_insurance_fund_balance_snapshot(symbol=symbol).data()

        async def fetch(symbol: str) -> object:
            return await loop.run_in_executor(threads, ask, symbol)

        yield one_by_one(fetch)


SIDES: dict[str, Side] = {
    "fetch_pool": fetch_pool,
    "fetch_pools, new client": fetch_pools_cold,
    "fetch_pools, again": fetch_pools_again,
    "bare aiohttp, tuned, msgspec": bare,
    "hand-written aiohttp": hand_written,
    "python-binance": python_binance,
    "ccxt": ccxt_async,
    "official SDK, in threads": official_sdk,
}


async def serve(side: str, url: str, symbols: Sequence[str]) -> None:
    """Take the numbers and print the seconds."""
    endless = itertools.cycle(symbols)
    async with SIDES[side](url) as ask:
        for line in sys.stdin:
            asked = list(itertools.islice(endless, int(line)))
            gc.collect()
            start, cpu = time.perf_counter(), time.process_time()
            await ask(asked)
            print(time.perf_counter() - start, time.process_time() - cpu, flush=True)


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], sys.argv[2], sys.argv[3:]))
