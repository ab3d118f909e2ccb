"""Requests of a user's own aiohttp session pay for what they weigh, and learn it."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import asynccontextmanager
from math import nan
from typing import Any

import aiohttp
import pytest
from aiohttp import web

from binance_insurance import (
    Budget,
    BudgetTimeoutError,
    InsuranceClient,
    IPBannedError,
    LocalBudget,
    Runtime,
)
from binance_insurance.middleware import BudgetMiddleware
from binance_insurance.sandbox import Fault, Sandbox

from .conftest import wall_time

LIMIT, INTERVAL = 600, 2
DEPTH, DEPTH_PATH = "GET /fapi/v1/depth", "/fapi/v1/depth?symbol=BTCUSDT&limit=5"  # weighs 2
NEW, ORDER = "/fapi/v1/new", "/fapi/v1/order?symbol=BTCUSDT"
BOOK = "/fapi/v1/ticker/bookTicker?symbol=BTCUSDT"
SNAPSHOT = "/fapi/v1/insuranceBalance"
USED = "X-MBX-USED-WEIGHT-1M"

Paying = Callable[..., aiohttp.ClientSession]


@pytest.fixture
def budget(runtime: Runtime) -> LocalBudget:
    return LocalBudget(runtime=runtime)


@pytest.fixture
async def paying(exchange: Sandbox, budget: LocalBudget) -> AsyncIterator[Paying]:
    """Make a session that pays: `paying(orders=…, connector=…)`."""
    sessions: list[aiohttp.ClientSession] = []

    def make(
        pays_from: Budget = budget,
        *,
        connector: aiohttp.TCPConnector | None = None,
        before: tuple[aiohttp.ClientMiddlewareType, ...] = (),
        weigh: Callable[[str, str], int | None] | None = None,
        orders: Budget | None = None,
        timeout: float | None = None,
        total: float | None = None,
    ) -> aiohttp.ClientSession:
        pays = BudgetMiddleware(
            pays_from, base_url=exchange.url, weigh=weigh, orders=orders, timeout=timeout
        )
        session = aiohttp.ClientSession(
            exchange.url,
            connector=connector,
            middlewares=[*before, pays],
            timeout=aiohttp.ClientTimeout(total=total),
        )
        sessions.append(session)
        return session

    yield make
    for session in sessions:
        await session.close()


async def get(session: aiohttp.ClientSession, url: str) -> tuple[int, bytes]:
    async with session.get(url) as response:
        return response.status, await response.read()


def spent(budget: LocalBudget) -> int:
    state = budget.state()
    return state.limit - state.reserve - state.available


async def busy(session: aiohttp.ClientSession, url: str, *, callers: int, windows: int) -> None:
    """Let so many callers ask, one request after another, until some windows are over."""
    loop = asyncio.get_running_loop()
    end = loop.time() + windows * INTERVAL

    async def ask() -> None:
        while loop.time() < end:
            assert (await get(session, url))[0] == 200

    await asyncio.gather(*(ask() for _ in range(callers)))


def weight_of_windows(exchange: Sandbox) -> list[int]:
    """What each window was charged, without the last, which may have ended early."""
    windows: dict[int, int] = {}
    for seen in exchange.requests:
        number = int(seen.at // INTERVAL)
        windows[number] = windows.get(number, 0) + seen.weight
    return [windows[number] for number in sorted(windows)][:-1]


@asynccontextmanager
async def other_host(app: web.Application) -> AsyncGenerator[str]:
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    await runner.cleanup()


# What a request pays


async def test_a_request_pays_what_the_table_says(paying: Paying, budget: LocalBudget) -> None:
    async with paying() as session:
        assert (await get(session, DEPTH_PATH))[0] == 200
        state = budget.state()
        assert (state.used_weight, state.in_flight) == (2, 0)


async def test_the_weight_of_the_user_counts_where_it_is_an_int(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    exchange.latency = 1.0

    def weigh(method: str, url: str) -> int | None:
        return 11 if (method, url) == ("GET", f"{exchange.url}/fapi/v1/ping") else None

    session = paying(weigh=weigh)
    await get(session, "/fapi/v1/ping")  # so that nobody waits for a probe any more
    requests = [asyncio.create_task(get(session, url)) for url in ("/fapi/v1/ping", DEPTH_PATH)]
    await asyncio.sleep(0.5)
    assert budget.state().in_flight == 11 + 2
    await asyncio.gather(*requests)


async def test_a_weight_below_zero_is_an_error(paying: Paying) -> None:
    def weigh(method: str, url: str) -> int:
        return -1

    session = paying(weigh=weigh)
    with pytest.raises(ValueError, match="weigh must return an int of 0 or more, not -1"):
        await get(session, DEPTH_PATH)


async def test_orders_spend_from_the_budget_that_is_named_for_them(
    exchange: Sandbox, paying: Paying, runtime: Runtime
) -> None:
    budget = LocalBudget(100, reserve=90, runtime=runtime)
    session = paying(budget, orders=budget.view(reserve=0))
    exchange.accounting.limit = 100
    for _ in range(5):
        await get(session, DEPTH_PATH)
    with pytest.raises(aiohttp.ClientConnectionError):  # reads have no weight left
        await get(paying(budget, timeout=1), DEPTH_PATH)
    async with session.delete(ORDER) as response:
        assert response.status == 200
    assert budget.state().used_weight == 10
    assert exchange.accounting.used_weight(exchange.now) == 11


async def test_placing_an_order_does_not_wait_for_weight(
    exchange: Sandbox, paying: Paying, runtime: Runtime
) -> None:
    budget = LocalBudget(100, reserve=0, runtime=runtime)
    session = paying(budget)
    async with session.post(ORDER) as response:  # nothing is known yet
        assert response.status == 200
    reads = [asyncio.create_task(get(session, DEPTH_PATH)) for _ in range(70)]
    await asyncio.sleep(1)
    assert budget.state().waiting == 20
    async with asyncio.timeout(1), session.post(ORDER) as response:
        assert response.status == 200
    for read in reads:
        read.cancel()
    await asyncio.gather(*reads, return_exceptions=True)


async def test_a_snapshot_is_charged_as_measured_until_answers_show_less(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    exchange.snapshot_weight = 3
    session = paying()
    for charged in (40, 40, 40, 3):  # the first answer has none before it
        exchange.latency = 1.0
        request = asyncio.create_task(get(session, SNAPSHOT))
        await asyncio.sleep(0.5)
        assert budget.state().in_flight == charged
        await request


# What answers teach


@asynccontextmanager
async def small(runtime: Runtime, sandbox: Sandbox) -> AsyncGenerator[aiohttp.ClientSession]:
    async with sandbox:
        budget = LocalBudget(LIMIT, interval=INTERVAL, reserve=0, runtime=runtime)
        pays = BudgetMiddleware(budget, base_url=sandbox.url)
        async with aiohttp.ClientSession(sandbox.url, middlewares=[pays]) as session:
            yield session


def exchange_of_two_seconds(**settings: object) -> Sandbox:
    return Sandbox(limit=LIMIT, interval=INTERVAL, clock=wall_time, latency=0.01, **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("callers", [8, 64])
async def test_the_weight_of_an_unknown_request_is_learned(callers: int, runtime: Runtime) -> None:
    exchange = exchange_of_two_seconds(weights={f"GET {NEW}": 7})
    async with small(runtime, exchange) as session:
        await busy(session, NEW, callers=callers, windows=5)
    assert set(exchange.accounting.verdicts) == {200}
    used = weight_of_windows(exchange)
    assert min(used[2:]) >= 0.9 * LIMIT, used


@pytest.mark.parametrize("reported", [1, 599])
async def test_an_inaccurate_used_weight_changes_nothing(reported: int, runtime: Runtime) -> None:
    exchange = exchange_of_two_seconds(inaccurate_used_weight=reported)
    async with small(runtime, exchange) as session:
        await get(session, "/fapi/v1/ping")
        reads = busy(session, DEPTH_PATH, callers=4, windows=4)
        await asyncio.gather(reads, busy(session, BOOK, callers=4, windows=4))
    assert set(exchange.accounting.verdicts) == {200}
    used = weight_of_windows(exchange)
    assert min(used[1:]) >= 0.9 * LIMIT, used


async def charged(session: aiohttp.ClientSession, budget: LocalBudget, url: str) -> int:
    """What one request is charged while it is out."""
    request = asyncio.create_task(get(session, url))
    await asyncio.sleep(0.05)
    weight = budget.state().in_flight
    await request
    return weight


async def test_a_known_request_that_costs_more_three_times_is_charged_that(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    exchange.latency = 0.1
    exchange.weights[DEPTH] = 5
    session = paying()
    await get(session, "/fapi/v1/ping")
    assert [await charged(session, budget, DEPTH_PATH) for _ in range(4)] == [2, 2, 2, 5]
    exchange.weights[DEPTH] = 1  # never less than documented
    assert [await charged(session, budget, DEPTH_PATH) for _ in range(3)] == [5, 2, 2]


async def test_what_others_of_the_budget_spend_teaches_nothing_of_a_known_request(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    exchange.latency = 0.1
    session = paying()
    await get(session, "/fapi/v1/ping")
    async with InsuranceClient(exchange.url, budget=budget) as client:
        for _ in range(4):
            both = client.fetch_pool("BTCUSDT"), charged(session, budget, DEPTH_PATH)
            await asyncio.gather(*both)
            await get(session, BOOK)  # whose answer does not say that it was counted
            await charged(session, budget, DEPTH_PATH)
    assert await charged(session, budget, DEPTH_PATH) == 2


async def test_a_difference_across_windows_teaches_nothing(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    exchange.latency, exchange.weights[f"GET {NEW}"] = 0.1, 7
    session = paying()
    for _ in range(4):
        assert await charged(session, budget, NEW) == 50
        await asyncio.sleep(61)


async def test_what_was_learned_beside_others_is_no_reason_never_to_send(
    exchange: Sandbox, paying: Paying, runtime: Runtime
) -> None:
    exchange.weights[f"GET {NEW}"] = 7
    budget = LocalBudget(100, reserve=0, runtime=runtime)
    session = paying(budget)
    for _ in range(2):
        await get(session, "/fapi/v1/ping")
        exchange.spend_elsewhere(200)
        await get(session, NEW)
        await asyncio.sleep(61)
    assert (await get(session, NEW))[0] == 200


async def test_answers_without_a_used_weight_by_nature_are_not_silent(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying()
    for _ in range(3):
        await get(session, "/fapi/v1/trades?symbol=BTCUSDT")  # reports -1
    exchange.latency = 0.1
    reads = [asyncio.create_task(get(session, DEPTH_PATH)) for _ in range(3)]
    await asyncio.sleep(0.05)
    assert budget.state().in_flight == 2  # the others wait for what the first one reports
    await asyncio.gather(*reads)


# What is left alone


async def test_a_request_to_another_origin_passes_untouched(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    async def spot(request: web.Request) -> web.Response:
        status = 418 if request.path == "/ban" else 200
        return web.Response(status=status, headers={USED: "5990", "Retry-After": "120"})

    app = web.Application()
    app.router.add_get("/{path:.*}", spot)
    async with other_host(app) as url:
        session = paying()
        await get(session, DEPTH_PATH)
        assert (await get(session, f"{url}/used"))[0] == 200
        assert (await get(session, f"{url}/ban"))[0] == 418
        state = budget.state()
        assert (state.used_weight, state.banned_until, spent(budget)) == (2, None, 2)


async def test_each_hop_of_a_redirect_pays(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    to_depth = Fault.of_status(302, headers={"Location": DEPTH_PATH})
    exchange.inject(to_depth, request="GET /fapi/v1/ping")
    session = paying()
    assert (await get(session, "/fapi/v1/ping"))[0] == 200
    assert [seen.weight for seen in exchange.requests] == [1, 2]
    assert (budget.state().used_weight, spent(budget)) == (3, 3)


async def test_a_request_that_is_sent_again_pays_again(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying()
    await get(session, "/fapi/v1/ping")
    exchange.inject(Fault.reset(), request=DEPTH)  # aiohttp asks again by itself
    assert (await get(session, DEPTH_PATH))[0] == 200
    assert [seen.weight for seen in exchange.requests] == [1, 2, 2]
    assert spent(budget) == 5 + 2  # the lost one may arrive yet


async def test_a_streamed_body_is_not_held_back(runtime: Runtime) -> None:
    budget = LocalBudget(runtime=runtime)

    async def slowly(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={USED: "1"})
        await response.prepare(request)
        await response.write(b"first")
        await asyncio.sleep(1)
        await response.write(b"last")
        return response

    app = web.Application()
    app.router.add_get("/fapi/v1/ping", slowly)
    async with other_host(app) as url:
        pays = BudgetMiddleware(budget, base_url=url)
        async with aiohttp.ClientSession(url, middlewares=[pays]) as session:
            async with asyncio.timeout(0.5):
                response = await session.get("/fapi/v1/ping")
                assert await response.content.readany() == b"first"
            assert budget.state().in_flight == 0
            assert await response.read() == b"last"


async def test_a_client_on_a_paying_session_pays_once(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    seen: list[str] = []

    async def watch(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        seen.append(request.url.path)
        return await send(request)

    session = paying(before=(watch,))
    async with InsuranceClient(exchange.url, session=session, budget=budget) as client:
        for _ in range(20):
            await client.fetch_pool("BTCUSDT")
    assert (budget.state().used_weight, spent(budget), len(seen)) == (20, 20, 20)


async def test_an_answer_of_another_middleware_costs_nothing(
    exchange: Sandbox, budget: LocalBudget
) -> None:
    kept: list[aiohttp.ClientResponse] = []

    async def remember(
        request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        if not kept:
            kept.append(await send(request))
        return kept[0]

    pays = BudgetMiddleware(budget, base_url=exchange.url)
    async with aiohttp.ClientSession(exchange.url, middlewares=[pays, remember]) as session:
        for _ in range(3):
            assert (await session.get(DEPTH_PATH)).status == 200
    assert (len(exchange.requests), spent(budget)) == (1, 2)


# What is not sent


@pytest.mark.parametrize("banned", [False, True])
async def test_nothing_leaves_after_a_refusal_also_not_of_those_that_wait_for_a_connection(
    banned: bool, exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying(connector=aiohttp.TCPConnector(limit=2), total=50)
    await get(session, DEPTH_PATH)
    exchange.latency = 0.5
    body = b'{"code":-1003,"msg":"Too many requests"}'
    refusal = Fault.of_status(418 if banned else 429, body, {"Retry-After": "120"})
    exchange.inject(refusal, request=DEPTH)
    asked = [asyncio.create_task(get(session, DEPTH_PATH)) for _ in range(30)]
    results = await asyncio.gather(*asked, return_exceptions=True)
    assert len(exchange.requests) <= 1 + 2  # the one on the wire beside the one that was refused
    assert (418 if banned else 429, body) in results
    failed = [each for each in results if isinstance(each, Exception)]
    assert len(failed) >= 28
    if banned:
        assert {type(each.__cause__) for each in failed} == {IPBannedError}
        assert all(isinstance(each, aiohttp.ClientConnectionError) for each in failed)
    else:  # they wait for the end of the freeze, for as long as the session lets them
        assert all(isinstance(each, TimeoutError) for each in failed)
    assert budget.state().in_flight in {0, 2}


async def test_a_ban_of_the_session_reaches_the_client_and_the_other_way_round(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying()
    ban = Fault.of_status(418, b"{}", {"Retry-After": "120"})
    async with InsuranceClient(exchange.url, budget=budget) as client:
        exchange.inject(ban, request=DEPTH)
        assert (await get(session, DEPTH_PATH))[0] == 418
        with pytest.raises(IPBannedError):
            await client.fetch_pool("BTCUSDT")
        await asyncio.sleep(130)
        exchange.inject(ban)
        with pytest.raises(IPBannedError):
            await client.fetch_pool("BTCUSDT")
        with pytest.raises(aiohttp.ClientConnectionError) as caught:
            await get(session, DEPTH_PATH)
    assert isinstance(caught.value.__cause__, IPBannedError)
    assert len(exchange.requests) == 2


async def test_the_order_limit_of_an_account_freezes_nobody(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying()
    body = b'{"code":-1015,"msg":"Too many new orders"}'
    exchange.inject(Fault.of_status(429, body), request="POST /fapi/v1/order")
    async with session.post(ORDER) as response:
        assert (response.status, await response.read()) == (429, body)
    assert budget.state().frozen_until is None
    async with asyncio.timeout(1):
        assert (await get(session, DEPTH_PATH))[0] == 200


async def test_a_wait_that_cannot_end_in_time_looks_like_no_connection(
    exchange: Sandbox, paying: Paying, runtime: Runtime
) -> None:
    budget = LocalBudget(10, reserve=0, runtime=runtime)
    session = paying(budget, timeout=5)
    for _ in range(5):
        await get(session, DEPTH_PATH)
    with pytest.raises(aiohttp.ClientConnectionError) as caught:
        await get(session, DEPTH_PATH)
    assert isinstance(caught.value.__cause__, BudgetTimeoutError)
    assert len(exchange.requests) == 5


async def test_a_refused_connection_gives_its_weight_back(
    budget: LocalBudget, unused_tcp_port: int
) -> None:
    url = f"http://127.0.0.1:{unused_tcp_port}"
    pays = BudgetMiddleware(budget, base_url=url)
    async with aiohttp.ClientSession(url, middlewares=[pays]) as session:
        with pytest.raises(aiohttp.ClientConnectorError):
            await get(session, DEPTH_PATH)
    assert (budget.state().in_flight, spent(budget)) == (0, 0)


async def test_a_request_without_an_answer_stays_counted(
    exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying(total=5)
    await get(session, "/fapi/v1/ping")
    exchange.inject(Fault.stall(), request=DEPTH)
    with pytest.raises(TimeoutError):
        await get(session, DEPTH_PATH)
    assert budget.state().in_flight == 2


@pytest.mark.parametrize("steps", range(12))
async def test_a_cancelled_request_leaves_nothing_behind(
    steps: int, exchange: Sandbox, paying: Paying, budget: LocalBudget
) -> None:
    session = paying(connector=aiohttp.TCPConnector(limit=1))
    await get(session, "/fapi/v1/ping")
    request = asyncio.create_task(get(session, DEPTH_PATH))
    for _ in range(steps):
        await asyncio.sleep(0)
    request.cancel()
    await asyncio.gather(request, return_exceptions=True)
    await asyncio.sleep(20)  # what was sent has arrived, or never will
    assert (await get(session, "/fapi/v1/ping"))[0] == 200
    state = budget.state()
    assert (state.in_flight, state.waiting) == (0, 0)
    assert spent(budget) == state.used_weight == exchange.accounting.used_weight(exchange.now)


# Which exchange


async def test_a_middleware_names_the_exchange_of_its_budget(budget: LocalBudget) -> None:
    BudgetMiddleware(budget, base_url="https://demo-fapi.binance.com/fapi")
    with pytest.raises(ValueError, match="one budget serves one exchange"):
        BudgetMiddleware(budget)
    BudgetMiddleware(budget, base_url="https://testnet.binancefuture.com")  # the same exchange


@pytest.mark.parametrize("timeout", [0, -1, nan])
def test_a_timeout_is_positive(timeout: float, budget: LocalBudget) -> None:
    with pytest.raises(ValueError, match="timeout must be positive"):
        BudgetMiddleware(budget, timeout=timeout)


@pytest.mark.parametrize("wrong", [None, 5, LocalBudget().blocking()], ids=["none", "int", "sync"])
def test_a_budget_of_another_kind_is_refused(wrong: Any) -> None:
    with pytest.raises(TypeError, match="budget must be a Budget"):
        BudgetMiddleware(wrong)


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("orders", 5, TypeError),
        ("orders", LocalBudget().blocking(), TypeError),
        ("orders", LocalBudget(interval=2), ValueError),
        ("weigh", 5, TypeError),
        ("timeout", "1", TypeError),
        ("timeout", -1, ValueError),
    ],
)
def test_a_wrong_argument_is_refused_and_names_no_exchange(
    name: str, wrong: Any, error: type[Exception], budget: LocalBudget
) -> None:
    with pytest.raises(error, match=name):
        BudgetMiddleware(budget, base_url="http://mine", **{name: wrong})
    budget.serve("http://other")


def test_a_budget_of_orders_at_another_exchange_is_refused_and_names_none(
    budget: LocalBudget,
) -> None:
    orders = LocalBudget()
    orders.serve("http://other")
    with pytest.raises(ValueError, match="serves http://other, not http://mine"):
        BudgetMiddleware(budget, base_url="http://mine", orders=orders)
    budget.serve("http://other")


@pytest.mark.parametrize(
    ("name", "library"), [("BudgetAdapter", "requests"), ("BudgetTransport", "httpx")]
)
def test_an_import_without_the_library_says_so(
    name: str, library: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    import binance_insurance.middleware as package

    monkeypatch.setitem(sys.modules, library, None)
    with pytest.raises(ImportError, match=f"{name} is for programs that use {library}: install it"):
        getattr(package, name)
