"""What a request weighs, as the exchange documents it."""

from __future__ import annotations

from random import Random
from urllib.parse import urlencode

import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_insurance.weights import (
    AT_FIRST,
    INACCURATE,
    TABLE,
    UNKNOWN,
    WITHOUT_HEADER,
    look_up,
    weigh,
)

ANY = st.text(st.characters(exclude_categories=[]))  # surrogates too
ORIGINS = st.sampled_from(
    ["https://fapi.binance.com", "http://127.0.0.1:8080", "https://a:b@h", "HTTP://[::1]:9"]
)
ROWS = st.sampled_from([*TABLE, "GET /futures/data/basis", "GET /fapi/v9/new"])
PARAMETERS = st.lists(
    st.tuples(st.just("symbol"), st.sampled_from(["BTCUSDT", "币安人生USDT", "", " "]) | st.text())
    | st.tuples(st.just("limit"), st.integers(-1, 2000).map(str) | st.text())
    | st.tuples(st.text(), st.text())
)


@pytest.mark.parametrize(
    ("limit", "weight"),
    [
        *[("5", 2), ("10", 2), ("20", 2), ("50", 2), ("100", 5), ("500", 10), ("1000", 20)],
        ("%31000", 20),  # 1000, percent-encoded
        *[("", 10), ("+", 10)],  # blank: none
        # Refused, and paid: as much as it can be.
        *[("0", 20), ("-5", 20), ("5000", 20), ("many", 20), ("²", 20), ("9" * 5000, 20)],
    ],
)
def test_depth_weighs_by_its_limit(limit: str, weight: int) -> None:
    assert weigh("GET", f"/fapi/v1/depth?symbol=BTCUSDT&limit={limit}") == weight


@pytest.mark.parametrize("name", [name for name in TABLE if name.endswith("lines")])
@pytest.mark.parametrize(
    ("limit", "weight"),
    [(1, 1), (99, 1), (100, 2), (499, 2), (500, 5), (1000, 5), (1001, 10), (1500, 10)],
)
def test_klines_weigh_by_their_limit(name: str, limit: int, weight: int) -> None:
    assert weigh("GET", f"{name.removeprefix('GET ')}?interval=1m&limit={limit}") == weight


@pytest.mark.parametrize(
    ("path", "weight"),
    [("/fapi/v1/depth?symbol=BTCUSDT", 10), ("/fapi/v1/klines?symbol=BTCUSDT&interval=1m", 5)],
)
def test_without_limit_it_is_the_exchange_s_own(path: str, weight: int) -> None:
    assert weigh("GET", path) == weight


@pytest.mark.parametrize(
    ("path", "one", "every"),
    [
        ("/fapi/v1/ticker/24hr", 1, 40),
        ("/fapi/v1/ticker/bookTicker", 2, 5),
        ("/fapi/v1/ticker/price", 1, 2),
        ("/fapi/v2/ticker/price", 1, 2),
        ("/fapi/v1/premiumIndex", 1, 10),
        ("/fapi/v1/openOrders", 1, 40),
        ("/fapi/v1/forceOrders", 20, 50),
    ],
)
def test_without_symbol_it_may_weigh_more(path: str, one: int, every: int) -> None:
    assert weigh("GET", f"{path}?timestamp=1&symbol=BTCUSDT&signature=0f") == one
    assert weigh("GET", path) == weigh("GET", f"{path}?symbol=&symbols=BTCUSDT") == every


@pytest.mark.parametrize(
    ("method", "path", "weight"),
    [
        ("POST", "/fapi/v1/order", 0),
        ("PUT", "/fapi/v1/order", 0),
        ("DELETE", "/fapi/v1/order", 1),
        ("GET", "/fapi/v1/order", 1),
        ("POST", "/fapi/v1/batchOrders", 5),
        ("GET", "/futures/data/openInterestHist", 0),
        ("GET", "/futures/data/added-tomorrow", 0),
    ],
)
def test_orders_and_statistics(method: str, path: str, weight: int) -> None:
    assert weigh(method, path) == weigh(method.lower(), path) == weight
    assert look_up(method, path).known


@pytest.mark.parametrize(
    ("method", "url"),
    [
        ("GET", "/fapi/v1/added-tomorrow?symbol=BTCUSDT"),
        ("GET", "/api/v3/depth"),
        ("PATCH", "/fapi/v1/depth"),
        ("POST", "/futures/data/basis"),
        ("GET", "https://fapi.binance.com"),
        ("GET", "fapi.binance.com/fapi/v1/depth"),
        ("", ""),
    ],
)
def test_a_request_that_is_not_documented_weighs_50(method: str, url: str) -> None:
    assert weigh(method, url) == UNKNOWN == 50
    assert not look_up(method, url).known


def test_it_is_named_by_method_and_path() -> None:
    found = look_up("get", "https://fapi.binance.com/fapi/v1/depth?limit=5#top")
    assert found == ("GET /fapi/v1/depth", 2, 2, True, "accurate")


@pytest.mark.parametrize("path", ["ticker/bookTicker", "ticker/bookTicker?symbol=BTCUSDT"])
def test_what_the_exchange_calls_inaccurate(path: str) -> None:
    assert look_up("GET", f"/fapi/v1/{path}").header == "inaccurate"


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/fapi/v1/fundingRate?symbol=BTCUSDT"),
        ("GET", "/futures/data/basis"),
        ("POST", "/fapi/v1/order"),
        ("DELETE", "/fapi/v1/batchOrders"),
    ],
)
def test_what_carries_no_used_weight(method: str, path: str) -> None:
    assert look_up(method, path).header == "none"


@pytest.mark.parametrize(
    ("path", "measured"),
    [("insuranceBalance", 40), ("symbolAdlRisk", 40), ("indexInfo", 10)],
)
def test_a_measured_weight_is_charged_at_first(path: str, measured: int) -> None:
    every = look_up("GET", f"/fapi/v1/{path}")
    assert (every.weight, every.at_first) == (1, measured)
    one = look_up("GET", f"/fapi/v1/{path}?symbol=BTCUSDT")
    assert (one.weight, one.at_first) == (1, 1)


def test_the_facts_are_about_requests_of_the_table() -> None:
    assert INACCURATE | WITHOUT_HEADER | AT_FIRST.keys() <= TABLE.keys()
    assert not INACCURATE & WITHOUT_HEADER


@given(ANY, ANY)
def test_any_text_has_a_weight(method: str, url: str) -> None:
    assert weigh(method, url) >= 0


@given(ROWS, ANY)
def test_any_query_has_a_weight(row: str, query: str) -> None:
    method, path = row.split()
    found = look_up(method, f"{path}?{query}")
    assert 0 <= found.weight <= found.at_first


@given(ROWS, PARAMETERS, st.randoms())
def test_the_order_of_the_query_does_not_matter(
    row: str, parameters: list[tuple[str, str]], random: Random
) -> None:
    method, path = row.split()
    shuffled = parameters.copy()
    random.shuffle(shuffled)
    expected = weigh(method, f"{path}?{urlencode(parameters)}")
    assert weigh(method, f"{path}?{urlencode(shuffled)}") == expected


@given(ROWS, PARAMETERS, ORIGINS)
def test_a_whole_url_weighs_what_its_path_does(
    row: str, parameters: list[tuple[str, str]], origin: str
) -> None:
    method, path = row.split()
    target = f"{path}?{urlencode(parameters)}"
    assert look_up(method, origin + target) == look_up(method, target)
