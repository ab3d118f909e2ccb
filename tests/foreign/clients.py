"""Other programs' clients, pointed at a local exchange, and the calls that keep each busy.

`python -P tests/foreign/clients.py URL BUDGET LIMIT INTERVAL NAME` keeps the three asyncio clients
busy on one budget until standard input is closed, and then prints what came of it as JSON.
"""

from __future__ import annotations

import asyncio
import sys
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from importlib import import_module
from itertools import cycle
from typing import Any, TypeVar

import aiohttp
import msgspec

from binance_insurance import InsuranceClient, LocalBudget
from binance_insurance.budget import create_budget
from binance_insurance.middleware import BudgetAdapter, BudgetMiddleware, BudgetTransport

# What the clients wait for: an answer, however long the wait for weight before it.
TIMEOUT = 60
CALLERS = 4

Call = Callable[[], Awaitable[object]]
BlockingCall = Callable[[], object]
T = TypeVar("T")


def foreign(name: str) -> Any:
    """Import another program's library, which may use what is deprecated."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return import_module(name)


def symbols(name: str) -> list[str]:
    """Name the symbols that the callers of one process ask for."""
    return [f"{name}{number}USDT" for number in range(CALLERS)]


def middlewares(url: str, budget: Any) -> tuple[Any, ...]:
    """Return what makes an aiohttp session pay; nothing where there is no budget."""
    if budget is None:
        return ()
    return (BudgetMiddleware(budget, base_url=url),)


def mount(session: Any, url: str, blocking: Any) -> None:
    """Make a requests session pay, where there is a budget."""
    if blocking is not None:
        session.mount(url, BudgetAdapter(blocking))


# --- asyncio ---


def _point(exchange: Any, url: str) -> None:
    """Point ccxt at an exchange: the URLs of USDⓈ-M futures, and no other."""
    urls: dict[str, str] = exchange.urls["api"]
    for name in [each for each in urls if each.startswith("fapi")]:
        urls[name] = urls[name].replace("https://fapi.binance.com", url)


def _ccxt_calls(exchange: Any, symbol: str) -> list[Callable[[], Any]]:
    return [
        partial(exchange.fetch_order_book, symbol),
        partial(exchange.fetch_ohlcv, symbol),
        partial(exchange.fetch_ticker, symbol),
        partial(exchange.fetch_funding_rate_history, symbol),
        partial(exchange.fetch_trades, symbol),
        partial(exchange.fetch_bids_asks, [symbol]),
    ]


# ccxt without its own throttle, which would leave it half the limit.
_CCXT = {"enableRateLimit": False, "timeout": TIMEOUT * 1000}


@asynccontextmanager
async def ccxt_async(
    url: str, budget: Any = None, keys: Mapping[str, str] | None = None
) -> AsyncGenerator[Any]:
    """Open ccxt with a session that pays."""
    # Only with keys: `fetchCurrencies` asks another host.
    options = {"options": {"fetchCurrencies": False}, **keys} if keys else {}
    exchange = foreign("ccxt.async_support").binanceusdm({**_CCXT, **options})
    _point(exchange, url)
    exchange.session = aiohttp.ClientSession(middlewares=middlewares(url, budget))
    try:
        await exchange.load_markets()
        yield exchange
    finally:
        await exchange.close()  # and its session


@asynccontextmanager
async def python_binance(
    url: str, budget: Any = None, keys: Sequence[str] = ()
) -> AsyncGenerator[Any]:
    """Open python-binance with a session that pays."""
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    # Not `AsyncClient.create`, which asks the spot host first.
    client = foreign("binance").AsyncClient(
        *keys,
        requests_params={"timeout": timeout},
        session_params={"middlewares": middlewares(url, budget)},
    )
    client.FUTURES_URL, client.FUTURES_DATA_URL = f"{url}/fapi", f"{url}/futures/data"
    try:
        yield client
    finally:
        await client.close_connection()


def _python_binance_calls(client: Any, symbol: str) -> list[Call]:
    return [
        partial(client.futures_order_book, symbol=symbol, limit=100),
        partial(client.futures_klines, symbol=symbol, interval="1h"),
        partial(client.futures_symbol_ticker, symbol=symbol),
        partial(client.futures_recent_trades, symbol=symbol),
        partial(client.futures_ticker),
    ]


@asynccontextmanager
async def three_clients(
    url: str, name: str, budget: Any = None, *, limit: int, interval: int
) -> AsyncGenerator[dict[str, list[Sequence[Call]]]]:
    """Open all three, and say what each of their callers asks for, again and again.

    Without a budget each believes only itself; ours has one, of which the others know nothing.
    """
    own = LocalBudget(limit, interval=interval, reserve=0)
    async with (
        own,
        ccxt_async(url, budget) as ccxt,
        python_binance(url, budget) as other,
        InsuranceClient(url, budget=own if budget is None else budget) as ours,
    ):
        listed = symbols(name)
        yield {
            "ccxt": [_ccxt_calls(ccxt, f"{each[:-4]}/USDT:USDT") for each in listed],
            "python-binance": [_python_binance_calls(other, each) for each in listed],
            "InsuranceClient": [[partial(ours.fetch_pool, each)] for each in listed],
        }


def gets(get: Callable[[str], T], url: str, symbol: str) -> list[Callable[[], T]]:
    """Say what hand-written code asks for."""
    paths = (
        f"/fapi/v1/depth?symbol={symbol}",
        f"/fapi/v1/klines?symbol={symbol}&interval=1h&limit=1000",
        f"/fapi/v1/ticker/24hr?symbol={symbol}",
        f"/fapi/v1/ticker/bookTicker?symbol={symbol}",
        f"/fapi/v1/fundingRate?symbol={symbol}",
        "/fapi/v1/premiumIndex",
    )
    return [partial(get, url + path) for path in paths]


@asynccontextmanager
async def plain_aiohttp(url: str, budget: Any) -> AsyncGenerator[list[Sequence[Call]]]:
    """Open a session that pays, as people write it."""
    timeout = aiohttp.ClientTimeout(TIMEOUT)
    async with aiohttp.ClientSession(
        middlewares=middlewares(url, budget), timeout=timeout
    ) as session:

        async def get(address: str) -> object:
            async with session.get(address) as response:
                response.raise_for_status()
                return await response.json()

        yield [gets(get, url, each) for each in symbols("A")]


@asynccontextmanager
async def plain_httpx(url: str, budget: Any) -> AsyncGenerator[list[Sequence[Call]]]:
    """Open an `httpx.AsyncClient` that pays."""
    httpx = foreign("httpx")
    transport = None
    if budget is not None:
        transport = BudgetTransport(budget, base_url=url)
    async with httpx.AsyncClient(transport=transport, timeout=TIMEOUT) as client:

        async def get(address: str) -> object:
            response = await client.get(address)
            response.raise_for_status()
            return response.json()

        yield [gets(get, url, each) for each in symbols("A")]


# --- threads ---


@contextmanager
def ccxt_sync(url: str, blocking: Any = None) -> Generator[list[BlockingCall]]:
    """Open ccxt with a requests session that pays."""
    exchange = foreign("ccxt").binanceusdm(_CCXT)
    _point(exchange, url)
    mount(exchange.session, url, blocking)
    with exchange.session:
        exchange.load_markets()
        yield _ccxt_calls(exchange, "A0/USDT:USDT")


@contextmanager
def sdk(url: str, blocking: Any = None) -> Generator[list[BlockingCall]]:
    """Open the exchange's own SDK with a requests session that pays."""
    module = foreign("binance_sdk_derivatives_trading_usds_futures")
    configuration = foreign("binance_common.configuration").ConfigurationRestAPI(
        base_path=url, timeout=TIMEOUT * 1000, retries=0
    )
    api = foreign(f"{module.__name__}.rest_api").DerivativesTradingUsdsFuturesRestAPI(configuration)
    session = api._session
    mount(session, url, blocking)

    def read(method: Any, **parameters: Any) -> object:
        return method(**parameters).data()

    with session:
        yield [
            partial(read, api.order_book, symbol="A1USDT"),
            partial(read, api.ticker24hr_price_change_statistics, symbol="A1USDT"),
            partial(read, api.kline_candlestick_data, symbol="A1USDT", interval="1h"),
            partial(read, api.symbol_order_book_ticker, symbol="A1USDT"),
            partial(read, api.recent_trades_list, symbol="A1USDT"),
        ]


