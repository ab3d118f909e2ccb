"""`binance_insurance.testing`: a local exchange for the tests of users, which are not ours.

So most of them run as a user's would: by a pytest of their own, in a fresh directory.
"""

from __future__ import annotations

import asyncio
import inspect
import json
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from threading import get_ident
from typing import Any
from urllib.error import HTTPError
from urllib.request import urlopen

import pytest

from binance_insurance import (
    AssetBalance,
    InsuranceClient,
    InsurancePool,
    LocalBudget,
    RetryPolicy,
    Runtime,
    ServerError,
)
from binance_insurance.sandbox import Fault, Sandbox
from binance_insurance.testing import ClientOptions, ExchangeOptions, make_pool, run_exchange

from .conftest import wall_time
from .users import run_pytest

UNAVAILABLE = Fault.of_status(503, b"Service Unavailable.", counted=False)

CONFTEST = """
from binance_insurance.testing import make_pool  # before pytest loads it

pytest_plugins = ["binance_insurance.testing"]
"""

OF_ALL_KINDS = """
import json
from decimal import Decimal
from urllib.request import urlopen

import pytest

from binance_insurance import BudgetTimeoutError, IPBannedError
from binance_insurance.sandbox import Fault
from binance_insurance.testing import make_pool


@pytest.fixture
def anyio_backend():
    return "asyncio"


def test_blocking_code(insurance_exchange):
    url = f"{insurance_exchange.url}/fapi/v1/insuranceBalance?symbol=BTCUSDT"
    with urlopen(url) as answer:
        assert "BTCUSDT" in json.load(answer)["symbols"]
    assert [each.symbol for each in insurance_exchange.requests] == ["BTCUSDT"]


@pytest.mark.asyncio
async def test_a_coroutine_in_strict_mode(insurance_exchange):
    async with insurance_exchange.client() as client:
        assert "BTCUSDT" in await client.fetch_pool("BTCUSDT")


@pytest.mark.anyio
async def test_a_coroutine_with_anyio(insurance_exchange):
    async with insurance_exchange.client() as client:
        assert len(await client.fetch_snapshot()) == 3


@pytest.mark.anyio
async def test_a_ban(insurance_exchange):
    insurance_exchange.inject(Fault.of_status(418, headers={"Retry-After": "120"}))
    async with insurance_exchange.client() as client:
        for _ in range(3):
            with pytest.raises(IPBannedError):
                await client.fetch_pool("BTCUSDT")
    assert len(insurance_exchange.requests) == 1


@pytest.mark.anyio
async def test_a_thin_pool(insurance_exchange):
    insurance_exchange.set_pools(make_pool("BTCUSDT", USDT="12.50"))
    async with insurance_exchange.client() as client:
        assert (await client.fetch_pool("BTCUSDT")).balance("USDT") == Decimal("12.50")


@pytest.mark.anyio
async def test_the_weight_of_others(insurance_exchange):
    insurance_exchange.spend_elsewhere(2399)
    async with insurance_exchange.client() as client:
        await client.fetch_pool("BTCUSDT")
        with pytest.raises(BudgetTimeoutError):
            await client.fetch_pool("BTCUSDT", timeout=1)


class TestWithOptions:
    @pytest.fixture
    def insurance_exchange_options(self):
        return {"scenario": "market"}

    def test_of_a_class(self, insurance_exchange):
        with urlopen(f"{insurance_exchange.url}/fapi/v1/insuranceBalance") as answer:
            assert len(json.load(answer)) == 60


def test_that_leaves_a_fault_unmet(insurance_exchange):
    insurance_exchange.inject(Fault.of_status(503))
"""

WITHOUT_THE_LINE = """
import sys


def test_nothing_of_ours_is_imported():
    assert [name for name in sys.modules if name.partition(".")[0] == "binance_insurance"] == []
"""


def test_tests_of_all_kinds_pass_with_one_line_and_an_unmet_fault_is_an_error(
    tmp_path: Path,
) -> None:
    began = time.monotonic()
    output = run_pytest(tmp_path, {"conftest.py": CONFTEST, "test_kinds.py": OF_ALL_KINDS})
    assert time.monotonic() - began < 40
    assert "= 8 passed, 1 error in " in output, output
    assert " ERROR at teardown of test_that_leaves_a_fault_unmet " in output
    assert "no request met an injected fault: Fault(status=503" in output


