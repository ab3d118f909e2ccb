"""What each request weighs on the IP: facts about the exchange, and one pure function.

`TABLE` holds the documented weights of the REST API of USDⓈ-M futures: what the exchange's own SDK
states, which `tests/foreign/test_weights.py` compares. Where a weight was measured as more, the
table keeps what is documented, and `AT_FIRST` has what to charge until answers have shown less.

`weigh` is public. `look_up` says all of it at once, for the package's own middleware.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Final, Literal, NamedTuple
from urllib.parse import unquote, unquote_plus

__all__ = ["weigh"]

# From a query to a weight.
Rule = Callable[[str], int]
Header = Literal["accurate", "inaccurate", "none"]


class Facts(NamedTuple):
    """What is known about a request before it is sent.

    Attributes:
        name: method and path, such as `GET /fapi/v1/depth`: what a learned weight belongs to.
        weight: what `weigh` returns.
        at_first: what to charge until answers have shown less; never less than `weight`.
        known: whether its weight is documented. Any other may be learned from answers.
        header: what the used weight in its answers is worth: `accurate`; `inaccurate`, which the
            exchange says to ignore; `none`, where a missing or negative one means nothing.
    """

    name: str
    weight: int
    at_first: int
    known: bool
    header: Header


def _values(query: str, parameter: str) -> list[str]:
    """Return what a query gives for a parameter; a blank value counts as none."""
    given: list[str] = []
    for pair in query.split("&"):
        name, _, value = pair.partition("=")
        if name == parameter or ("%" in name and unquote(name) == parameter):
            given.append(unquote_plus(value).strip())
    return [value for value in given if value]


def _by_symbol(one: int, every: int) -> Rule:
    """Weigh `one` with the parameter `symbol`, and `every` without it."""
    return lambda query: one if _values(query, "symbol") else every


def _by_limit(default: int, *steps: tuple[int, int]) -> Rule:
    """Weigh by the parameter `limit`, which is `default` where it is missing.

    Args:
        default: the limit that the exchange takes by itself.
        steps: the highest limit and its weight, ascending. The last weight also holds for larger
            limits, and for what is no limit: a refused request costs too.
    """

    def step(limit: str) -> int:
        number = int(limit) if limit.isascii() and limit.isdigit() and len(limit) < 10 else 0
        return next((weight for top, weight in steps if 0 < number <= top), steps[-1][1])

    return lambda query: max(map(step, _values(query, "limit") or [str(default)]))


KLINES: Final = _by_limit(500, (99, 1), (499, 2), (1000, 5), (1500, 10))

# A request whose weight is documented nowhere.
UNKNOWN: Final = 50

TABLE: Final[Mapping[str, int | Rule]] = {
    # The exchange and its symbols
    "GET /fapi/v1/ping": 1,
    "GET /fapi/v1/time": 1,
    "GET /fapi/v1/exchangeInfo": 1,
    "GET /fapi/v1/tradingSchedule": 5,
    "GET /fapi/v1/assetIndex": _by_symbol(1, 10),
    "GET /fapi/v1/constituents": 2,
    "GET /fapi/v1/indexInfo": 1,
    "GET /fapi/v1/insuranceBalance": 1,
    "GET /fapi/v1/symbolAdlRisk": 1,
    # Prices and trades
    "GET /fapi/v1/aggTrades": 20,
    "GET /fapi/v1/continuousKlines": KLINES,
    "GET /fapi/v1/depth": _by_limit(500, (50, 2), (100, 5), (500, 10), (1000, 20)),
    "GET /fapi/v1/fundingInfo": 0,
    "GET /fapi/v1/fundingRate": 0,
    "GET /fapi/v1/historicalTrades": 200,
    "GET /fapi/v1/indexPriceKlines": KLINES,
    "GET /fapi/v1/klines": KLINES,
    "GET /fapi/v1/markPriceKlines": KLINES,
    "GET /fapi/v1/openInterest": 1,
    "GET /fapi/v1/premiumIndex": _by_symbol(1, 10),
    "GET /fapi/v1/premiumIndexKlines": KLINES,
    "GET /fapi/v1/rpiDepth": 20,
    "GET /fapi/v1/ticker/24hr": _by_symbol(1, 40),
    "GET /fapi/v1/ticker/bookTicker": _by_symbol(2, 5),
    "GET /fapi/v1/ticker/price": _by_symbol(1, 2),
    "GET /fapi/v2/ticker/price": _by_symbol(1, 2),
    "GET /fapi/v1/trades": 5,
    # Placing and changing orders
    "POST /fapi/v1/order": 0,
    "PUT /fapi/v1/order": 0,
    "POST /fapi/v1/algoOrder": 0,
    "POST /fapi/v1/batchOrders": 5,
    "PUT /fapi/v1/batchOrders": 5,
    # Cancelling orders
    "DELETE /fapi/v1/order": 1,
    "DELETE /fapi/v1/algoOrder": 1,
    "DELETE /fapi/v1/algoOpenOrders": 1,
    "DELETE /fapi/v1/allOpenOrders": 1,
    "DELETE /fapi/v1/batchOrders": 1,
    "POST /fapi/v1/countdownCancelAll": 10,
    # Reading orders and own trades
    "GET /fapi/v1/order": 1,
    "GET /fapi/v1/openOrder": 1,
    "GET /fapi/v1/openOrders": _by_symbol(1, 40),
    "GET /fapi/v1/allOrders": 5,
    "GET /fapi/v1/orderAmendment": 1,
    "GET /fapi/v1/algoOrder": 1,
    "GET /fapi/v1/openAlgoOrders": _by_symbol(1, 40),
    "GET /fapi/v1/allAlgoOrders": 5,
    "GET /fapi/v1/forceOrders": _by_symbol(20, 50),
    "GET /fapi/v1/userTrades": 5,
    # Positions
    "GET /fapi/v1/adlQuantile": 5,
    "POST /fapi/v1/leverage": 1,
    "POST /fapi/v1/marginType": 1,
    "POST /fapi/v1/positionMargin": 1,
    "GET /fapi/v1/positionMargin/history": 1,
    "GET /fapi/v2/positionRisk": 5,
    "GET /fapi/v3/positionRisk": 5,
    # The account
    "GET /fapi/v2/account": 5,
    "GET /fapi/v3/account": 5,
    "GET /fapi/v2/balance": 5,
    "GET /fapi/v3/balance": 5,
    "GET /fapi/v1/accountConfig": 5,
    "GET /fapi/v1/apiTradingStatus": _by_symbol(1, 10),
    "GET /fapi/v1/commissionRate": 20,
    "GET /fapi/v1/feeBurn": 30,
    "POST /fapi/v1/feeBurn": 1,
    "GET /fapi/v1/income": 30,
    "GET /fapi/v1/leverageBracket": 1,
    "GET /fapi/v1/multiAssetsMargin": 30,
    "POST /fapi/v1/multiAssetsMargin": 1,
    "GET /fapi/v1/pmAccountInfo": 5,
    "GET /fapi/v1/positionSide/dual": 30,
    "POST /fapi/v1/positionSide/dual": 1,
    "GET /fapi/v1/rateLimit/order": 1,
    "POST /fapi/v1/stock/contract": 50,
    "GET /fapi/v1/symbolConfig": 5,
    # Downloads of an account's history
    "GET /fapi/v1/income/asyn": 1000,
    "GET /fapi/v1/income/asyn/id": 10,
    "GET /fapi/v1/order/asyn": 1000,
    "GET /fapi/v1/order/asyn/id": 10,
    "GET /fapi/v1/trade/asyn": 1000,
    "GET /fapi/v1/trade/asyn/id": 10,
    # User data streams
    "POST /fapi/v1/listenKey": 1,
    "PUT /fapi/v1/listenKey": 1,
    "DELETE /fapi/v1/listenKey": 1,
    # Conversion
    "POST /fapi/v1/convert/acceptQuote": 200,
    "GET /fapi/v1/convert/exchangeInfo": 20,
    "POST /fapi/v1/convert/getQuote": 50,
    "GET /fapi/v1/convert/orderStatus": 50,
}

# Statistics: all weigh 0 and have a limit of their own.
STATISTICS: Final = "GET /futures/data/"

# What was measured as more than documented, or documented for the form with `symbol` alone.
AT_FIRST: Final[Mapping[str, Rule]] = {
    "GET /fapi/v1/indexInfo": _by_symbol(1, 10),
    "GET /fapi/v1/insuranceBalance": _by_symbol(1, 40),
    "GET /fapi/v1/symbolAdlRisk": _by_symbol(1, 40),
}

# "The field X-MBX-USED-WEIGHT-1M in response header is not accurate from this endpoint".
INACCURATE: Final = frozenset({"GET /fapi/v1/ticker/bookTicker", "GET /fapi/v2/ticker/price"})

# Beside the statistics: seen without the header, or with -1.
WITHOUT_HEADER: Final = frozenset(
    {
        "GET /fapi/v1/fundingInfo",
        "GET /fapi/v1/fundingRate",
        "GET /fapi/v1/trades",
        "POST /fapi/v1/order",
        "PUT /fapi/v1/order",
        "DELETE /fapi/v1/order",
        "POST /fapi/v1/algoOrder",
        "DELETE /fapi/v1/algoOrder",
        "POST /fapi/v1/batchOrders",
        "PUT /fapi/v1/batchOrders",
        "DELETE /fapi/v1/batchOrders",
        "DELETE /fapi/v1/algoOpenOrders",
        "DELETE /fapi/v1/allOpenOrders",
    }
)


def weigh(method: str, url: str) -> int:
    """Return the request weight that the exchange documents for a request; it sends nothing.

    Args:
        method: the HTTP method, in any case.
        url: the URL with its query, whole (`https://fapi.binance.com/fapi/v1/depth?limit=5`) or
            from the path on (`/fapi/v1/depth?limit=5`). The host does not matter.

    Returns:
        The weight, an int ≥ 0, which depends on `symbol` and `limit` where the exchange says so.
        50 for a method and path that it does not document. No text is an error.
    """
    return look_up(method, url).weight


def look_up(method: str, url: str) -> Facts:
    """Return what is known about a request; method and URL are those of `weigh`."""
    path, query = _split(url)
    name, rule, at_first, known, header = _kind(method, path)
    weight = rule if isinstance(rule, int) else rule(query)
    return Facts(name, weight, weight if at_first is None else at_first(query), known, header)


@lru_cache(maxsize=256)
def _kind(method: str, path: str) -> tuple[str, int | Rule, Rule | None, bool, Header]:
    """Return what does not depend on the query: name, weight, weight at first, known, header."""
    name = f"{method.upper()} {path}"
    rule = TABLE.get(name, 0 if name.startswith(STATISTICS) else None)
    known = rule is not None
    return name, rule if rule is not None else UNKNOWN, AT_FIRST.get(name), known, _header(name)


def _header(name: str) -> Header:
    if name in INACCURATE:
        return "inaccurate"
    return "none" if name in WITHOUT_HEADER or name.startswith(STATISTICS) else "accurate"


def _split(url: str) -> tuple[str, str]:
    """Split a URL, whole or from the path on, into path and query; no text is an error."""
    target, _, query = url.partition("#")[0].partition("?")
    if not target.startswith("/"):
        _, slash, path = target.partition("://")[2].partition("/")
        target = slash + path
    return target, query
