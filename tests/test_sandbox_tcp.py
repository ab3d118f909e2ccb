"""The client over TCP against the local exchange: 429, 418, faults, closing.

Both sides use virtual time, so a ban of two minutes takes no real time. Sockets are real.
"""

from __future__ import annotations

import asyncio
import gc
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from decimal import Decimal
from typing import Any

import aiohttp
import msgspec
import pytest
import trustme
from aiohttp import web

from binance_insurance import (
    BudgetTimeoutError,
    BulkFetchError,
    ClientClosedError,
    ConnectError,
    DecodeError,
    ForbiddenError,
    InsuranceClient,
    InsuranceError,
    InvalidSymbolError,
    IPBannedError,
    LocalBudget,
    RateLimitError,
    RequestTimeoutError,
    RetryPolicy,
    Runtime,
    ServerError,
    StatusError,
    TransportError,
)
from binance_insurance.sandbox import Fault, Market, Sandbox

from .conftest import Singles, loop_time, wall_time

MakeSandbox = Callable[..., Sandbox]


@pytest.fixture
async def exchange() -> AsyncIterator[Sandbox]:
    """A local exchange in virtual time; its clock is 43 s ahead of the local one."""
    async with Sandbox(clock=wall_time, clock_offset=43.0) as sandbox:
        yield sandbox


@pytest.fixture
async def client(exchange: Sandbox, runtime: Runtime) -> AsyncIterator[InsuranceClient]:
    """A client of that exchange."""
    budget = LocalBudget(runtime=runtime)
    async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
        yield client


async def test_the_documented_pools_arrive_exactly(client: InsuranceClient) -> None:
    pool = await client.fetch_pool("btcusdt")
    assert pool.balance("USDT") == Decimal("793930579.315848")
    assert str(pool.balance("USDC")) == "299999998.6497832"
    snapshot = await client.fetch_snapshot()
    assert len(snapshot) == 3
    assert snapshot["BTCUSDT"] == pool
    assert snapshot.totals()["USDT"] == Decimal("1113248677.22499429")
    assert abs(snapshot.observed_at.timestamp() - wall_time() - 43) <= 1


async def test_the_generated_market_is_as_large_as_the_real_one(runtime: Runtime) -> None:
    async with (
        Sandbox("market", clock=wall_time) as exchange,
        InsuranceClient(exchange.url, budget=LocalBudget(runtime=runtime)) as client,
    ):
        first = await client.fetch_snapshot()
        assert 55 <= len(first) <= 65
        symbols = [symbol for pool in first for symbol in pool.symbols]
        assert 880 <= len(symbols) == len(set(symbols)) <= 930
        assert sum(not symbol.isascii() for symbol in symbols) == 5
        assert any("_" in symbol for symbol in symbols)
        await asyncio.sleep(60)
        second = await client.fetch_snapshot()
        assert second.totals() != first.totals()
        chinese = next(symbol for symbol in symbols if not symbol.isascii())
        assert (await client.fetch_pool(chinese.lower())) == second[chinese]
    assert Market(7).pools(1e9) == Market(7).pools(1e9) != Market(8).pools(1e9)