def test_without_the_line_pytest_imports_nothing_of_ours(tmp_path: Path) -> None:
    output = run_pytest(tmp_path, {"test_without.py": WITHOUT_THE_LINE})
    assert "= 1 passed in " in output, output


def test_the_core_imports_no_pytest_and_the_exchange_needs_none() -> None:
    code = (
        "import sys, binance_insurance.cli\n"
        "print(sorted({'pytest', '_pytest', 'binance_insurance.testing'} & set(sys.modules)))\n"
        "sys.modules['pytest'] = None\n"
        "from binance_insurance.testing import run_exchange\n"
        "with run_exchange() as exchange: print(len(exchange.requests))\n"
    )
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("[]\n0\n", "")


# --- The exchange ---


def fetch(client: InsuranceClient, symbol: str = "BTCUSDT") -> InsurancePool:
    """Fetch a pool in a loop of its own, and close the client."""

    async def main() -> InsurancePool:
        async with client:
            return await client.fetch_pool(symbol, timeout=30)

    return asyncio.run(main())


def ask(url: str) -> object:
    """Ask as blocking code does."""
    with urlopen(url) as answer:  # noqa: S310 - http
        return json.load(answer)


def test_a_client_has_the_budget_of_the_exchange_without_a_reserve() -> None:
    with run_exchange(limit=50, interval=7) as exchange:
        client = exchange.client()
        fetch(client)
        state = client.budget.state()
        assert (state.limit, state.reserve, state.available) == (50, 0, 49)
        assert state.resets_at is not None
        end_of_window = (exchange.requests[0].at // 7 + 1) * 7
        assert state.resets_at.timestamp() == end_of_window


def test_a_client_retries_within_milliseconds() -> None:
    with run_exchange() as exchange:
        took: list[float] = []
        for _ in range(3):  # a busy machine may stop the process at any time
            exchange.inject(*[UNAVAILABLE] * 3)
            assert list(exchange.unmet_faults) == [UNAVAILABLE] * 3
            client = exchange.client()
            began = time.monotonic()
            fetch(client)
            took.append(time.monotonic() - began)
            assert client.stats().retries == 3
            assert not exchange.unmet_faults
        assert min(took) < 1


def test_the_options_of_a_client_win() -> None:
    with run_exchange() as exchange:
        budget = LocalBudget(7, reserve=0)
        client = exchange.client(budget=budget, retry=RetryPolicy(max_attempts=1))
        assert client.budget is budget
        exchange.inject(UNAVAILABLE)
        with pytest.raises(ServerError):
            fetch(client)


def test_no_budget_is_the_one_of_the_exchange_and_it_has_the_clocks_of_the_client() -> None:
    now = [time.monotonic()]
    with run_exchange(limit=50) as exchange:
        client = exchange.client(budget=None, runtime=Runtime(monotonic=lambda: now[0]))
        fetch(client)
        assert client.budget.state().available == 49
        now[0] += 90  # more than a window and the second after it
        assert client.budget.state().available == 50


def test_a_fault_is_for_the_requests_that_it_names() -> None:
    with run_exchange() as exchange:
        exchange.inject(UNAVAILABLE, request="GET /fapi/v1/ping")
        fetch(exchange.client())
        assert exchange.unmet_faults == (UNAVAILABLE,)
        with pytest.raises(HTTPError, match="503"):
            ask(f"{exchange.url}/fapi/v1/ping")


@pytest.mark.parametrize(
    ("options", "function"), [(ExchangeOptions, Sandbox), (ClientOptions, InsuranceClient)]
)
def test_the_options_are_all_keyword_arguments(
    options: type, function: Callable[..., object]
) -> None:
    arguments = [name for name in inspect.signature(function).parameters if name != "base_url"]
    assert list(options.__annotations__) == arguments


def test_every_method_works_from_any_thread_while_requests_arrive() -> None:
    with run_exchange(limit=100_000) as exchange, ThreadPoolExecutor(8) as threads:

        def work(number: int) -> int:
            exchange.set_pools(make_pool("BTCUSDT", USDT=number))
            exchange.spend_elsewhere(1)
            exchange.inject(Fault.of_body(b"[]"))
            for _ in range(4):
                ask(f"{exchange.url}/fapi/v1/insuranceBalance")
            return len(exchange.requests) + len(exchange.unmet_faults)

        counts = list(threads.map(work, range(40)))
        assert max(counts) == len(exchange.requests) == 160
        assert not exchange.unmet_faults
        assert max(each.used_weight for each in exchange.requests) == 160 * 40 + 40


def test_the_exchange_is_used_in_its_own_thread_only() -> None:
    threads: set[int] = set()

    def clock() -> float:
        threads.add(get_ident())
        return 1_790_000_000.0

    with run_exchange(clock=clock) as exchange:
        exchange.spend_elsewhere(1)
        ask(f"{exchange.url}/fapi/v1/ping")
    assert len(threads - {get_ident()}) == len(threads) == 1


def test_what_the_exchange_saw_can_be_read_after_its_end_and_in_its_own_thread() -> None:
    seen: list[int] = []

    def latency() -> float:
        seen.append(len(exchange.requests))
        return 0.0

    with run_exchange(latency=latency) as exchange:
        fetch(exchange.client())
    assert seen == [1]
    assert len(exchange.requests) == 1


def test_an_unmet_fault_is_an_error_at_the_end() -> None:
    with (
        pytest.raises(
            AssertionError, match=r"no request met an injected fault: Fault\(.* and 1 more"
        ),
        run_exchange(faults=[UNAVAILABLE] * 2),
    ):
        pass


def test_an_unmet_fault_is_named_in_short() -> None:
    with (
        pytest.raises(AssertionError, match="no request met") as caught,
        run_exchange(faults=[Fault.of_body(b"[" * 1000)]),
    ):
        pass
    assert len(str(caught.value)) < 300


def test_an_unmet_fault_hides_no_other_error() -> None:
    def fail() -> None:
        with run_exchange() as exchange:
            exchange.inject(Fault.order_limit(), request="POST /fapi/v1/order")
            assert len(exchange.unmet_faults) == 1
            raise LookupError

    with pytest.raises(LookupError):
        fail()


def test_an_exchange_that_cannot_start_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port: int = taken.getsockname()[1]
        with pytest.raises(OSError, match="in use"), run_exchange(port=port):
            pass


@pytest.mark.parametrize(("left", "begins_anew"), [(30.0, False), (10.5, False), (2.0, True)])
def test_a_window_does_not_end_soon_after_the_start(
    monkeypatch: pytest.MonkeyPatch, left: float, begins_anew: bool
) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_790_000_040.0 - left)
    with run_exchange() as exchange:
        ask(f"{exchange.url}/fapi/v1/ping")
    assert exchange.requests[0].at % 60 == (0.0 if begins_anew else 60 - left)


