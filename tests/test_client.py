"""The client with mocked sessions: calls, retries, timeouts, closing, shared sessions."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import aiohttp
import pytest
from aiohttp.client_reqrep import ConnectionKey

from binance_insurance import (
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
    ClientClosedError,
    ConnectError,
    DecodeError,
    ForbiddenError,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    InvalidSymbolError,
    LocalBudget,
    RateLimitError,
    RetryPolicy,
    Runtime,
    ServerError,
    StatusError,
    TransportError,
)

from .conftest import loop_time

URL = "https://fapi.binance.com/fapi/v1/insuranceBalance"
POOL = (
    b'{"symbols":["BTCUSDT","ETHUSDT"],"assets":'
    b'[{"asset":"USDT","marginBalance":"7.5","updateTime":1745366402000}]}'
)
UNKNOWN = b'{"code":-1121,"msg":"Invalid symbol."}'


def of(symbol: str) -> str:
    return f"{URL}?symbol={symbol}"


def make(runtime: Runtime, **options: Any) -> InsuranceClient:
    """A client with the virtual time of the test."""
    budget = LocalBudget(runtime=runtime)
    return InsuranceClient(budget=budget, runtime=runtime, **options)


@pytest.mark.parametrize("failures", [1, 2, 3])
async def test_server_errors_are_retried_with_growing_delays(
    mocked: Callable[..., None], runtime: Runtime, failures: int
) -> None:
    for _ in range(failures):
        mocked(of("BTCUSDT"), status=503)
    mocked(of("BTCUSDT"), body=POOL)
    async with make(runtime) as client:
        assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
        stats = client.stats()
    assert (stats.requests_sent, stats.retries) == (failures + 1, failures)
    assert stats.weight_spent == failures + 1, "every attempt takes its weight"
    assert loop_time() == pytest.approx(0.2 * (2**failures - 1), abs=0.01)


@pytest.mark.parametrize(
    ("status", "kind"),
    [
        (408, ServerError),
        (500, ServerError),
        (502, ServerError),
        (503, ServerError),
        (504, ServerError),
        (599, ServerError),
    ],
)
async def test_a_lasting_server_error_is_raised_after_max_attempts(
    mocked: Callable[..., None], runtime: Runtime, status: int, kind: type[StatusError]
) -> None:
    mocked(of("BTCUSDT"), status=status, repeat=True, body=b'{"code":-1008,"msg":"Overload"}')
    async with make(runtime) as client:
        with pytest.raises(kind, match=rf"BTCUSDT: HTTP {status}: Overload") as caught:
            await client.fetch_pool("BTCUSDT")
        assert client.stats().requests_sent == 4
    error = caught.value
    assert (error.status, error.code, error.message) == (status, -1008, "Overload")


@pytest.mark.parametrize(
    ("status", "body", "kind"),
    [
        (400, UNKNOWN, InvalidSymbolError),
        (400, b'{"code":-4033,"msg":"Insurance account not found."}', BadRequestError),
        (400, b"", BadRequestError),
        (401, b"", StatusError),
        (403, b"<html>WAF</html>", ForbiddenError),
        (404, b"", StatusError),
        (451, b"", ForbiddenError),
        (301, b"", StatusError),
    ],
)
async def test_a_refused_request_is_not_retried(
    mocked: Callable[..., None],
    runtime: Runtime,
    status: int,
    body: bytes,
    kind: type[StatusError],
) -> None:
    mocked(of("BTCUSDT"), status=status, body=body, headers={"Location": "https://elsewhere/"})
    async with make(runtime) as client:
        with pytest.raises(StatusError) as caught:
            await client.fetch_pool("BTCUSDT")
        assert client.stats().requests_sent == 1
    assert type(caught.value) is kind
    assert (caught.value.status, caught.value.symbol) == (status, "BTCUSDT")


@pytest.mark.parametrize(
    "failure",
    [
        aiohttp.ServerDisconnectedError(),
        aiohttp.ClientOSError(104, "Connection reset by peer"),
        aiohttp.ClientPayloadError("Response payload is not completed"),
        aiohttp.ServerTimeoutError(),
        ConnectionResetError(104, "reset"),
        TimeoutError(),
    ],
)
async def test_a_failed_attempt_is_retried_and_its_error_keeps_the_cause(
    mocked: Callable[..., None], runtime: Runtime, failure: Exception
) -> None:
    mocked(of("BTCUSDT"), exception=failure)
    mocked(of("ETHUSDT"), exception=failure, repeat=True)
    mocked(of("BTCUSDT"), body=POOL)
    async with make(runtime) as client:
        await client.fetch_pool("BTCUSDT")
        with pytest.raises(TransportError) as caught:
            await client.fetch_pool("ETHUSDT")
        assert client.stats().requests_sent == 6
    assert caught.value.__cause__ is failure
    assert "\n" not in str(caught.value)


async def test_no_connection_costs_no_weight(mocked: Callable[..., None], runtime: Runtime) -> None:
    key = ConnectionKey("h", 443, True, True, None, None, None)
    refused = aiohttp.ClientConnectorError(key, OSError(111, "refused"))
    mocked(of("BTCUSDT"), exception=refused, repeat=True)
    async with make(runtime) as client:
        with pytest.raises(ConnectError, match="BTCUSDT: cannot connect"):
            await client.fetch_pool("BTCUSDT")
        assert client.stats().weight_spent == 0
        assert client.budget.state().available == 1920
    assert client.stats().retries == 3


async def test_an_invalid_host_name_is_a_connect_error(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), exception=UnicodeError("label too long"), repeat=True)
    async with make(runtime) as client:
        with pytest.raises(ConnectError, match="label too long"):
            await client.fetch_pool("BTCUSDT")


async def test_an_outage_does_not_double_the_load(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), status=503, repeat=True)
    async with make(runtime) as client:
        for _ in range(500):
            with pytest.raises(ServerError):
                await client.fetch_pool("BTCUSDT")
        assert client.stats().retries == 100
        assert client.stats().requests_sent == 600


async def test_successes_refill_the_retry_quota(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), status=503, repeat=100 + 40 * 4)
    mocked(of("ETHUSDT"), body=POOL, repeat=True)
    async with make(runtime) as client:
        for _ in range(60):
            with pytest.raises(ServerError):
                await client.fetch_pool("BTCUSDT")
        spent = client.stats().retries
        with pytest.raises(ServerError):
            await client.fetch_pool("BTCUSDT")
        assert client.stats().retries == spent, "the quota is used up"
        for _ in range(5):
            await client.fetch_pool("ETHUSDT")
        with pytest.raises(ServerError):
            await client.fetch_pool("BTCUSDT")
        assert client.stats().retries == spent + 1


async def test_retry_after_is_respected(mocked: Callable[..., None], runtime: Runtime) -> None:
    mocked(of("BTCUSDT"), status=503, headers={"Retry-After": "3"})
    mocked(of("BTCUSDT"), body=POOL)
    mocked(of("ETHUSDT"), status=503, headers={"Retry-After": "3600"})
    async with make(runtime) as client:
        await client.fetch_pool("BTCUSDT")
        assert loop_time() == pytest.approx(3, abs=0.01)
        with pytest.raises(ServerError) as caught:
            await client.fetch_pool("ETHUSDT")
    assert caught.value.retry_after == 3600
    assert loop_time() < 4, "Retry-After is longer than max_delay, so there is no retry"


async def test_no_retry_starts_that_would_pass_the_timeout(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), status=500, repeat=True)
    async with make(runtime, retry=RetryPolicy(max_attempts=99, base_delay=1)) as client:
        with pytest.raises(ServerError):
            await client.fetch_pool("BTCUSDT", timeout=10)
        assert client.stats().requests_sent == 4  # at 0, 1, 3 and 7; the next would be at 15
    assert loop_time() == pytest.approx(7, abs=0.01)


async def test_a_429_is_raised_if_the_freeze_is_longer_than_the_timeout(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), status=429, headers={"Retry-After": "20"}, body=UNKNOWN)
    async with make(runtime) as client:
        with pytest.raises(RateLimitError) as caught:
            await client.fetch_pool("BTCUSDT", timeout=5)
    assert caught.value.retry_after == 20
    assert isinstance(caught.value.__cause__, BudgetTimeoutError)
    assert loop_time() == 0


async def test_retries_can_be_switched_off(mocked: Callable[..., None], runtime: Runtime) -> None:
    mocked(of("BTCUSDT"), status=500)
    async with make(runtime, retry=RetryPolicy(max_attempts=1)) as client:
        with pytest.raises(ServerError):
            await client.fetch_pool("BTCUSDT")
    assert client.stats().retries == 0


async def test_many_symbols_come_in_the_order_asked_without_repeats(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    for symbol in ("ETHUSDT", "BTCUSDT"):
        mocked(of(symbol), body=POOL)
    async with make(runtime) as client:
        pools = await client.fetch_pools(["ethusdt", " BTCUSDT ", "ETHUSDT"])
        assert list(pools) == ["ETHUSDT", "BTCUSDT"]
        assert await client.fetch_pools([]) == {}
        assert client.stats().requests_sent == 2


async def test_a_partial_failure_keeps_the_pools_that_arrived(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    symbols = ["BTCUSDT", "NOPE", "ETHUSDT"]
    mocked(of("NOPE"), status=400, body=UNKNOWN, repeat=True)
    for symbol in ("BTCUSDT", "ETHUSDT"):
        mocked(of(symbol), body=POOL, repeat=True)
    async with make(runtime) as client:
        with pytest.raises(
            BulkFetchError, match=r"1 of 3 symbols failed \(1 InvalidSymbolError\)"
        ) as got:
            await client.fetch_pools(symbols)
        values = await client.fetch_pools(symbols, return_exceptions=True)
    assert list(got.value.pools) == ["BTCUSDT", "ETHUSDT"]
    assert {name: type(error) for name, error in got.value.errors.items()} == {
        "NOPE": InvalidSymbolError
    }
    assert [type(value) for value in values.values()] == [
        InsurancePool,
        InvalidSymbolError,
        InsurancePool,
    ]


@pytest.mark.parametrize(
    "symbol", ["", "  ", "BTC USDT", "BTC\nUSDT", "A" * 65, "BTC\x00", "A\u2028B"]
)
async def test_an_invalid_symbol_raises_before_anything_is_sent(
    runtime: Runtime, symbol: str
) -> None:
    async with make(runtime) as client:
        with pytest.raises(ValueError, match="symbol"):
            await client.fetch_pool(symbol)
        with pytest.raises(ValueError, match="symbol"):
            await client.fetch_pools(["BTCUSDT", symbol])
        with pytest.raises(TypeError, match="several symbols"):
            await client.fetch_pools("BTCUSDT")
        with pytest.raises(TypeError, match="a symbol is a str, not int"):
            await client.fetch_pool(7)  # type: ignore[arg-type]
        assert client.stats().requests_sent == 0


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
async def test_an_invalid_timeout_raises(runtime: Runtime, timeout: float) -> None:
    async with make(runtime) as client:
        with pytest.raises(ValueError, match="timeout must be positive"):
            await client.fetch_pool("BTCUSDT", timeout=timeout)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"base_url": "fapi.binance.com"}, "base_url"),
        ({"base_url": "ftp://fapi.binance.com"}, "base_url"),
        ({"attempt_timeout": 0}, "attempt_timeout"),
        ({"max_concurrency": 0}, "max_concurrency"),
    ],
)
def test_invalid_options_raise(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        InsuranceClient(**options)


def test_a_budget_serves_the_exchange_of_its_first_client() -> None:
    budget = LocalBudget()
    InsuranceClient("https://demo-fapi.binance.com/path", budget=budget)
    InsuranceClient("https://testnet.binancefuture.com", budget=budget)
    with pytest.raises(ValueError, match=r"this budget serves https://demo-fapi\.binance\.com"):
        InsuranceClient(budget=budget)


@pytest.mark.parametrize(
    "options",
    [{"max_attempts": 0}, {"base_delay": -1}, {"max_delay": float("inf")}],
)
def test_an_invalid_retry_policy_raises(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        RetryPolicy(**options)


async def test_a_closed_client_raises(runtime: Runtime) -> None:
    client = make(runtime)
    await client.aclose()
    await client.aclose()
    with pytest.raises(ClientClosedError, match="closed"):
        await client.fetch_pool("BTCUSDT")
    with pytest.raises(ClientClosedError, match="closed"):
        async with client:
            pass


async def test_closing_fails_calls_in_flight(runtime: Runtime) -> None:
    budget = LocalBudget(runtime=runtime)
    probe = await budget.acquire()
    client = InsuranceClient(budget=budget, runtime=runtime)
    waiting = asyncio.create_task(client.fetch_pools(["BTCUSDT", "ETHUSDT"]))
    not_started = asyncio.create_task(client.fetch_pool("ADAUSDT"))
    await asyncio.sleep(0)
    await client.aclose()
    for call in (waiting, not_started):
        with pytest.raises(InsuranceError, match="closed"):
            await call
    assert budget.state().waiting == 0
    budget.release(probe)


async def test_a_cancelled_caller_stops_waiting_for_weight(runtime: Runtime) -> None:
    budget = LocalBudget(runtime=runtime)
    probe = await budget.acquire()
    async with InsuranceClient(budget=budget, runtime=runtime) as client:
        call = asyncio.create_task(client.fetch_pool("BTCUSDT"))
        await asyncio.sleep(0.5)
        assert budget.state().waiting == 1
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        assert budget.state().waiting == 0
    budget.release(probe)


async def test_a_shared_session_stays_open_and_serves_several_clients(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(of("BTCUSDT"), body=POOL, repeat=True)
    async with aiohttp.ClientSession(raise_for_status=True) as session:
        async with make(runtime, session=session) as one, make(runtime, session=session) as two:
            await one.fetch_pool("BTCUSDT")
            await two.fetch_pool("BTCUSDT")
        assert not session.closed


async def test_the_symbol_is_url_encoded_and_a_path_in_the_base_url_is_kept(
    mocked: Callable[..., None], runtime: Runtime
) -> None:
    mocked(
        "http://gateway/binance/fapi/v1/insuranceBalance?symbol=%E5%B8%81%E5%AE%89USDT",
        body=POOL.replace(b"BTCUSDT", "币安USDT".encode()),
    )
    async with make(runtime, base_url="http://gateway/binance/") as client:
        assert "币安USDT" in await client.fetch_pool("币安usdt")


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"rateLimits":[]}', r"no REQUEST_WEIGHT limit for 60 s - at `\$.rateLimits`"),
        (
            b'{"rateLimits":[{"rateLimitType":"ORDERS","interval":"MINUTE","intervalNum":1,"limit":9}]}',
            "no REQUEST_WEIGHT limit",
        ),
        (b'{"rateLimits":7}', r"got `int` - at `\$.rateLimits`"),
    ],
)
async def test_an_exchange_info_without_the_limit_is_an_error(
    mocked: Callable[..., None], runtime: Runtime, answer: bytes, reason: str
) -> None:
    mocked("https://fapi.binance.com/fapi/v1/exchangeInfo", body=answer)
    async with make(runtime) as client:
        with pytest.raises(DecodeError, match=reason):
            await client.fetch_request_weight()
