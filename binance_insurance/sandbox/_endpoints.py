"""What the exchange's endpoints weigh, what their answers report, and what they answer. Pure.

These are facts of the exchange's side. They are stated here once more, beside the package's own
table, so that the sandbox can find that table wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import Enum, auto
from typing import Final

from msgspec import Struct

from . import _bodies as bodies

Parameters = Mapping[str, str]
Weight = int | Callable[[Parameters], int]


class Reported(Enum):
    """What the answers of an endpoint report as used weight."""

    ACCURATE = auto()
    INACCURATE = auto()  # "is not accurate from this endpoint, please ignore"
    MINUS_ONE = auto()
    MISSING = auto()


class Symbol(Enum):
    """Whether an endpoint takes the parameter `symbol`."""

    NEEDED = auto()
    OPTIONAL = auto()
    UNUSED = auto()


class Endpoint(Struct, frozen=True):
    """One method and path of the exchange.

    Attributes:
        weight: its request weight, or how it follows from the parameters.
        body: makes the answer.
        symbol: whether it takes a symbol. An unknown one, or none where it is needed, is a 400.
        reported: what its answers report as used weight.
    """

    weight: Weight
    body: Callable[[bodies.Asked], object]
    symbol: Symbol = Symbol.UNUSED
    reported: Reported = Reported.ACCURATE

    def weigh(self, parameters: Parameters) -> int:
        """Return the weight of a request with these parameters."""
        return self.weight if isinstance(self.weight, int) else self.weight(parameters)


def _one_or_all(one: int, every: int) -> Weight:
    return lambda parameters: one if parameters.get("symbol") else every


def _up_to(default: int, *steps: tuple[int, int]) -> Weight:
    """Weigh by `limit`: each step is the highest limit and its weight; the last holds for more."""

    def weigh(parameters: Parameters) -> int:
        text = parameters.get("limit") or str(default)
        if not (text.isascii() and text.isdigit()):
            return steps[-1][1]
        return next((weight for top, weight in steps if int(text) <= top), steps[-1][1])

    return weigh


_KLINES: Final = _up_to(500, (99, 1), (499, 2), (1000, 5), (1500, 10))

# What a path answers that has a weight by `Sandbox(weights=…)` alone.
OTHER: Final = Endpoint(1, bodies.nothing)

# The endpoint of pools is not among them: it has settings and a handler of its own.
ENDPOINTS: Final[Mapping[str, Endpoint]] = {
    "GET /fapi/v1/ping": Endpoint(1, bodies.nothing),
    "GET /fapi/v1/time": Endpoint(1, bodies.server_time),
    "GET /fapi/v1/exchangeInfo": Endpoint(1, bodies.exchange_info),
    # Prices and trades
    "GET /fapi/v1/depth": Endpoint(
        _up_to(500, (50, 2), (100, 5), (500, 10), (1000, 20)), bodies.depth, Symbol.NEEDED
    ),
    "GET /fapi/v1/klines": Endpoint(_KLINES, bodies.klines, Symbol.NEEDED),
    "GET /fapi/v1/markPriceKlines": Endpoint(_KLINES, bodies.klines, Symbol.NEEDED),
    "GET /fapi/v1/trades": Endpoint(5, bodies.trades, Symbol.NEEDED, Reported.MINUS_ONE),
    "GET /fapi/v1/aggTrades": Endpoint(20, bodies.aggregate_trades, Symbol.NEEDED),
    "GET /fapi/v1/ticker/24hr": Endpoint(_one_or_all(1, 40), bodies.day, Symbol.OPTIONAL),
    "GET /fapi/v1/ticker/price": Endpoint(_one_or_all(1, 2), bodies.price, Symbol.OPTIONAL),
    "GET /fapi/v2/ticker/price": Endpoint(
        _one_or_all(1, 2), bodies.price, Symbol.OPTIONAL, Reported.INACCURATE
    ),
    "GET /fapi/v1/ticker/bookTicker": Endpoint(
        _one_or_all(2, 5), bodies.book_ticker, Symbol.OPTIONAL, Reported.INACCURATE
    ),
    "GET /fapi/v1/premiumIndex": Endpoint(
        _one_or_all(1, 10), bodies.premium_index, Symbol.OPTIONAL
    ),
    "GET /fapi/v1/openInterest": Endpoint(1, bodies.open_interest, Symbol.NEEDED),
    # Limits of their own, shared by all of a kind
    "GET /fapi/v1/fundingRate": Endpoint(
        0, bodies.funding_rates, Symbol.OPTIONAL, Reported.MISSING
    ),
    "GET /fapi/v1/fundingInfo": Endpoint(0, bodies.empty, Symbol.OPTIONAL, Reported.MISSING),
    "GET /futures/data/openInterestHist": Endpoint(
        0, bodies.empty, Symbol.NEEDED, Reported.MISSING
    ),
    # Orders: answers to placing, changing and cancelling them report -1
    "POST /fapi/v1/order": Endpoint(0, bodies.order, Symbol.NEEDED, Reported.MINUS_ONE),
    "PUT /fapi/v1/order": Endpoint(0, bodies.order, Symbol.NEEDED, Reported.MINUS_ONE),
    "DELETE /fapi/v1/order": Endpoint(1, bodies.cancelled_order, Symbol.NEEDED, Reported.MINUS_ONE),
    "DELETE /fapi/v1/allOpenOrders": Endpoint(1, bodies.done, Symbol.NEEDED, Reported.MINUS_ONE),
    "GET /fapi/v1/order": Endpoint(1, bodies.order, Symbol.NEEDED),
    "GET /fapi/v1/openOrders": Endpoint(_one_or_all(1, 40), bodies.empty, Symbol.OPTIONAL),
}