def test_what_means_nothing_is_an_error_at_once_and_changes_nothing() -> None:
    with run_exchange() as exchange:
        for wrong in ([UNAVAILABLE], 503):
            with pytest.raises(TypeError, match=r"a fault is a Fault, such as Fault\.of_status"):
                exchange.inject(UNAVAILABLE, wrong)  # type: ignore[arg-type]
        for weight in (-1, 1.5, "1"):
            with pytest.raises(ValueError, match="weight is a whole number, at least 0, not"):
                exchange.spend_elsewhere(weight)  # type: ignore[arg-type]
        ask(f"{exchange.url}/fapi/v1/ping")
        assert (exchange.unmet_faults, exchange.requests[0].used_weight) == ((), 1)
    with pytest.raises(TypeError, match="a fault is a Fault"):
        Sandbox(faults=[[UNAVAILABLE]])  # type: ignore[list-item]


@pytest.mark.parametrize("interval", [0, -1, 2.5, "60"])
def test_an_interval_is_a_whole_number_of_seconds(interval: int) -> None:
    with (
        pytest.raises(ValueError, match="interval is a whole number"),
        run_exchange(interval=interval),
    ):
        pass


def test_a_short_window_begins_anew_only_in_its_last_sixth(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(time, "time", lambda: 1_790_000_040.0 - 2.5)
    with run_exchange(interval=12) as exchange:
        ask(f"{exchange.url}/fapi/v1/ping")
    assert exchange.requests[0].at % 12 == 9.5


def test_a_clock_offset_that_is_given_is_kept() -> None:
    with run_exchange(clock_offset=1000.0) as exchange:
        ask(f"{exchange.url}/fapi/v1/ping")
        assert 900 < exchange.requests[0].at - time.time() <= 1000


# --- Pools ---


async def test_a_sandbox_serves_a_sequence_of_pools_and_those_that_are_set() -> None:
    first, second = make_pool("AUSDT", "BUSDT", USDT=1), make_pool("CUSDT", USDT=2)
    async with (
        Sandbox([first, second], clock=wall_time) as exchange,
        InsuranceClient(exchange.url) as client,
    ):
        snapshot = await client.fetch_snapshot()
        assert snapshot.pools == (first, second)
        moved = make_pool("AUSDT", USDT=1), make_pool("BUSDT", "CUSDT", USDT=2)
        exchange.set_pools(*moved)
        assert (await client.fetch_snapshot()).pools == moved
        exchange.set_pools(*snapshot.pools)  # what was fetched before
        assert await client.fetch_pool("BUSDT") == first


def test_a_sandbox_refuses_what_is_no_pool() -> None:
    pool = make_pool("BTCUSDT", USDT=1)
    with pytest.raises(TypeError, match="a pool is an InsurancePool, not list"):
        Sandbox().set_pools([pool])  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="not str"):
        Sandbox(("BTCUSDT",))  # type: ignore[arg-type]
    with run_exchange() as exchange, pytest.raises(TypeError, match="not NoneType"):
        exchange.set_pools(pool, None)  # type: ignore[arg-type]