async def test_fetch_request_weight_returns_limit_and_used_weight(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.spend_elsewhere(100)
    weight = await client.fetch_request_weight()
    assert (weight.limit, weight.used_weight, weight.left) == (2400, 101, 2299)
    assert weight.resets_at is not None
    assert weight.resets_at.timestamp() == exchange.accounting.resets_at(exchange.now)


async def test_a_window_that_other_clients_have_used_up_costs_one_request(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.spend_elsewhere(2390)
    with pytest.raises(BulkFetchError) as caught:
        await client.fetch_pools(["ADAUSDT", "BTCUSDT", "ETHUSDT", "XRPUSDT"], timeout=5)
    assert len(exchange.requests) == 1
    assert list(caught.value.pools) == ["ADAUSDT", "XRPUSDT"], "one answer covers both"
    assert {type(error) for error in caught.value.errors.values()} == {BudgetTimeoutError}
    assert caught.value.errors["BTCUSDT"].symbol == "BTCUSDT"
    assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
    assert exchange.accounting.verdicts[429] == 0


@pytest.mark.parametrize("retry_after", ["present", "absent", "zero"])
async def test_after_429_nothing_is_sent_before_the_freeze_ends(
    exchange: Sandbox, client: InsuranceClient, retry_after: Any
) -> None:
    exchange.retry_after = retry_after
    await client.fetch_pool("BTCUSDT")
    exchange.spend_elsewhere(2400)  # after the last answer, so the budget does not know
    ends = exchange.accounting.resets_at(exchange.now)
    pools = await client.fetch_pools(["ADAUSDT", "BTCUSDT", "ETHUSDT"])
    assert len(pools) == 3
    refused = [seen.at for seen in exchange.requests if seen.verdict == 429]
    assert refused
    assert [seen for seen in exchange.requests if refused[-1] < seen.at < ends] == []
    assert len(refused) <= 3, "only requests that were already in flight"


async def test_a_429_is_raised_when_the_freeze_is_longer_than_the_timeout(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    await client.fetch_pool("BTCUSDT")
    exchange.spend_elsewhere(2400)
    with pytest.raises(RateLimitError, match="BTCUSDT: the weight limit of this IP was passed"):
        await client.fetch_pool("BTCUSDT", timeout=5)
    with pytest.raises(BudgetTimeoutError):
        await client.fetch_pool("BTCUSDT", timeout=5)
    assert exchange.accounting.verdicts[429] == 1


@pytest.mark.parametrize("retry_after", ["present", "absent", "zero"])
async def test_after_418_nothing_is_sent_before_the_ban_ends(
    exchange: Sandbox, client: InsuranceClient, retry_after: Any
) -> None:
    exchange.retry_after = retry_after
    await client.fetch_pool("BTCUSDT")
    exchange.accounting.tolerated_refusals = 0
    exchange.spend_elsewhere(2400)
    with pytest.raises(IPBannedError) as first:
        await client.fetch_pool("BTCUSDT")
    asked = len(exchange.requests)
    ends = exchange.accounting.banned_until
    assert 0 <= first.value.banned_until.timestamp() - ends <= 2.5
    assert (first.value.status, first.value.code) == (418, -1003)
    while exchange.now < ends:
        before = loop_time()
        with pytest.raises(IPBannedError) as again:
            await client.fetch_pool("ETHUSDT")
        with pytest.raises(BulkFetchError):
            await client.fetch_pools(["ADAUSDT", "XRPUSDT"])
        with pytest.raises(IPBannedError):
            await client.fetch_snapshot()
        assert loop_time() == before, "the call fails at once"
        assert again.value.banned_until == first.value.banned_until
        assert again.value.symbol == "ETHUSDT"
        await asyncio.sleep(7)
    assert len(exchange.requests) == asked
    await asyncio.sleep(3)
    assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")


async def test_a_ban_whose_body_is_not_json_is_a_ban(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(Fault.of_status(418, b"<html>I am a teapot</html>"))
    with pytest.raises(IPBannedError, match="bans this IP until") as caught:
        await client.fetch_pool("BTCUSDT")
    assert 118 <= caught.value.banned_until.timestamp() - exchange.now <= 122


ALWAYS = 99
FAULTS: list[tuple[Fault, int, type[InsuranceError] | None, int]] = [
    # fault, how often, the error (None: a good answer), requests that the exchange received
    (Fault.of_status(500), 1, None, 2),
    (Fault.of_status(502, b"<html>Bad gateway</html>"), 2, None, 3),
    (Fault.of_status(503, b'{"code":-1008,"msg":"overload"}'), 3, None, 4),
    (Fault.of_status(503, b"Unknown error"), ALWAYS, ServerError, 4),
    (Fault.of_status(504), ALWAYS, ServerError, 4),
    (Fault.of_status(408), 1, None, 2),
    (Fault.of_status(408), ALWAYS, ServerError, 4),
    (Fault.reset(), 1, None, 2),
    (Fault.reset(), ALWAYS, TransportError, 4),
    (Fault.stall(), 1, None, 2),
    (Fault.stall(), ALWAYS, RequestTimeoutError, 4),
    (Fault.cut_off(), 1, None, 2),
    (Fault.cut_off(), ALWAYS, TransportError, 4),
    (Fault.cut_off(503), 1, None, 2),
    (Fault.cut_off(403), ALWAYS, ForbiddenError, 1),
    (Fault.cut_off(418, {"Retry-After": "300"}), ALWAYS, IPBannedError, 1),
    (Fault.cut_off(429, {"Retry-After": "5"}), 1, None, 2),
    (Fault.of_status(418, b"x" * 9_000_000), ALWAYS, IPBannedError, 1),
    (Fault.of_body(b'{"symbols":["BTCUSDT"],"ass'), 1, None, 2),
    (Fault.of_body(b'{"symbols":["BTCUSDT"],"ass'), ALWAYS, DecodeError, 4),
    (Fault.of_body(b""), 1, None, 2),
    (Fault.of_body(b""), ALWAYS, DecodeError, 4),
    (Fault.html(), ALWAYS, DecodeError, 1),
    (Fault.not_json(), ALWAYS, DecodeError, 1),
    (Fault.of_body(b"[]"), ALWAYS, DecodeError, 1),
    (Fault.of_body(b'{"code":-1000,"msg":"An unknown error"}'), ALWAYS, DecodeError, 1),
    (Fault.of_body(b"x" * (8 * 1024 * 1024 + 1)), 1, None, 2),
    (
        Fault.of_status(400, b'{"code":-1121,"msg":"Invalid symbol."}'),
        ALWAYS,
        InvalidSymbolError,
        1,
    ),
    (Fault.of_status(401), ALWAYS, StatusError, 1),
    (Fault.of_status(403, b"<html>WAF</html>"), ALWAYS, ForbiddenError, 1),
    (Fault.of_status(404), ALWAYS, StatusError, 1),
    (Fault.of_status(451), ALWAYS, ForbiddenError, 1),
    (Fault.of_status(302, b"", {"Location": "/fapi/v1/ping"}), ALWAYS, StatusError, 1),
    (Fault.of_status(429, b"", {"Retry-After": "5"}), 1, None, 2),
    (Fault.of_status(418, b"", {"Retry-After": "5"}), 1, IPBannedError, 1),
]


@pytest.mark.parametrize("warm", [False, True], ids=["new connection", "kept-alive connection"])
@pytest.mark.parametrize(("fault", "times", "kind", "asked"), FAULTS)
async def test_each_fault_gives_the_documented_error_or_a_good_answer(
    exchange: Sandbox,
    client: InsuranceClient,
    fault: Fault,
    times: int,
    kind: type[InsuranceError] | None,
    asked: int,
    warm: bool,
) -> None:
    if warm:
        await client.fetch_pool("BTCUSDT")
    before = len(exchange.requests)
    exchange.inject(*[fault] * times)
    if kind is None:
        assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
    else:
        with pytest.raises(InsuranceError) as caught:
            await client.fetch_pool("BTCUSDT")
        assert type(caught.value) is kind
        assert caught.value.symbol == "BTCUSDT"
    assert len(exchange.requests) - before == asked
    assert client.stats().weight_spent == exchange.accounting.weight


async def test_a_compressed_answer_that_is_too_large_is_a_transport_error(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(*[Fault.of_body(b"[" + b" " * (64 * 1024 * 1024))] * 4)  # small when zipped
    with pytest.raises(TransportError, match="larger than 8 MiB"):
        await client.fetch_snapshot()


@pytest.mark.parametrize("header", ["missing", "minus-one"])
async def test_without_a_used_weight_header_the_budget_counts_its_own_weight(
    runtime: Runtime, header: Any
) -> None:
    async with Sandbox(
        Singles(40), limit=20, used_weight_header=header, clock=wall_time
    ) as exchange:
        budget = LocalBudget(20, reserve=5, runtime=runtime)
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            await asyncio.gather(*[client.fetch_pool(f"S{n}USDT") for n in range(40)])
            assert client.stats().used_weight is None
    assert exchange.accounting.verdicts == {200: 40}


async def test_no_refusal_with_a_slow_exchange_and_busy_other_clients(runtime: Runtime) -> None:
    async with Sandbox(
        Singles(300),
        limit=120,
        clock=wall_time,
        clock_offset=-31.7,
        latency=0.3,
        other_weight_per_second=0.5,
    ) as exchange:
        budget = LocalBudget(120, reserve=20, runtime=runtime)
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            for start in range(0, 300, 30):
                calls = [client.fetch_pool(f"S{n}USDT") for n in range(start, start + 30)]
                await asyncio.gather(*calls)
        assert exchange.accounting.verdicts == {200: 300}


async def test_a_short_timeout_covers_everything(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.inject(*[Fault.stall()] * 4)
    with pytest.raises(RequestTimeoutError, match="no complete answer within 3 s"):
        await client.fetch_pool("BTCUSDT", timeout=3)
    assert loop_time() == pytest.approx(3, abs=0.1)


async def test_no_free_slot_before_the_timeout_is_a_timeout_error(
    exchange: Sandbox, runtime: Runtime
) -> None:
    exchange.inject(Fault.stall())
    async with InsuranceClient(exchange.url, max_concurrency=1, runtime=runtime) as client:
        first = asyncio.create_task(client.fetch_pool("BTCUSDT", timeout=9))
        await asyncio.sleep(1)
        with pytest.raises(RequestTimeoutError, match="no complete answer within 2 s"):
            await client.fetch_pool("ADAUSDT", timeout=2)
        assert loop_time() == pytest.approx(3, abs=0.1)
        with pytest.raises(RequestTimeoutError):
            await first


async def test_closing_with_calls_in_flight_leaves_no_warning(
    exchange: Sandbox, runtime: Runtime
) -> None:
    budget = LocalBudget(runtime=runtime)
    client = InsuranceClient(exchange.url, budget=budget, runtime=runtime)
    await client.fetch_pool("BTCUSDT")
    exchange.inject(*[Fault.stall()] * 5)
    calls: list[asyncio.Task[object]] = [
        asyncio.create_task(client.fetch_pool("BTCUSDT")) for _ in range(3)
    ]
    calls.append(asyncio.create_task(client.fetch_snapshot()))
    await asyncio.sleep(1)
    await client.aclose()
    for call in calls:
        with pytest.raises(ClientClosedError, match="the client was closed during the call"):
            await call
    gc.collect()


UNCLOSED = """
import asyncio, gc
from binance_insurance import InsuranceClient
from binance_insurance.sandbox import Sandbox

async def main():
    asyncio.get_running_loop().slow_callback_duration = 60  # says nothing of a slow machine
    async with Sandbox() as exchange:
        await InsuranceClient(exchange.url).fetch_pool("BTCUSDT")  # not closed, garbage collected
        gc.collect()
        kept = InsuranceClient(exchange.url)  # not closed, alive until the loop ends
        await kept.fetch_pool("BTCUSDT")
        return kept

kept = asyncio.run(main())
"""


def test_a_client_that_is_not_closed_leaves_no_warning() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", "-W", "error", "-c", UNCLOSED],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


async def test_cancelled_requests_stay_charged(exchange: Sandbox, client: InsuranceClient) -> None:
    await client.fetch_pool("BTCUSDT")
    exchange.inject(Fault.stall())
    call = asyncio.create_task(client.fetch_pool("BTCUSDT"))
    await asyncio.sleep(1)
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert client.budget.state().in_flight == 1, "the exchange has counted it"
    assert client.stats().weight_spent == 2


async def test_several_clients_share_a_session_and_a_budget(
    exchange: Sandbox, runtime: Runtime
) -> None:
    seen: list[str] = []

    async def record(
        request: aiohttp.ClientRequest, handler: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(request.url.path)
        return await handler(request)

    budget = LocalBudget(runtime=runtime)
    async with aiohttp.ClientSession(middlewares=(record,)) as session:
        clients = [InsuranceClient(exchange.url, budget=budget, session=session) for _ in range(3)]
        await asyncio.gather(*[client.fetch_pool("BTCUSDT") for client in clients])
        for client in clients:
            await client.aclose()
        async with session.get(f"{exchange.url}/fapi/v1/ping") as answer:
            assert answer.status == 200
    assert budget.state().used_weight == 3
    assert len(seen) == 4, "the middlewares of the session apply"


async def test_a_given_session_sends_nothing_again_by_itself(
    exchange: Sandbox, runtime: Runtime
) -> None:
    async with aiohttp.ClientSession() as session:
        retry = RetryPolicy(max_attempts=1)
        client = InsuranceClient(exchange.url, session=session, retry=retry, runtime=runtime)
        await client.fetch_pool("BTCUSDT")
        exchange.inject(Fault.reset())
        with pytest.raises(TransportError):
            await client.fetch_pool("BTCUSDT")
    assert len(exchange.requests) == 2


async def test_after_the_timeout_nothing_is_sent(
    exchange: Sandbox, client: InsuranceClient
) -> None:
    exchange.latency = 3.0
    symbols = [f"S{number}" for number in range(300)]
    with pytest.raises(BulkFetchError, match="300 of 300 symbols failed"):
        await client.fetch_pools(symbols, timeout=4)
    assert loop_time() == pytest.approx(4, abs=0.01)
    assert client.stats().requests_sent == len(exchange.requests) < 50


async def test_a_probe_without_an_answer_does_not_fail_the_other_requests(runtime: Runtime) -> None:
    async with Sandbox(Singles(20), faults=[Fault.stall()], clock=wall_time) as exchange:
        budget = LocalBudget(runtime=runtime)
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            calls = [client.fetch_pool(f"S{n}USDT", timeout=5) for n in range(20)]
            results = await asyncio.gather(*calls, return_exceptions=True)
    assert [type(result).__name__ for result in results].count("RequestTimeoutError") == 1
    assert [type(result).__name__ for result in results].count("InsurancePool") == 19


async def test_waiting_for_weight_does_not_take_a_slot(exchange: Sandbox, runtime: Runtime) -> None:
    exchange.spend_elsewhere(2390)
    budget = LocalBudget(runtime=runtime)
    async with InsuranceClient(
        exchange.url, budget=budget, max_concurrency=2, runtime=runtime
    ) as client:
        await client.fetch_pool("BTCUSDT")
        waiting = [asyncio.create_task(client.fetch_pool("BTCUSDT")) for _ in range(5)]
        await asyncio.sleep(0)
        now = loop_time()
        with pytest.raises(BudgetTimeoutError):
            await client.fetch_pool("ETHUSDT", timeout=1)
        assert loop_time() == now
        await asyncio.sleep(0)
        assert budget.state().waiting == 1, "five callers, one request"
        await asyncio.gather(*waiting)


async def test_a_node_that_reports_less_weight_causes_no_refusal(runtime: Runtime) -> None:
    async with Sandbox(Singles(130), limit=60, node_lag=5, clock=wall_time) as exchange:
        budget = LocalBudget(60, reserve=25, runtime=runtime)  # less than all pools weigh
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            await asyncio.gather(*[client.fetch_pool(f"S{n}USDT") for n in range(130)])
    assert exchange.accounting.verdicts == {200: 130}


async def test_a_closed_user_session_is_a_connect_error(
    exchange: Sandbox, runtime: Runtime
) -> None:
    session = aiohttp.ClientSession()
    await session.close()
    async with InsuranceClient(exchange.url, session=session, runtime=runtime) as client:
        with pytest.raises(ConnectError, match="session that was given is closed"):
            await client.fetch_pool("BTCUSDT")
        with pytest.raises(BulkFetchError):
            await client.fetch_pools(["BTCUSDT", "ETHUSDT"])
        assert client.stats().weight_spent == 0


async def test_a_sandbox_refuses_an_unknown_scenario_and_a_url_before_its_start() -> None:
    with pytest.raises(ValueError, match="scenario must be one of"):
        Sandbox("nope")  # type: ignore[arg-type]
    with pytest.raises(RuntimeError, match="has not started"):
        Sandbox().url  # noqa: B018


async def test_a_refused_connection_is_a_connect_error(runtime: Runtime) -> None:
    async with Sandbox() as exchange:
        url = exchange.url
    async with InsuranceClient(url, runtime=runtime) as client:
        with pytest.raises(ConnectError, match=r"BTCUSDT: cannot connect to 127\.0\.0\.1:"):
            await client.fetch_pool("BTCUSDT")
        assert client.stats().weight_spent == 0


async def test_tls_is_verified(runtime: Runtime) -> None:
    async def pool(_: web.Request) -> web.Response:
        return web.json_response(
            {
                "symbols": ["BTCUSDT"],
                "assets": [{"asset": "USDT", "marginBalance": "1", "updateTime": 1}],
            }
        )

    authority = trustme.CA()
    server_side = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("127.0.0.1").configure_cert(server_side)  # pyright: ignore[reportUnknownMemberType]
    app = web.Application()
    app.router.add_get("/fapi/v1/insuranceBalance", pool)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=server_side).start()
    url = f"https://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with InsuranceClient(url, runtime=runtime) as client:
            with pytest.raises(ConnectError, match="no trusted TLS connection") as caught:
                await client.fetch_pool("BTCUSDT")
            assert isinstance(caught.value.__cause__, aiohttp.ClientConnectorCertificateError)
            assert "Error" not in str(caught.value), "users do not know the classes of aiohttp"
        client_side = ssl.create_default_context()
        authority.configure_trust(client_side)  # pyright: ignore[reportUnknownMemberType]
        connector = aiohttp.TCPConnector(ssl=client_side)
        async with aiohttp.ClientSession(connector=connector) as session:
            client = InsuranceClient(url, session=session, runtime=runtime)
            assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")
    finally:
        await runner.cleanup()


async def test_the_sandbox_serves_the_other_endpoints(exchange: Sandbox) -> None:
    async with aiohttp.ClientSession() as session:
        async with session.get(f"{exchange.url}/fapi/v1/time") as answer:
            time = msgspec.json.decode(await answer.read())["serverTime"]
            assert answer.headers["X-MBX-USED-WEIGHT-1M"] == "1"
        assert time == int(exchange.now * 1000)
        async with session.get(f"{exchange.url}/fapi/v1/exchangeInfo") as answer:
            info = msgspec.json.decode(await answer.read())
        assert info["rateLimits"][0]["limit"] == 2400
        assert len(info["symbols"]) == 23
        async with session.get(f"{exchange.url}/fapi/v1/ping") as answer:
            assert await answer.read() == b"{}"
    assert [seen.endpoint for seen in exchange.requests] == ["time", "exchangeInfo", "ping"]


async def test_the_sandbox_bans_after_repeated_429s_and_longer_each_time() -> None:
    async with Sandbox(limit=1, tolerated_refusals=2, ban_seconds=120, clock=wall_time) as exchange:

        async def ask() -> tuple[int, float]:
            async with aiohttp.request("GET", f"{exchange.url}/fapi/v1/ping") as answer:
                return answer.status, float(answer.headers.get("Retry-After", 0))

        assert [(await ask())[0] for _ in range(5)] == [200, 429, 429, 418, 418]
        assert 120 <= (await ask())[1] <= 121
        await asyncio.sleep(180)
        assert [(await ask())[0] for _ in range(4)] == [200, 429, 429, 418]
        assert 240 <= (await ask())[1] <= 241
