"""Any program on the IP can spend from a budget: what happens in each case, in every budget."""

from __future__ import annotations

import asyncio
from email.utils import formatdate
from typing import Any

import pytest

from binance_insurance import (
    Budget,
    BudgetTimeoutError,
    InsuranceClient,
    IPBannedError,
    LocalBudget,
    Report,
    RetryPolicy,
)
from binance_insurance.sandbox import Sandbox

from . import test_budgets
from .test_budgets import Place, open_window, run

place = test_budgets.place  # a fixture
USED = "X-MBX-USED-WEIGHT-1M"


def headers(place: Place, used: int | None, **more: str) -> dict[str, str]:
    """What the exchange would send now."""
    date = place.report(None).date
    assert date is not None
    found = {"date": formatdate(date, usegmt=True), **more}
    return found if used is None else {**found, USED.lower(): str(used)}


def left(budget: Budget) -> int:
    return budget.state().available


def test_what_is_reported_in_a_block_is_known_after_it(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        async with one.spend(5, timeout=10) as spending:
            assert one.state().in_flight == 5
            spending.report(200, headers(place, 40))
        assert (one.state().used_weight, one.state().in_flight, left(one)) == (40, 0, 50)
        async with other.spend(1) as spending:  # it need not be told: it asks
            assert (other.state().used_weight, left(other)) == (40, 49)
            spending.unsent()
        assert left(other) == 50

    run(place, body)


def test_the_first_call_of_a_block_counts(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        async with one.spend(5) as spending:
            spending.settle(place.report(40))
            spending.report(200, headers(place, 80))
            spending.unsent()
        assert one.state().used_weight == 40

    run(place, body)


@pytest.mark.parametrize("how", ["return", "exception", "cancellation"])
def test_a_block_that_says_nothing_was_sent_and_lost(place: Place, how: str) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place)

        inside = asyncio.Event()

        async def ask() -> None:
            async with one.spend(5):
                inside.set()
                if how == "exception":
                    raise OSError("cut off")
                if how == "cancellation":
                    await asyncio.sleep(60)

        task = asyncio.create_task(ask())
        await inside.wait()
        if how == "cancellation":
            task.cancel()
        await asyncio.wait([task])
        assert left(one) == 90 - 1 - 5
        async with other.spend(2) as spending:
            spending.unsent()
        assert left(other) == 90 - 1 - 5, "counted until a later answer proves otherwise"

    run(place, body)


def test_what_was_not_sent_is_back(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place)
        async with one.spend(5) as spending:
            spending.unsent()
        assert left(one) == 89

    run(place, body)


@pytest.mark.parametrize("weight", [-1, 1.5, True, "5"])
async def test_a_weight_is_an_int_of_0_or_more(weight: Any) -> None:
    with pytest.raises(ValueError, match="weight"):
        async with LocalBudget().spend(weight):
            pass
    for timeout in (0, -1.0, float("nan")):
        with pytest.raises(ValueError, match="timeout"):
            async with LocalBudget().spend(1, timeout=timeout):
                pass


def test_a_wait_that_cannot_end_in_time_fails_at_once(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 80)
        for weight, timeout in ((20, 5.0), (91, None)):
            with pytest.raises(BudgetTimeoutError):
                async with one.spend(weight, timeout=timeout):
                    pass
        assert (left(one), one.state().waiting) == (10, 0)

    run(place, body)


def test_a_ban_reaches_all_that_wait_and_all_that_ask(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 80)

        async def ask(weight: int) -> None:
            async with one.spend(weight):
                pass

        waiting = [asyncio.create_task(ask(20)) for _ in range(3)]
        async with one.spend(1) as spending:
            pass_ban = headers(place, None, **{"Retry-After": "200"})
            spending.report(418, pass_ban)
        await asyncio.wait(waiting)
        assert {type(task.exception()) for task in waiting} == {IPBannedError}
        for budget in (one, other):
            for weight in (0, 1):
                with pytest.raises(IPBannedError):
                    async with budget.spend(weight):
                        pass

    run(place, body)


def test_a_429_freezes_but_not_one_of_an_account_s_orders(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place)
        async with one.spend(0) as spending:
            spending.report(429, headers(place, 30), b'{"code":-1015,"msg":"Too many orders."}')
        assert one.state().frozen_until is None
        assert (one.state().used_weight, left(one)) == (30, 60)
        async with one.spend(1) as spending:
            spending.report(429, headers(place, 31, **{"Retry-After": "200"}))
        assert one.state().frozen_until is not None
        for budget in (one, other):
            for weight in (0, 1):
                with pytest.raises(BudgetTimeoutError):
                    async with budget.spend(weight, timeout=1):
                        pass

    run(place, body)


def test_placing_an_order_waits_for_no_weight_and_no_probe(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        async with one.spend(0) as spending:  # cold
            spending.report(200, headers(place, None))
        async with one.spend(1) as probe:
            async with one.spend(0, timeout=1) as spending:
                spending.report(200, headers(place, None))
            probe.report(200, headers(place, 90))

        async def ask() -> None:
            async with one.spend(1):
                pass

        waiting = [asyncio.create_task(ask()) for _ in range(20)]
        await asyncio.sleep(0.05)
        assert one.state().waiting == 20
        async with one.spend(0, timeout=1) as spending:
            spending.report(200, headers(place, None))
        assert (one.state().waiting, one.state().in_flight) == (20, 0)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)

    run(place, body)


async def test_answers_that_never_have_a_used_weight_do_not_make_it_trusted() -> None:
    budget = LocalBudget(100, reserve=0)
    for _ in range(4):
        async with budget.spend(1) as spending:
            spending.settle(Report(200, None, 1_790_000_000.0, counts=False))
    async with budget.spend(1):
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(budget.acquire(), 0.1)  # it waits for the probe


def test_a_cancelled_wait_leaves_no_trace_at_any_step(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 90)

        async def ask() -> None:
            async with one.spend(1):
                raise AssertionError("there is no weight")

        for steps in range(12):
            task = asyncio.create_task(ask())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task
            assert (one.state().waiting, one.state().in_flight) == (0, 0)

    run(place, body)


def test_a_block_that_is_cancelled_at_any_step_counts_once(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place)
        for steps in range(12):
            entered: list[bool] = []

            async def ask(entered: list[bool] = entered) -> None:
                async with one.spend(2) as spending:
                    entered.append(True)
                    spending.unsent()

            task = asyncio.create_task(ask())
            for _ in range(steps):
                await asyncio.sleep(0)
            task.cancel()
            await asyncio.wait([task])
            async with one.spend(1) as spending:
                spending.unsent()
            assert (one.state().waiting, one.state().in_flight, left(one)) == (0, 0, 89)

    run(place, body)


async def test_a_client_and_any_other_program_share_one_budget() -> None:
    budget = LocalBudget(100, reserve=0)
    async with (
        Sandbox("documented", limit=100) as exchange,
        InsuranceClient(exchange.url, budget=budget, retry=RetryPolicy(max_attempts=1)) as client,
    ):
        await client.fetch_pool("BTCUSDT")
        async with budget.spend(5) as spending:
            exchange.spend_elsewhere(5)
            spending.settle(Report(200, 6, float(int(exchange.now))))
        assert budget.state().used_weight == 6


def test_a_message_of_the_websocket_api_reports_the_same() -> None:
    limits = [
        {"rateLimitType": "ORDERS", "interval": "MINUTE", "intervalNum": 1, "count": 9},
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "count": 70},
        {"rateLimitType": "REQUEST_WEIGHT", "interval": "SECOND", "intervalNum": 10, "count": 5},
    ]
    message = {
        "id": 1,
        "status": 200,
        "result": {"serverTime": 1790000000123},
        "rateLimits": limits,
    }
    assert Report.from_message(message) == Report(200, 70, 1790000000.0)
    assert Report.from_message(message, interval=10) == Report(200, 5, 1790000000.0)
    times = {"serverTime": 1790000000123, "retryAfter": 1790000060123}
    banned = {"status": 418, "error": {"code": -1003, "msg": "…", "data": times}}
    assert Report.from_message(banned) == Report(
        418, None, 1790000000.0, retry_after=60.0, banned_until=1790000060.123
    )
    orders = {"status": 429, "error": {"code": -1015, "msg": "…"}}
    assert not Report.from_message(orders).freezes
    for nothing in (
        {},
        {"status": "x", "rateLimits": 5, "error": 7, "result": {"serverTime": ""}},
    ):
        assert Report.from_message(nothing) == Report(200)