@contextmanager
def plain_requests(url: str, blocking: Any = None) -> Generator[list[BlockingCall]]:
    """Open a requests session that pays, as people write it."""
    with foreign("requests").Session() as session:
        mount(session, url, blocking)

        def get(address: str) -> object:
            response = session.get(address, timeout=TIMEOUT)
            response.raise_for_status()
            return response.json()

        yield gets(get, url, "A2USDT")


# --- Always busy ---


class Tally(msgspec.Struct):
    """Answers by client, and the calls that failed."""

    answers: dict[str, int] = msgspec.field(default_factory=dict[str, int])
    failures: list[str] = msgspec.field(default_factory=list[str])

    def answered(self, name: str) -> None:
        """Add an answer."""
        self.answers[name] = self.answers.get(name, 0) + 1

    def failed(self, name: str, error: Exception) -> None:
        """Add a failed call."""
        self.failures.append(f"{name}: {type(error).__name__}: {error}"[:200])


async def ask(name: str, calls: Sequence[Call], tally: Tally) -> None:
    """Make one call after another, again and again; one that fails is not the last."""
    for call in cycle(calls):
        try:
            await call()
        except Exception as error:
            tally.failed(name, error)
            await asyncio.sleep(0)  # a call may fail without ever waiting
        else:
            tally.answered(name)


@asynccontextmanager
async def busy(clients: Mapping[str, Sequence[Sequence[Call]]]) -> AsyncGenerator[Tally]:
    """Keep every caller of every client busy."""
    tally = Tally()
    asking = [
        asyncio.create_task(ask(name, calls, tally))
        for name, callers in clients.items()
        for calls in callers
    ]
    try:
        yield tally
    finally:
        for task in asking:
            task.cancel()
        await asyncio.wait(asking)


async def run(url: str, address: str, limit: int, interval: int, name: str) -> None:
    """Keep the three asyncio clients of one process busy."""
    async with AsyncExitStack() as stack:
        budget = create_budget(address, limit, interval=interval, reserve=0)
        await stack.enter_async_context(budget)
        clients = await stack.enter_async_context(
            three_clients(url, name, budget, limit=limit, interval=interval)
        )
        async with busy(clients) as tally:
            print("ready", flush=True)
            await asyncio.to_thread(sys.stdin.read)
    print(msgspec.json.encode(tally).decode())


if __name__ == "__main__":
    asyncio.run(run(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]), sys.argv[5]))
