"""The smallest bodies that clients of the exchange can read. Pure.

Every price is 100 and every quantity 1: the sandbox shows what requests cost, not a market.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence  # noqa: TC003 - msgspec reads them at run time
from datetime import UTC, datetime

from msgspec import Struct

_PRICE, _QUANTITY = "100.00", "1.000"
_QUOTES = ("USDT", "USDC", "BTC")
_HOUR = 3_600_000
_NEVER = 4_133_404_800_000  # the delivery date of a contract that has none

Body = dict[str, object]


class Asked(Struct, frozen=True):
    """What a body depends on.

    Attributes:
        parameters: those of the query and of the form, as they were sent.
        symbols: the symbol that was asked for, in capitals, or every listed one.
        one: whether a symbol was asked for.
        now: the exchange's clock in milliseconds since 1970.
        limits: the rate limits of the exchange.
    """

    parameters: Mapping[str, str]
    symbols: Sequence[str]
    one: bool
    now: int
    limits: Sequence[Body]


def server_time(asked: Asked) -> object:
    return {"serverTime": asked.now}


def exchange_info(asked: Asked) -> object:
    return {
        "timezone": "UTC",
        "serverTime": asked.now,
        "rateLimits": asked.limits,
        "exchangeFilters": [],
        "assets": [{"asset": quote, "marginAvailable": True} for quote in _QUOTES],
        "symbols": [_contract(symbol) for symbol in asked.symbols],
    }


def _contract(symbol: str) -> Body:
    pair, _, day = symbol.partition("_")
    quote = next((each for each in _QUOTES if pair.endswith(each)), pair[-4:])
    return {
        "symbol": symbol,
        "pair": pair,
        "contractType": "CURRENT_QUARTER" if day else "PERPETUAL",
        "deliveryDate": _delivery(day) if day else _NEVER,
        "onboardDate": 0,
        "status": "TRADING",
        "baseAsset": pair.removesuffix(quote),
        "quoteAsset": quote,
        "marginAsset": quote,
        "pricePrecision": 2,
        "quantityPrecision": 3,
        "baseAssetPrecision": 8,
        "quotePrecision": 8,
        "filters": [
            {
                "filterType": "PRICE_FILTER",
                "minPrice": "0.01",
                "maxPrice": "1E6",
                "tickSize": "0.01",
            },
            {"filterType": "LOT_SIZE", "minQty": "0.001", "maxQty": "1000", "stepSize": "0.001"},
            {"filterType": "MIN_NOTIONAL", "notional": "5"},
        ],
        "orderTypes": ["LIMIT", "MARKET"],
        "timeInForce": ["GTC", "IOC", "FOK", "GTX"],
    }


def _delivery(day: str) -> int:
    at = datetime.strptime(f"{day}08", "%y%m%d%H").replace(tzinfo=UTC)
    return int(at.timestamp() * 1000)


def depth(asked: Asked) -> object:
    return {
        "lastUpdateId": asked.now,
        "E": asked.now,
        "T": asked.now,
        "bids": [["99.99", _QUANTITY]],
        "asks": [["100.01", _QUANTITY]],
    }


def klines(asked: Asked) -> object:
    opened = asked.now - asked.now % _HOUR
    prices = [_PRICE] * 4
    return [
        [opened, *prices, _QUANTITY, opened + _HOUR - 1, _PRICE, 1, _QUANTITY, _PRICE, "0"],
    ]


def trades(asked: Asked) -> object:
    return [
        {
            "id": 1,
            "price": _PRICE,
            "qty": _QUANTITY,
            "quoteQty": _PRICE,
            "time": asked.now,
            "isBuyerMaker": False,
        }
    ]


def aggregate_trades(asked: Asked) -> object:
    first_and_last = {"a": 1, "f": 1, "l": 1}
    return [{**first_and_last, "p": _PRICE, "q": _QUANTITY, "T": asked.now, "m": False}]


def _of_each(asked: Asked, values: Body) -> object:
    """Say the same of each symbol: an object where one was asked for, else a list."""
    each = [{"symbol": symbol, **values} for symbol in asked.symbols]
    return each[0] if asked.one else each


def day(asked: Asked) -> object:
    prices = ("weightedAvgPrice", "lastPrice", "openPrice", "highPrice", "lowPrice")
    values: Body = {
        **dict.fromkeys(prices, _PRICE),
        "priceChange": "0.00",
        "priceChangePercent": "0.000",
        "lastQty": _QUANTITY,
        "volume": _QUANTITY,
        "quoteVolume": _PRICE,
        "openTime": asked.now - 24 * _HOUR,
        "closeTime": asked.now,
        "firstId": 1,
        "lastId": 1,
        "count": 1,
    }
    return _of_each(asked, values)


def price(asked: Asked) -> object:
    return _of_each(asked, {"price": _PRICE, "time": asked.now})


def book_ticker(asked: Asked) -> object:
    values: Body = {
        "bidPrice": "99.99",
        "bidQty": _QUANTITY,
        "askPrice": "100.01",
        "askQty": _QUANTITY,
        "time": asked.now,
    }
    return _of_each(asked, values)


def premium_index(asked: Asked) -> object:
    prices = ("markPrice", "indexPrice", "estimatedSettlePrice")
    values: Body = {
        **dict.fromkeys(prices, _PRICE),
        "lastFundingRate": "0.00010000",
        "interestRate": "0.00010000",
        "nextFundingTime": asked.now + _HOUR,
        "time": asked.now,
    }
    return _of_each(asked, values)


def open_interest(asked: Asked) -> object:
    return _of_each(asked, {"openInterest": _QUANTITY, "time": asked.now})


def funding_rates(asked: Asked) -> object:
    rates: Body = {"fundingRate": "0.00010000", "fundingTime": asked.now, "markPrice": _PRICE}
    return [{"symbol": symbol, **rates} for symbol in asked.symbols]


def order(asked: Asked) -> object:
    """Answer to an order that was placed or changed, or is asked for."""
    return _order(asked, "NEW")


def cancelled_order(asked: Asked) -> object:
    return _order(asked, "CANCELED")


def _order(asked: Asked, status: str) -> Body:
    given = asked.parameters
    number = given.get("orderId", "")
    return {
        "symbol": asked.symbols[0],
        "orderId": int(number) if number.isascii() and number.isdigit() else asked.now,
        "clientOrderId": given.get("newClientOrderId", given.get("origClientOrderId", "sandbox")),
        "status": status,
        "side": given.get("side", "BUY"),
        "positionSide": "BOTH",
        "type": given.get("type", "LIMIT"),
        "origType": given.get("type", "LIMIT"),
        "timeInForce": given.get("timeInForce", "GTC"),
        "price": given.get("price", _PRICE),
        "origQty": given.get("quantity", _QUANTITY),
        "executedQty": "0",
        "cumQty": "0",
        "cumQuote": "0",
        "avgPrice": "0.00",
        "stopPrice": "0",
        "reduceOnly": False,
        "closePosition": False,
        "workingType": "CONTRACT_PRICE",
        "priceProtect": False,
        "updateTime": asked.now,
    }


def empty(_: Asked) -> object:
    """Answer with an empty list, such as that of open orders: the sandbox keeps none."""
    return []


def done(_: Asked) -> object:
    return {"code": 200, "msg": "The operation of cancel all open order is done."}


def nothing(_: Asked) -> object:
    return {}
