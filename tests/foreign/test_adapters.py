"""`BudgetAdapter` for requests and `BudgetTransport` for httpx: each request pays."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
import time
from collections.abc import AsyncGenerator, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, contextmanager
from math import nan
from typing import Any

import httpx
import pytest
import requests
from urllib3 import Retry

from binance_insurance import BudgetTimeoutError, IPBannedError, LocalBudget, Runtime, StoreError
from binance_insurance.middleware import BudgetAdapter, BudgetTransport
from binance_insurance.sandbox import Fault, Sandbox

from ..exchange import exchange_in_a_thread

DEPTH, DEPTH_PATH = "GET /fapi/v1/depth", "/fapi/v1/depth?symbol=BTCUSDT&limit=5"  # weighs 2
PING, ORDER = "/fapi/v1/ping", "/fapi/v1/order?symbol=BTCUSDT"
BAN = Fault.of_status(418, b'{"code":-1003,"msg":"banned"}', {"Retry-After": "120"})
TOO_MANY_ORDERS = Fault.of_status(429, b'{"code":-1015,"msg":"Too many new orders"}')


def spent(budget: LocalBudget) -> int:
    state = budget.state()
    return state.limit - state.reserve - state.available


# httpx, in virtual time


@pytest.fixture
def budget(runtime: Runtime) -> LocalBudget:
    return LocalBudget(runtime=runtime)


Send = Callable[[httpx.Request], httpx.Response]


@asynccontextmanager
async def client_of(
    exchange: Sandbox,
    budget: LocalBudget,
    *,
    transport: httpx.AsyncBaseTransport | None = None,
    timeout: float | None = None,
) -> AsyncGenerator[httpx.AsyncClient]:
    pays = BudgetTransport(
        budget,
        transport,
        base_url=exchange.url,
        orders=budget.view(reserve=0),
        timeout=timeout,
    )
    async with httpx.AsyncClient(transport=pays, base_url=exchange.url) as client:
        yield client


async def test_httpx_pays_and_reports(exchange: Sandbox, budget: LocalBudget) -> None:
    async with client_of(exchange, budget) as client:
        assert (await client.get(DEPTH_PATH)).json()["bids"]
        assert (await client.post(ORDER)).status_code == 200
    state = budget.state()
    assert (state.used_weight, state.in_flight, spent(budget)) == (2, 0, 2)


async def test_httpx_leaves_other_origins_alone(exchange: Sandbox, budget: LocalBudget) -> None:
    async with Sandbox() as spot, client_of(exchange, budget) as client:
        spot.inject(BAN, request=DEPTH)
        assert (await client.get(spot.url + DEPTH_PATH)).status_code == 418
    assert (spent(budget), budget.state().banned_until) == (0, None)


async def test_httpx_pays_for_each_hop(exchange: Sandbox, budget: LocalBudget) -> None:
    to_depth = Fault.of_status(302, headers={"Location": DEPTH_PATH})
    exchange.inject(to_depth, request=f"GET {PING}")
    async with client_of(exchange, budget) as client:
        assert (await client.get(PING, follow_redirects=True)).status_code == 200
    assert (len(exchange.requests), spent(budget)) == (2, 3)


async def test_httpx_gets_the_body_of_a_refusal(exchange: Sandbox, budget: LocalBudget) -> None:
    exchange.inject(TOO_MANY_ORDERS, request="POST /fapi/v1/order")
    async with client_of(exchange, budget) as client:
        response = await client.post(ORDER)
        assert (response.status_code, response.json()["code"]) == (429, -1015)
        assert budget.state().frozen_until is None
        exchange.inject(BAN, request=DEPTH)
        async with client.stream("GET", DEPTH_PATH) as streamed:
            assert b"".join([part async for part in streamed.aiter_raw()]) == BAN.body
        assert budget.state().banned_until is not None
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get(DEPTH_PATH)
    assert isinstance(caught.value.__cause__, IPBannedError)


async def test_httpx_sends_nothing_after_a_ban_also_of_those_that_wait_for_a_connection(
    exchange: Sandbox, budget: LocalBudget
) -> None:
    two = httpx.AsyncHTTPTransport(limits=httpx.Limits(max_connections=2))
    async with client_of(exchange, budget, transport=two) as client:
        client.timeout = httpx.Timeout(60)
        await client.get(PING)
        exchange.latency = 0.5
        exchange.inject(BAN, request=DEPTH)
        asked = [asyncio.create_task(client.get(DEPTH_PATH)) for _ in range(30)]
        results = await asyncio.gather(*asked, return_exceptions=True)
    assert len(exchange.requests) <= 1 + 2
    failed = [each for each in results if isinstance(each, Exception)]
    assert len(failed) >= 28
    assert {type(each.__cause__) for each in failed} == {IPBannedError}
    assert budget.state().in_flight == 0


async def test_httpx_waits_no_longer_than_its_timeout(exchange: Sandbox, runtime: Runtime) -> None:
    budget = LocalBudget(10, reserve=5, runtime=runtime)
    async with client_of(exchange, budget, timeout=3) as client:
        for _ in range(2):
            await client.get(DEPTH_PATH)
        with pytest.raises(httpx.ConnectError) as caught:
            await client.get(DEPTH_PATH)
        assert isinstance(caught.value.__cause__, BudgetTimeoutError)
        assert (await client.delete(ORDER)).status_code == 200  # from a view without a reserve


async def test_httpx_gives_back_what_was_certainly_not_sent(
    exchange: Sandbox, budget: LocalBudget
) -> None:
    def refuse(request: httpx.Request) -> httpx.Response:
        raise httpx.ConnectError("refused", request=request)

    async with client_of(exchange, budget, transport=httpx.MockTransport(refuse)) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(DEPTH_PATH)
    assert spent(budget) == 0

    nobody = httpx.AsyncHTTPTransport(proxy="http://127.0.0.1:9")  # nothing listens there
    async with client_of(exchange, budget, transport=nobody) as client:
        with pytest.raises(httpx.ConnectError):
            await client.get(DEPTH_PATH)
    assert spent(budget) == 0


@pytest.mark.parametrize("mocked", [False, True])
async def test_httpx_counts_what_was_sent_and_lost(
    mocked: bool, exchange: Sandbox, budget: LocalBudget
) -> None:
    def lose(request: httpx.Request) -> httpx.Response:
        raise httpx.ReadError("lost", request=request)

    exchange.inject(Fault.reset(), request=DEPTH)
    transport = httpx.MockTransport(lose) if mocked else None
    async with client_of(exchange, budget, transport=transport) as client:
        with pytest.raises(httpx.ReadError):
            await client.get(DEPTH_PATH)
    assert spent(budget) == 2


async def test_httpx_keeps_the_trace_of_its_program(exchange: Sandbox, budget: LocalBudget) -> None:
    seen: list[str] = []

    async def trace(name: str, info: object) -> None:
        seen.append(name)

    async with client_of(exchange, budget) as client:
        await client.get(DEPTH_PATH, extensions={"trace": trace})
    assert "http11.send_request_headers.started" in seen
    assert spent(budget) == 2


async def test_httpx_does_not_hold_a_stream_back(exchange: Sandbox, budget: LocalBudget) -> None:
    async with (
        client_of(exchange, budget) as client,
        client.stream("GET", DEPTH_PATH) as response,
    ):
        assert budget.state().in_flight == 0  # it is reported before its body is read
        assert await response.aread()


# requests, in real time


@pytest.fixture
def served() -> Generator[Sandbox]:
    with exchange_in_a_thread() as exchange:
        yield exchange


@contextmanager
def session_of(
    exchange: Sandbox, budget: LocalBudget, *, timeout: float | None = None
) -> Generator[tuple[requests.Session, BudgetAdapter]]:
    with (
        budget.blocking() as sync,
        budget.view(reserve=0).blocking() as orders,
        requests.Session() as session,
    ):
        adapter = BudgetAdapter(sync, orders=orders, timeout=timeout)
        session.mount("http://", adapter)
        session.get(exchange.url + PING)
        yield session, adapter


def test_requests_pays_and_reports(served: Sandbox) -> None:
    budget = LocalBudget()
    with session_of(served, budget) as (session, _):
        assert session.get(served.url + DEPTH_PATH).json()["bids"]
        assert session.post(served.url + ORDER).status_code == 200
        state = budget.state()
    assert (state.used_weight, state.in_flight, spent(budget)) == (3, 0, 3)


def test_requests_leaves_other_origins_alone(served: Sandbox) -> None:
    budget = LocalBudget()
    with exchange_in_a_thread() as spot, session_of(served, budget) as (session, _):
        spot.inject(BAN, request=DEPTH)
        assert session.get(spot.url + DEPTH_PATH).status_code == 418
        assert (spent(budget), budget.state().banned_until) == (1, None)


def test_requests_pays_for_each_hop(served: Sandbox) -> None:
    budget = LocalBudget()
    with session_of(served, budget) as (session, _):
        served.inject(Fault.of_status(302, headers={"Location": DEPTH_PATH}), request=f"GET {PING}")
        assert session.get(served.url + PING).status_code == 200
        assert (len(served.requests), spent(budget)) == (3, 4)


@pytest.mark.parametrize("proxied", [False, True])
def test_requests_pays_for_what_urllib3_sends_again(proxied: bool, served: Sandbox) -> None:
    budget = LocalBudget()
    proxies = {"http": served.url} if proxied else {}  # it takes whole URLs, as a proxy does
    with session_of(served, budget) as (session, adapter):
        adapter.max_retries = Retry(2)
        served.inject(Fault.reset(), Fault.reset(), request=DEPTH)
        assert session.get(served.url + DEPTH_PATH, proxies=proxies).status_code == 200
        assert [seen.weight for seen in served.requests] == [1, 2, 2, 2]
        assert spent(budget) == 7 + 2 * 2  # the lost ones may arrive yet


def test_requests_gets_the_body_of_a_refusal(served: Sandbox) -> None:
    budget = LocalBudget()
    with session_of(served, budget) as (session, _):
        served.inject(TOO_MANY_ORDERS, request="POST /fapi/v1/order")
        response = session.post(served.url + ORDER)
        assert (response.status_code, response.json()["code"]) == (429, -1015)
        assert budget.state().frozen_until is None
        served.inject(BAN, request=DEPTH)
        streamed = session.get(served.url + DEPTH_PATH, stream=True)
        assert b"".join(streamed.iter_content(8)) == BAN.body
        assert budget.state().banned_until is not None
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(served.url + DEPTH_PATH)
    assert isinstance(caught.value.__cause__, IPBannedError)


def test_requests_sends_nothing_after_a_ban_also_of_those_that_wait_for_a_connection(
    served: Sandbox,
) -> None:
    budget = LocalBudget()

    def get() -> int | Exception:
        try:
            return session.get(served.url + DEPTH_PATH).status_code
        except requests.ConnectionError as error:
            return error

    with session_of(served, budget) as (session, adapter), ThreadPoolExecutor(20) as threads:
        adapter.close()
        adapter.init_poolmanager(1, 2, block=True)
        served.latency = 0.3
        served.inject(BAN, request=DEPTH)
        results = [each.result() for each in [threads.submit(get) for _ in range(20)]]
        assert budget.state().in_flight == 0
    assert len(served.requests) <= 1 + 2
    failed = [each for each in results if isinstance(each, Exception)]
    assert len(failed) >= 18
    assert {type(each.__cause__) for each in failed} == {IPBannedError}


def test_requests_waits_no_longer_than_its_timeout(served: Sandbox) -> None:
    budget = LocalBudget(10, reserve=6)
    with session_of(served, budget, timeout=0.5) as (session, _):
        session.get(served.url + DEPTH_PATH)
        with pytest.raises(requests.ConnectionError) as caught:
            session.get(served.url + DEPTH_PATH)
        assert isinstance(caught.value.__cause__, BudgetTimeoutError)
        assert session.delete(served.url + ORDER).status_code == 200


def test_requests_gives_back_what_was_certainly_not_sent(unused_tcp_port: int) -> None:
    budget = LocalBudget()
    with budget.blocking() as sync, requests.Session() as session:
        session.mount("http://", BudgetAdapter(sync))
        with pytest.raises(requests.ConnectionError):
            session.get(f"http://127.0.0.1:{unused_tcp_port}{DEPTH_PATH}")
        assert spent(budget) == 0


def test_requests_counts_what_was_sent_and_lost(served: Sandbox) -> None:
    budget = LocalBudget()
    with session_of(served, budget) as (session, _):
        served.inject(Fault.reset(), request=DEPTH)
        with pytest.raises(requests.ConnectionError):
            session.get(served.url + DEPTH_PATH)
        assert spent(budget) == 1 + 2


def test_an_interrupted_wait_of_requests_leaves_no_trace(served: Sandbox) -> None:
    budget = LocalBudget(10, reserve=7)
    with session_of(served, budget) as (session, _):
        session.get(served.url + DEPTH_PATH)

        def interrupt() -> None:
            while not budget.state().waiting:
                time.sleep(0.01)
            os.kill(os.getpid(), signal.SIGINT)

        interrupting = threading.Thread(target=interrupt, daemon=True)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            session.get(served.url + DEPTH_PATH)
        interrupting.join(30)
        end = time.monotonic() + 30
        while budget.state().waiting and time.monotonic() < end:
            time.sleep(0.01)
        state = budget.state()
    assert (state.waiting, state.in_flight, spent(budget)) == (0, 0, 3)


async def test_requests_in_the_thread_of_the_loop_is_an_error(exchange: Sandbox) -> None:
    budget = LocalBudget()
    with budget.blocking() as sync, requests.Session() as session:
        session.mount("http://", BudgetAdapter(sync))
        with pytest.raises(RuntimeError, match="would stop its own event loop"):
            session.get(exchange.url + PING)


def test_an_adapter_says_that_it_needs_a_blocking_budget() -> None:
    with pytest.raises(TypeError, match=r"a thread needs `budget.blocking\(\)`"):
        BudgetAdapter(LocalBudget())  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]


def test_the_answer_of_requests_arrives_after_the_end_of_the_loop(served: Sandbox) -> None:
    budget = LocalBudget(3, reserve=0)
    answered: list[requests.Response] = []
    waited: list[requests.ConnectionError] = []
    leaves, ended = threading.Event(), threading.Event()

    def get(session: requests.Session) -> None:
        answered.append(session.get(served.url + DEPTH_PATH))

    def wait(session: requests.Session) -> None:
        try:
            session.get(served.url + DEPTH_PATH)
        except requests.ConnectionError as error:
            waited.append(error)

    class Slow(BudgetAdapter):
        def build_response(self, req: requests.PreparedRequest, resp: Any) -> requests.Response:
            leaves.set()
            ended.wait(30)
            return super().build_response(req, resp)

    async def main() -> list[threading.Thread]:
        sync = budget.blocking()
        started: list[threading.Thread] = []
        for adapter, target in ((Slow(sync), get), (BudgetAdapter(sync), wait)):
            session = requests.Session()
            session.mount("http://", adapter)
            started.append(threading.Thread(target=target, args=(session,)))
            started[-1].start()
            await asyncio.to_thread(leaves.wait, 30)
        while not budget.state().waiting:  # noqa: ASYNC110 - a thread comes, not a task
            await asyncio.sleep(0.001)
        return started

    started = asyncio.run(main())
    ended.set()
    for thread in started:
        thread.join(30)
    assert [each.status_code for each in answered] == [200]
    (error,) = waited
    assert isinstance(error.__cause__, StoreError)
    assert "the event loop of the budget has ended" in str(error)
    assert (budget.state().used_weight, budget.state().in_flight) == (2, 0)


@pytest.mark.parametrize(
    ("name", "wrong", "error"),
    [
        ("orders", LocalBudget(), TypeError),
        ("weigh", 5, TypeError),
        ("timeout", "1", TypeError),
        ("timeout", 0, ValueError),
        ("timeout", nan, ValueError),
    ],
)
def test_a_wrong_argument_is_refused(name: str, wrong: Any, error: type[Exception]) -> None:
    budget = LocalBudget()
    with pytest.raises(error):
        BudgetAdapter(budget.blocking(), **{name: wrong})
    if isinstance(wrong, LocalBudget):
        wrong = wrong.blocking()
    with pytest.raises(error, match=name):
        BudgetTransport(budget, base_url="http://mine", **{name: wrong})
    budget.serve("http://other")


def test_an_adapter_s_orders_have_the_window_of_its_budget() -> None:
    orders = LocalBudget(interval=2).blocking()
    with pytest.raises(ValueError, match="orders must have the window"):
        BudgetAdapter(LocalBudget().blocking(), orders=orders)


@pytest.mark.parametrize("wrong", [None, 5, LocalBudget().blocking()], ids=["none", "int", "sync"])
def test_httpx_needs_a_budget_that_does_not_block(wrong: Any) -> None:
    with pytest.raises(TypeError, match="budget must be a Budget"):
        BudgetTransport(wrong)
