"""The table of weights agrees with every weight that the exchange's own SDK states."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules

import pytest

from binance_insurance.weights import look_up, weigh

REST = "binance_sdk_derivatives_trading_usds_futures.rest_api.api"
WEIGHT = re.compile(r"^Weight.*?(?=^\s*(?:Args|Notes|Security Type):)", re.DOTALL | re.MULTILINE)
REQUEST = re.compile(r"^\s*(GET|POST|PUT|DELETE) (/\S+)$", re.MULTILINE)
STEP = re.compile(r"^\| *([^|]*?) *\| *(\d+) *\|$", re.MULTILINE)
ONE = re.compile(r"(\d+)\**\s+(?:for a single symbol|with symbol)")
EVERY = re.compile(r"(\d+)\**\s+(?:when the symbol parameter is omitted|without symbol)")
IP = re.compile(r"(\d+) on IP rate limit")  # beside an account's own limits
FLAT = re.compile(r"^Weight(?:\(IP\))?: *\**(\d+)")

# The SDK states no weight of these, or a limit of their own instead.
UNSTATED = {
    "GET /fapi/v1/fundingRate",
    "GET /futures/data/topLongShortAccountRatio",
    "POST /fapi/v1/order/test",
}


def docstrings() -> Iterator[tuple[str, str]]:
    """Each request of the SDK, as method and path, and what the SDK says about it."""
    package = import_module(REST)
    for module in iter_modules(package.__path__, f"{REST}."):
        for _, api in inspect.getmembers(import_module(module.name), inspect.isclass):
            if api.__module__ != module.name:
                continue
            for _, method in inspect.getmembers(api, inspect.isfunction):
                text = inspect.getdoc(method) or ""
                if request := REQUEST.search(text):
                    yield f"{request[1]} {request[2]}", text


def limits(step: str) -> list[int]:
    """Limits of a step: `5, 10` are two, `[1,100)` runs to 99, `> 1000` begins at 1001."""
    numbers = [int(each) for each in re.findall(r"\d+", step)]
    if step.startswith(">"):
        return [number + 1 for number in numbers]
    if step.startswith("["):
        return [numbers[0], numbers[1] - step.endswith(")")]
    return numbers


def stated(text: str) -> list[tuple[str, int]]:
    """Queries and their weights, as a docstring states them."""
    weight = WEIGHT.search(text)
    if not weight:
        return []
    if steps := STEP.findall(weight[0]):
        return [(f"limit={each}", int(cost)) for step, cost in steps for each in limits(step)]
    if one := ONE.search(weight[0]):
        every = EVERY.search(weight[0])
        assert every, weight[0]
        return [("symbol=BTCUSDT", int(one[1])), ("", int(every[1]))]
    flat = IP.search(weight[0]) or FLAT.search(weight[0])
    return [(query, int(flat[1])) for query in ("", "symbol=A&limit=5")] if flat else []


SAID = dict(docstrings())


@pytest.mark.parametrize("request_", SAID)
def test_the_table_agrees_with_the_sdk(request_: str) -> None:
    method, path = request_.split()
    cases = stated(SAID[request_])
    assert bool(cases) is (request_ not in UNSTATED), "it states its weight in other words"
    for query, weight in cases:
        assert weigh(method, f"{path}?{query}") == weight, query
        assert look_up(method, path).known


@pytest.mark.parametrize("request_", SAID)
def test_the_sdk_says_where_the_used_weight_is_inaccurate(request_: str) -> None:
    inaccurate = look_up(*request_.split()).header == "inaccurate"
    assert inaccurate is ("response header is not accurate" in SAID[request_])
