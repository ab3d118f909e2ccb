"""Views of a budget: the smallest reserve goes first, in every budget."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from binance_insurance import Budget, BudgetTimeoutError, InsuranceClient, LocalBudget
from binance_insurance.sandbox import Sandbox

from . import test_budgets
from .test_budgets import Place, open_window, run

place = test_budgets.place  # a fixture: 100 per minute, of which 10 are left to others


async def test_a_reserve_is_from_0_to_below_the_limit() -> None:
    budget = LocalBudget(100, reserve=10)
    wrong: list[Any] = [-1, 100, 101, 1.5, True, None, "5"]
    for reserve in wrong:
        with pytest.raises(ValueError, match="reserve"):
            budget.view(reserve=reserve)
        with pytest.raises(ValueError, match="reserve"):
            budget.view(reserve=0).view(reserve=reserve)


def test_a_view_grants_up_to_its_own_reserve(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 60)
        low, high = one.view(reserve=30), one.view(reserve=0)
        assert (low.capacity, one.capacity, high.capacity) == (70, 90, 100)
        assert (low.state().available, high.state().available) == (10, 40)
        assert (low.state().reserve, low.state().used_weight) == (30, 60)
        held = [await low.acquire(10), await one.acquire(20), await high.acquire(10)]
        for budget, weight in ((low, 1), (one, 1), (high, 1), (low, 71)):
            with pytest.raises(BudgetTimeoutError):
                await budget.acquire(weight, timeout=0.05)
        assert [low.confirm(lease) for lease in held] == [False, False, True], "strict priority"
        for lease in held:
            low.settle(lease, place.report(100))
        assert one.state().used_weight == 100

    run(place, body)


def test_the_more_important_go_first_and_hold_back_the_others(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 60)
        low, high = one.view(reserve=30), one.view(reserve=0)
        held = await high.acquire(40)
        order: list[str] = []

        async def ask(budget: Budget, weight: int, name: str) -> None:
            async with budget.spend(weight) as spending:
                order.append(name)
                spending.unsent()

        waiting = [
            asyncio.create_task(ask(low, 1, "low")),
            asyncio.create_task(ask(high, 30, "first")),
            asyncio.create_task(ask(high, 1, "second")),
        ]
        await asyncio.sleep(0.05)
        assert one.state().waiting == 3
        first = asyncio.create_task(ask(low, 1, "low"))
        high.release(held)
        await asyncio.wait([*waiting, first], timeout=30)
        assert order == ["first", "second", "low", "low"]

    run(place, body)


def test_a_cancelled_important_caller_lets_the_others_go(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        await open_window(one, place, 50)
        low, high = one.view(reserve=30), one.view(reserve=0)
        heavy = asyncio.create_task(high.acquire(51))
        light = asyncio.create_task(low.acquire(1))
        await asyncio.sleep(0.05)
        assert not heavy.done()
        assert not light.done()
        heavy.cancel()
        one.release(await asyncio.wait_for(light, 10))

    run(place, body)


def test_closing_a_view_closes_nothing(place: Place) -> None:
    async def body(one: Budget, other: Budget, place: Place) -> None:
        async with one.view(reserve=0) as view:
            await open_window(view, place)
        assert len(repr(view)) < 300
        async with one.view(reserve=20).view(reserve=0).spend(1) as spending:
            spending.unsent()

    run(place, body)


async def test_a_client_takes_a_view() -> None:
    budget = LocalBudget(100, reserve=20)
    async with (
        Sandbox("documented", limit=100) as exchange,
        InsuranceClient(exchange.url, budget=budget.view(reserve=0)) as client,
    ):
        await client.fetch_pool("BTCUSDT")
        assert client.budget.state().reserve == 0
        assert budget.state().used_weight == 1
        with pytest.raises(ValueError, match="serves"):
            InsuranceClient("https://fapi.binance.com", budget=budget)