def test_make_pool_makes_a_pool_of_symbols_and_exact_balances() -> None:
    pool = make_pool(
        "btcusdt", "币安人生USDT", update_time=5, USDT="12.50", BTC=-2, BNFCR=Decimal("1E-8")
    )
    assert pool == InsurancePool(
        ("BTCUSDT", "币安人生USDT"),
        (
            AssetBalance("USDT", Decimal("12.50"), 5),
            AssetBalance("BTC", Decimal(-2), 5),
            AssetBalance("BNFCR", Decimal("0.00000001"), 5),
        ),
    )
    assert str(pool.balance("USDT")) == "12.50"
    assert make_pool("BTCUSDT", usdt="0").balance("USDT") == 0


@pytest.mark.parametrize("balance", [12.5, True, None, (0, (1,), 0)])
def test_make_pool_takes_no_inexact_balance(balance: str) -> None:
    with pytest.raises(TypeError, match="the balance of USDT is a str, an int or a Decimal"):
        make_pool("BTCUSDT", USDT=balance)


def test_make_pool_takes_whole_milliseconds() -> None:
    with pytest.raises(TypeError, match="update_time is an int, in milliseconds, not a float"):
        make_pool("BTCUSDT", update_time=time.time() * 1000, USDT="1")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("symbols", "balances", "match"),
    [
        ((), {"USDT": "1"}, "at least one symbol"),
        (("BTCUSDT",), {}, "at least one asset"),
        (("BTC USDT",), {"USDT": "1"}, "has whitespace"),
        (("BTCUSDT",), {"USDT": "much"}, "the balance of USDT is no number: 'much'"),
        (("BTCUSDT",), {"USDT": "NaN"}, "is not an amount"),
        (("BTCUSDT",), {"USDT": "1", "usdt": "1"}, "lists an asset twice"),
    ],
)
def test_make_pool_refuses_what_is_no_pool(
    symbols: tuple[str, ...], balances: dict[str, Any], match: str
) -> None:
    with pytest.raises(ValueError, match=match):
        make_pool(*symbols, **balances)