@pytest.mark.parametrize("case", [str.lower, str.upper, str.title])
def test_headers_are_read_in_any_case(case: Any) -> None:
    found = {case(USED): "7", case("Date"): "Sun, 22 Nov 2026 12:00:00 GMT"}
    assert Report.from_response(200, found) == Report(200, 7, 1795348800.0)
    refused = {case("Retry-After"): "5"}
    assert Report.from_response(429, refused, b"{}").retry_after == 5.0
    assert Report.from_response(200, {"x-mbx-used-weight-2s": "9"}, interval=2).used_weight == 9


@pytest.mark.parametrize("body", ["text", None, bytearray(b"text")])
async def test_a_refusal_counts_whatever_type_its_body_has(body: Any) -> None:
    budget = LocalBudget()
    async with budget.spend() as spending:
        spending.report(418, {"Retry-After": "60"}, body)
    assert budget.state().banned_until is not None


async def test_what_is_no_answer_is_refused_at_once_not_with_the_first_ban() -> None:
    async with LocalBudget().spend() as spending:
        for status, body in (("200", b""), (200, 5), (None, b"")):
            wrong: Any = (status, {}, body)
            with pytest.raises(TypeError, match="must be"):
                spending.report(*wrong)
        no_report: Any = {"status": 418}
        with pytest.raises(TypeError, match="Report"):
            spending.settle(no_report)


def test_a_count_below_0_reports_nothing() -> None:
    limit = {"rateLimitType": "REQUEST_WEIGHT", "interval": "MINUTE", "intervalNum": 1, "count": -5}
    assert Report.from_message({"status": 200, "rateLimits": [limit]}) == Report(200)
