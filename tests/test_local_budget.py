"""LocalBudget: order, cancellation, deadlines, freezes and bans, in virtual time."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
import time
from math import inf
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from binance_insurance import BudgetTimeoutError, IPBannedError, LocalBudget, Runtime, StoreError
from binance_insurance.budget import Lease, Report

from .conftest import EPOCH, loop_time

MINUTE = EPOCH // 60 * 60 + 60  # the exchange's clock when the loop's shows 0


def answer(used: int | None, status: int = 200, **more: Any) -> Report:
    """What the exchange would say now."""
    return Report(status, used, float(int(MINUTE + loop_time())), **more)


@pytest.fixture
def budget(runtime: Runtime) -> LocalBudget:
    """100 per minute, of which 10 are left to others."""
    return LocalBudget(100, interval=60, reserve=10, runtime=runtime)


async def open_window(budget: LocalBudget, used: int = 1) -> None:
    """Let the first request of a window go and come back."""
    lease = await budget.acquire()
    budget.settle(lease, answer(used))


def timers() -> list[asyncio.TimerHandle]:
    """The timers that the loop still waits for."""
    scheduled: list[asyncio.TimerHandle] = vars(asyncio.get_running_loop())["_scheduled"]
    return [timer for timer in scheduled if not timer.cancelled()]


def assert_nothing_left(budget: LocalBudget) -> None:
    """No weight, no waiter, no task and no timer stays behind."""
    state = budget.state()
    assert (state.in_flight, state.waiting) == (0, 0)
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert timers() == []


@pytest.mark.parametrize("seed", range(5))
async def test_a_thousand_waiters_with_random_cancellations_leave_nothing_behind(
    runtime: Runtime, seed: int
) -> None:
    budget = LocalBudget(100, interval=60, reserve=10, runtime=runtime)
    chance = Random(seed)
    granted: list[int] = []
    used = 0

    async def spend(number: int) -> None:
        nonlocal used
        lease = await budget.acquire(1 + number % 3)
        granted.append(number)
        try:
            await asyncio.sleep(chance.uniform(0.01, 0.5))
        except asyncio.CancelledError:
            if chance.random() < 0.5:
                budget.settle(lease, None)
            else:
                budget.release(lease)
            raise
        budget.settle(lease, answer(None if chance.random() < 0.01 else 1))

    async def cancel_later(task: asyncio.Task[None]) -> None:
        await asyncio.sleep(chance.uniform(0, 900))
        task.cancel()

    tasks = [asyncio.create_task(spend(number)) for number in range(1000)]
    cancels = [asyncio.create_task(cancel_later(task)) for task in tasks if chance.random() < 0.5]
    await asyncio.gather(*tasks, return_exceptions=True)
    await asyncio.gather(*cancels)
    assert granted == sorted(granted)
    assert len(granted) >= 500
    await asyncio.sleep(60)  # lost answers are forgotten with their window
    await open_window(budget)
    assert_nothing_left(budget)


async def test_a_waiter_cancelled_at_the_moment_of_its_grant_passes_it_on(
    budget: LocalBudget,
) -> None:
    probe = await budget.acquire()
    first = asyncio.create_task(budget.acquire(60))
    second = asyncio.create_task(budget.acquire(60))
    await asyncio.sleep(0)
    budget.settle(probe, answer(1))  # grants the first, which has not run yet
    first.cancel()
    lease = await second
    assert first.cancelled()
    budget.release(lease)
    assert budget.state().available == 89
    assert_nothing_left(budget)


async def test_a_light_request_does_not_overtake_a_heavy_one(budget: LocalBudget) -> None:
    await open_window(budget, used=80)
    order: list[int] = []

    async def spend(weight: int) -> None:
        budget.settle(await budget.acquire(weight), answer(1))
        order.append(weight)

    await asyncio.gather(spend(40), spend(1), spend(2))
    assert order == [40, 1, 2]
    assert 59 <= loop_time() <= 62


async def test_a_cancelled_head_lets_the_next_go_at_once(budget: LocalBudget) -> None:
    await open_window(budget, used=80)
    heavy = asyncio.create_task(budget.acquire(40))
    light = asyncio.create_task(budget.acquire(1))
    await asyncio.sleep(0.1)
    assert not light.done()
    heavy.cancel()
    budget.release(await light)
    assert loop_time() < 1
    assert_nothing_left(budget)


async def test_a_wait_that_cannot_end_in_time_fails_before_it_begins(budget: LocalBudget) -> None:
    await open_window(budget, used=90)
    with pytest.raises(BudgetTimeoutError, match="earliest") as caught:
        await budget.acquire(1, timeout=30)
    assert 59 <= caught.value.wait <= 62
    assert loop_time() == 0
    lease = await budget.acquire(1, timeout=70)
    assert 59 <= loop_time() <= 62
    budget.release(lease)
    assert_nothing_left(budget)


async def test_the_weight_of_earlier_callers_counts_into_the_wait(budget: LocalBudget) -> None:
    await open_window(budget, used=90)
    waiting = [asyncio.create_task(budget.acquire(45)) for _ in range(2)]
    await asyncio.sleep(0)
    with pytest.raises(BudgetTimeoutError) as caught:
        await budget.acquire(1, timeout=70)
    assert 119 <= caught.value.wait <= 122
    for task in waiting:
        task.cancel()
    await asyncio.gather(*waiting, return_exceptions=True)
    assert_nothing_left(budget)


async def test_a_wait_that_can_no_longer_end_in_time_fails_then(budget: LocalBudget) -> None:
    probe = await budget.acquire()
    patient = asyncio.create_task(budget.acquire(1, timeout=300))
    hasty = asyncio.create_task(budget.acquire(1, timeout=30))
    await asyncio.sleep(0.5)
    budget.settle(probe, answer(95))
    with pytest.raises(BudgetTimeoutError, match="earliest"):
        await hasty
    assert loop_time() == 0.5
    budget.release(await patient)
    assert_nothing_left(budget)


async def test_when_a_heavy_wait_cannot_end_in_time_a_light_one_behind_it_is_served(
    budget: LocalBudget,
) -> None:
    probe = await budget.acquire()
    heavy = asyncio.create_task(budget.acquire(40, timeout=5))
    light = asyncio.create_task(budget.acquire(1))
    await asyncio.sleep(0)
    budget.settle(probe, answer(80))
    with pytest.raises(BudgetTimeoutError):
        await heavy
    budget.release(await light)
    assert loop_time() == 0
    assert_nothing_left(budget)


async def test_without_any_date_waiters_are_served_after_silence(runtime: Runtime) -> None:
    budget = LocalBudget(3, interval=2, reserve=0, runtime=runtime)
    leases = [await budget.acquire() for _ in range(3)]
    await asyncio.sleep(5)
    for lease in leases:
        budget.settle(lease, None)
    budget.release(await budget.acquire())
    assert loop_time() < 15


async def test_a_refusal_is_logged(budget: LocalBudget, caplog: pytest.LogCaptureFixture) -> None:
    budget.settle(await budget.acquire(), answer(5, 418, banned_until=MINUTE + 300))
    assert "the exchange answered 418; nothing is sent until 20" in caplog.text


async def test_a_deadline_ends_a_wait_that_could_have_ended_in_time(budget: LocalBudget) -> None:
    probe = await budget.acquire()
    with pytest.raises(BudgetTimeoutError, match=r"within 0\.5 s") as caught:
        await budget.acquire(90, timeout=0.5)
    assert caught.value.wait == 0, "it may yet come at any time"
    assert loop_time() == 0.5
    budget.release(probe)
    assert_nothing_left(budget)


async def test_a_request_that_never_fits_is_refused(budget: LocalBudget) -> None:
    with pytest.raises(BudgetTimeoutError, match="weight 91 never fits into a budget of 90") as got:
        await budget.acquire(91)
    assert got.value.wait == inf


async def test_a_ban_fails_the_callers_that_wait_and_those_that_come(budget: LocalBudget) -> None:
    probe = await budget.acquire()
    waiting = [asyncio.create_task(budget.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    budget.settle(probe, answer(5, 418, banned_until=MINUTE + 300))
    errors = await asyncio.gather(*waiting, return_exceptions=True)
    with pytest.raises(IPBannedError, match="nothing is sent until then") as caught:
        await budget.acquire()
    for error in (*errors, caught.value):
        assert isinstance(error, IPBannedError)
        assert error.banned_until.timestamp() == pytest.approx(MINUTE + 300, abs=2)
    assert budget.state().banned_until == caught.value.banned_until
    assert budget.state().available == 0
    assert_nothing_left(budget)
    await asyncio.sleep(302)
    await open_window(budget)


async def test_a_freeze_makes_waiters_wait_and_ends_by_itself(budget: LocalBudget) -> None:
    await open_window(budget)
    first, second = await budget.acquire(), asyncio.create_task(budget.acquire(89))
    await asyncio.sleep(0)
    budget.settle(first, answer(101, 429, retry_after=90.0))
    state = budget.state()
    assert state.frozen_until is not None
    assert state.frozen_until.timestamp() == pytest.approx(MINUTE + 90, abs=2)
    budget.release(await second)
    assert 90 <= loop_time() <= 92
    assert_nothing_left(budget)


async def test_one_timer_whatever_the_number_of_waiters(budget: LocalBudget) -> None:
    await open_window(budget, used=90)
    waiting = [asyncio.create_task(budget.acquire()) for _ in range(80)]
    await asyncio.sleep(0)
    assert len(timers()) == 1
    leases: list[Lease] = [await waiting[0]]
    budget.settle(leases.pop(), answer(1))
    leases += await asyncio.gather(*waiting[1:])
    for lease in leases:
        budget.release(lease)
    assert_nothing_left(budget)


async def test_the_state_shows_what_is_known(budget: LocalBudget) -> None:
    cold = budget.state()
    assert (cold.limit, cold.reserve, cold.used_weight, cold.resets_at) == (100, 10, None, None)
    assert (cold.frozen_until, cold.banned_until) == (None, None)
    await open_window(budget, used=33)
    state = budget.state()
    assert (state.used_weight, state.available) == (33, 57)
    assert state.resets_at is not None
    assert state.resets_at.timestamp() == MINUTE + 60
    await asyncio.sleep(61.5)
    assert budget.state().used_weight is None, "nothing is known of the new window"
    assert budget.state().available == 90


async def test_what_is_left_does_not_rise_by_a_report_of_less(runtime: Runtime) -> None:
    budget = LocalBudget(2400, interval=60, reserve=0, runtime=runtime)
    await open_window(budget, 1_000)
    for _ in range(300):
        budget.settle(await budget.acquire(), answer(None))
    before = budget.state().available
    lease = await budget.acquire()
    budget.settle(lease, answer(995))
    assert budget.state().available == before - 1 == 2400 - 1_000 - 301
    assert budget.state().used_weight == 1_000


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["acquire", "release", "settle", "settle", "lose"]),
            st.integers(0, 9),
            st.none() | st.integers(1, 1_500),
        ),
        max_size=60,
    )
)
async def test_within_a_window_what_is_left_rises_only_by_what_comes_back_or_is_settled(
    steps: list[tuple[str, int, int | None]],
) -> None:
    budget = LocalBudget(2400, interval=3600, reserve=0, runtime=Runtime(monotonic=loop_time))
    await open_window(budget)
    leases: list[Lease] = []
    highest, lost = 1, 0
    for step, number, used in steps:
        before = budget.state().available
        if step == "acquire":
            leases.append(await budget.acquire(number + 1))
            assert budget.state().available <= before
        elif leases:
            lease = leases.pop(number % len(leases))
            if step == "release":
                budget.release(lease)
                allowed = lease.weight
            else:
                budget.settle(lease, None if step == "lose" else answer(used))
                allowed = 0
                if step == "settle" and used is not None and used >= highest:
                    allowed, lost, highest = lease.weight + lost, 0, used
                else:
                    lost += lease.weight
            assert budget.state().available <= before + allowed


async def test_closing_fails_the_callers_that_wait_and_refuses_later_ones(
    budget: LocalBudget,
) -> None:
    await open_window(budget)
    held = await budget.acquire(89)
    waiting = [asyncio.create_task(budget.acquire()) for _ in range(3)]
    await asyncio.sleep(0)
    await budget.aclose()
    for result in await asyncio.gather(*waiting, return_exceptions=True):
        assert isinstance(result, StoreError)
    with pytest.raises(StoreError, match="closed"):
        await budget.acquire()
    budget.settle(held, answer(90))
    await budget.aclose()
    assert_nothing_left(budget)


def test_one_loop_after_another_is_served() -> None:
    budget = LocalBudget(10, interval=60, reserve=0)

    async def leave_callers_waiting() -> None:
        budget.settle(await budget.acquire(9), Report(200, 9, float(int(time.time()))))
        for _ in range(5):
            asyncio.create_task(budget.acquire(9))  # noqa: RUF006 - the loop's end cancels them
        await asyncio.sleep(0)

    async def once() -> None:
        await asyncio.wait_for(budget.acquire(), 5)

    asyncio.run(leave_callers_waiting())
    asyncio.run(once())
    assert budget.state().waiting == 0


def test_two_running_loops_are_refused_at_once() -> None:
    budget = LocalBudget()
    entered, leave = threading.Event(), threading.Event()

    async def use() -> None:
        budget.release(await budget.acquire())
        entered.set()
        await asyncio.to_thread(leave.wait)

    async def use_too() -> None:
        with pytest.raises(RuntimeError, match="one loop at a time"):
            await budget.acquire()

    thread = threading.Thread(target=asyncio.run, args=(use(),))
    thread.start()
    try:
        assert entered.wait(10)
        asyncio.run(use_too())
    finally:
        leave.set()
        thread.join()


@pytest.mark.parametrize("offset", [0.0, 0.5])
async def test_a_freeze_lasts_for_its_retry_after(runtime: Runtime, offset: float) -> None:
    budget = LocalBudget(100, interval=60, reserve=10, runtime=runtime)
    await asyncio.sleep(offset)
    await open_window(budget)
    budget.settle(await budget.acquire(), answer(5, 429, retry_after=2.0))
    began = loop_time()
    await budget.acquire()
    assert 1.9 <= loop_time() - began <= 4.0


async def test_after_a_freeze_one_request_goes_first(runtime: Runtime) -> None:
    budget = LocalBudget(100, interval=60, reserve=0, runtime=runtime)
    await open_window(budget)
    budget.settle(await budget.acquire(), answer(20, 429, retry_after=1.0))
    granted: list[float] = []

    async def spend() -> None:
        lease = await budget.acquire()
        assert budget.confirm(lease)
        granted.append(loop_time())
        await asyncio.sleep(0.1)
        budget.settle(lease, answer(101, 429))

    callers = [asyncio.create_task(spend()) for _ in range(30)]
    await asyncio.sleep(58.0)
    assert len(granted) == 1
    for caller in callers:
        caller.cancel()
    await asyncio.wait(callers)


async def test_a_grant_is_confirmed_only_while_it_is_good(runtime: Runtime) -> None:
    budget = LocalBudget(100, interval=60, reserve=10, runtime=runtime)
    await open_window(budget)
    leases = [await budget.acquire() for _ in range(5)]
    assert budget.confirm(leases[0])
    budget.settle(leases[1], answer(91))  # others took what was left
    assert not budget.confirm(leases[2])
    budget.release(leases[2])
    await asyncio.sleep(120.0)
    assert not budget.confirm(leases[3]), "nothing is known of this window"
    budget.release(leases[3])
    probe = await budget.acquire()
    assert budget.confirm(probe)
    budget.settle(probe, answer(1, 418, retry_after=600.0))
    assert not budget.confirm(leases[4])


def test_what_a_caller_was_granted_comes_back_if_its_loop_ends_in_that_moment() -> None:
    budget = LocalBudget(10, interval=60, reserve=0)

    async def leave() -> None:
        budget.settle(await budget.acquire(), Report(200, 1, float(int(time.time()))))
        held = await budget.acquire(9)
        callers.append(asyncio.create_task(budget.acquire(9)))
        await asyncio.sleep(0)
        # In the last step of the loop: the caller has its grant, and never runs again.
        asyncio.get_running_loop().call_soon(budget.release, held)

    callers: list[asyncio.Task[Lease]] = []
    loop = asyncio.new_event_loop()
    loop.run_until_complete(leave())
    loop.close()
    assert budget.state().in_flight == 9
    setattr(callers[0], "_log_destroy_pending", False)  # noqa: B010 - on purpose
    callers.clear()
    gc.collect()
    assert budget.state().in_flight == 0
    asyncio.run(asyncio.wait_for(budget.acquire(9), 5))


FORKED = """
import asyncio, os, time
from binance_insurance import LocalBudget
from binance_insurance.budget import Report

budget = LocalBudget(10, interval=1, reserve=0)

async def hold():
    budget.settle(await budget.acquire(), Report(200, 1, float(int(time.time()))))
    return await budget.acquire(8)

held = asyncio.run(hold())
if os.fork() == 0:
    asyncio.run(budget.acquire(timeout=10))
    print("child is served", flush=True)
    os._exit(0)
os.wait()
budget.release(held)
asyncio.run(budget.acquire(9, timeout=10))
print("parent is served")
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_is_served_by_its_copy() -> None:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKED],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.stdout, done.returncode) == ("child is served\nparent is served\n", 0)
