"""The sandbox answers what clients of the exchange ask for, and counts what each request weighs."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from importlib.resources import files
from typing import Any, Literal

import aiohttp
import pytest

from binance_insurance.sandbox import Fault, Market, Sandbox

from .conftest import wall_time

USED_WEIGHT = "X-MBX-USED-WEIGHT-1M"
BTC = "symbol=BTCUSDT"
ORDER = f"/fapi/v1/order?{BTC}&side=SELL&type=LIMIT&quantity=2&price=3"


@pytest.fixture
async def exchange() -> AsyncIterator[Sandbox]:
    """A local exchange in virtual time."""
    async with Sandbox(clock=wall_time) as sandbox:
        yield sandbox


@pytest.fixture
async def session(exchange: Sandbox) -> AsyncIterator[aiohttp.ClientSession]:
    """A session whose URLs begin at the exchange."""
    async with aiohttp.ClientSession(exchange.url) as session:
        yield session


@pytest.mark.parametrize(
    ("request_", "weight"),
    [
        ("GET /fapi/v1/ping", 1),
        ("GET /fapi/v1/time", 1),
        ("GET /fapi/v1/exchangeInfo", 1),
        (f"GET /fapi/v1/depth?{BTC}", 10),
        (f"GET /fapi/v1/depth?{BTC}&limit=5", 2),
        (f"GET /fapi/v1/depth?{BTC}&limit=50", 2),
        (f"GET /fapi/v1/depth?{BTC}&limit=100", 5),
        (f"GET /fapi/v1/depth?{BTC}&limit=500", 10),
        (f"GET /fapi/v1/depth?{BTC}&limit=1000", 20),
        (f"GET /fapi/v1/depth?{BTC}&limit=many", 20),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h", 5),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h&limit=99", 1),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h&limit=100", 2),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h&limit=499", 2),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h&limit=1000", 5),
        (f"GET /fapi/v1/klines?{BTC}&interval=1h&limit=1500", 10),
        (f"GET /fapi/v1/markPriceKlines?{BTC}&interval=1h", 5),
        (f"GET /fapi/v1/trades?{BTC}", 5),
        (f"GET /fapi/v1/aggTrades?{BTC}", 20),
        (f"GET /fapi/v1/ticker/24hr?{BTC}", 1),
        ("GET /fapi/v1/ticker/24hr", 40),
        (f"GET /fapi/v1/ticker/price?{BTC}", 1),
        ("GET /fapi/v1/ticker/price", 2),
        (f"GET /fapi/v2/ticker/price?{BTC}", 1),
        ("GET /fapi/v2/ticker/price", 2),
        (f"GET /fapi/v1/ticker/bookTicker?{BTC}", 2),
        ("GET /fapi/v1/ticker/bookTicker", 5),
        (f"GET /fapi/v1/premiumIndex?{BTC}", 1),
        ("GET /fapi/v1/premiumIndex", 10),
        (f"GET /fapi/v1/openInterest?{BTC}", 1),
        (f"GET /fapi/v1/fundingRate?{BTC}", 0),
        ("GET /fapi/v1/fundingInfo", 0),
        (f"GET /futures/data/openInterestHist?{BTC}&period=1h", 0),
        (f"POST {ORDER}", 0),
        (f"PUT {ORDER}&orderId=7", 0),
        (f"GET /fapi/v1/order?{BTC}&orderId=7", 1),
        (f"DELETE /fapi/v1/order?{BTC}&orderId=7", 1),
        (f"DELETE /fapi/v1/allOpenOrders?{BTC}", 1),
        (f"GET /fapi/v1/openOrders?{BTC}", 1),
        ("GET /fapi/v1/openOrders", 40),
    ],
)
async def test_a_request_weighs_what_the_exchange_documents(
    session: aiohttp.ClientSession, exchange: Sandbox, request_: str, weight: int
) -> None:
    method, path = request_.split()
    async with session.request(method, path) as answer:
        assert answer.status == 200
        assert await answer.json() is not None
    (seen,) = exchange.requests
    assert (seen.method, seen.weight, seen.used_weight) == (method, weight, weight)
    assert exchange.accounting.used_weight(exchange.now) == weight


@pytest.mark.parametrize(
    ("request_", "reported"),
    [
        (f"GET /fapi/v1/depth?{BTC}", "110"),
        (f"GET /fapi/v1/ticker/bookTicker?{BTC}", "599"),
        (f"GET /fapi/v2/ticker/price?{BTC}", "599"),
        (f"GET /fapi/v1/trades?{BTC}", "-1"),
        (f"POST {ORDER}", "-1"),
        (f"DELETE /fapi/v1/order?{BTC}&orderId=7", "-1"),
        ("GET /fapi/v1/fundingRate", None),
        (f"GET /futures/data/openInterestHist?{BTC}", None),
    ],
)
async def test_an_answer_reports_the_used_weight_as_oddly_as_the_exchange(
    session: aiohttp.ClientSession, exchange: Sandbox, request_: str, reported: str | None
) -> None:
    exchange.spend_elsewhere(100)
    exchange.inaccurate_used_weight = 599
    async with session.request(*request_.split()) as answer:
        assert answer.headers.get(USED_WEIGHT) == reported


@pytest.mark.parametrize(("setting", "reported"), [("minus-one", "-1"), ("missing", None)])
async def test_the_setting_of_the_header_holds_for_every_endpoint(
    session: aiohttp.ClientSession,
    exchange: Sandbox,
    setting: Literal["minus-one", "missing"],
    reported: str | None,
) -> None:
    exchange.used_weight_header = setting
    for path in ("/fapi/v1/ping", "/fapi/v1/ticker/bookTicker", f"/fapi/v1/trades?{BTC}"):
        async with session.get(path) as answer:
            assert answer.headers.get(USED_WEIGHT) == reported


@pytest.mark.parametrize(
    ("path", "code"),
    [
        ("/fapi/v1/depth?symbol=NOSUCHUSDT", -1121),
        ("/fapi/v1/ticker/24hr?symbol=NOSUCHUSDT", -1121),
        ("/fapi/v1/depth", -1102),
        ("/fapi/v1/depth?symbol=", -1102),
    ],
)
async def test_a_refused_symbol_costs_its_weight(
    session: aiohttp.ClientSession, exchange: Sandbox, path: str, code: int
) -> None:
    async with session.get(path) as answer:
        assert answer.status == 400
        assert (await answer.json())["code"] == code
    (seen,) = exchange.requests
    assert seen.weight == exchange.accounting.used_weight(exchange.now) > 0


async def test_symbols_are_taken_in_either_case(session: aiohttp.ClientSession) -> None:
    async with session.get("/fapi/v1/ticker/price?symbol=btcusdt") as answer:
        assert (await answer.json())["symbol"] == "BTCUSDT"


async def test_an_order_is_read_from_the_form_too(session: aiohttp.ClientSession) -> None:
    given = {"symbol": "ETHUSDT", "side": "SELL", "quantity": "2", "newClientOrderId": "mine"}
    async with session.post("/fapi/v1/order", data=given) as answer:
        placed = await answer.json()
    assert (placed["symbol"], placed["side"], placed["origQty"]) == ("ETHUSDT", "SELL", "2")
    assert (placed["clientOrderId"], placed["status"]) == ("mine", "NEW")
    parameters = {"symbol": "ETHUSDT", "orderId": str(placed["orderId"])}
    async with session.delete("/fapi/v1/order", params=parameters) as answer:
        cancelled = await answer.json()
    assert (cancelled["orderId"], cancelled["status"]) == (placed["orderId"], "CANCELED")


async def test_orders_are_refused_like_everything_else(
    session: aiohttp.ClientSession, exchange: Sandbox
) -> None:
    exchange.spend_elsewhere(2401)
    async with session.post(ORDER) as answer:
        assert answer.status == 429
        assert (await answer.json())["code"] == -1003
    exchange.accounting.banned_until = exchange.now + 60
    async with session.post(ORDER) as answer:
        assert answer.status == 418


async def test_a_fault_is_for_the_requests_that_it_names(
    session: aiohttp.ClientSession, exchange: Sandbox
) -> None:
    exchange.inject(Fault.order_limit(), request="POST /fapi/v1/order")
    async with session.delete(f"/fapi/v1/order?{BTC}") as answer:
        assert answer.status == 200
    async with session.post(ORDER) as answer:
        assert answer.status == 429
        assert (await answer.json())["code"] == -1015
        assert "Retry-After" not in answer.headers
        assert answer.headers[USED_WEIGHT] == "-1"
    async with session.post(ORDER) as answer:
        assert answer.status == 200
    assert [seen.verdict for seen in exchange.requests] == [200] * 3, "no weight was refused"


@pytest.mark.parametrize("name", ["GET /fapi/v1/new", "POST /fapi/v9/new"])
async def test_an_unknown_path_counts_only_where_it_is_given_a_weight(
    session: aiohttp.ClientSession, exchange: Sandbox, name: str
) -> None:
    method, path = name.split()
    async with session.request(method, path) as answer:
        assert answer.status == 404
    assert exchange.requests == ()
    exchange.weights[name] = 7
    async with session.request(method, path) as answer:
        assert (answer.status, await answer.json()) == (200, {})
        assert answer.headers[USED_WEIGHT] == "7"


async def test_a_weight_may_have_changed_without_notice(session: aiohttp.ClientSession) -> None:
    async with (
        Sandbox(weights={"GET /fapi/v1/depth": 33}, clock=wall_time) as exchange,
        session.get(f"{exchange.url}/fapi/v1/depth?{BTC}") as answer,
    ):
        assert answer.headers[USED_WEIGHT] == "33"


async def test_every_listed_symbol_is_a_contract(session: aiohttp.ClientSession) -> None:
    async with (
        Sandbox(Market(), clock=wall_time) as exchange,
        session.get(f"{exchange.url}/fapi/v1/exchangeInfo") as answer,
    ):
        listed: list[dict[str, Any]] = (await answer.json())["symbols"]
    named = {
        each["symbol"]: (each["baseAsset"], each["quoteAsset"], each["contractType"])
        for each in listed
    }
    assert named["BTCUSDC"] == ("BTC", "USDC", "PERPETUAL")
    assert named["币安人生USDT"] == ("币安人生", "USDT", "PERPETUAL")
    assert named["ETHUSDT_261225"] == ("ETH", "USDT", "CURRENT_QUARTER")
    assert named["ETHBTC"] == ("ETH", "BTC", "PERPETUAL")
    delivered = {each["symbol"]: each["deliveryDate"] for each in listed}
    assert delivered["ETHUSDT_261225"] == 1_798_185_600_000  # 2026-12-25 08:00 UTC


async def test_an_answer_for_pools_has_what_the_exchange_documents_and_no_more(
    session: aiohttp.ClientSession,
) -> None:
    documented = files("binance_insurance.sandbox") / "documented"
    one, several = (
        json.loads((documented / name).read_bytes()) for name in ("pool.json", "pools.json")
    )
    assert await content(session, f"/fapi/v1/insuranceBalance?{BTC}") == one
    assert await content(session, "/fapi/v1/insuranceBalance") == [one, *several]


async def content(session: aiohttp.ClientSession, path: str) -> object:
    async with session.get(path) as answer:
        return await answer.json()
