"""The same budget for threads."""

from __future__ import annotations

import asyncio
import gc
import os
import signal
import subprocess
import sys
import threading
import warnings
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import pytest

from binance_insurance import (
    Budget,
    InsuranceClient,
    IPBannedError,
    LocalBudget,
    Report,
    StoreError,
    create_budget,
)
from binance_insurance.budget.blocking import BlockingBudget, BlockingSpending

NOW = 1_790_000_000.0
THREAD = "binance-insurance"
ENDED = "the event loop of the budget has ended"


def threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == THREAD]


@pytest.fixture(params=["memory", "sqlite"])
def budget(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Budget]:
    kind = "memory://" if request.param == "memory" else f"sqlite:///{tmp_path}/budget.sqlite"
    made = create_budget(kind, 100, reserve=0)
    yield made
    asyncio.run(made.aclose())
    assert not threads()


def test_threads_without_a_loop_share_one_thread_of_the_budget(budget: Budget) -> None:
    def ask(number: int) -> None:
        with budget.blocking() as sync, sync.spend(1, timeout=30) as spending:
            spending.settle(Report(200, number + 1, NOW))
            assert len(threads()) == 1

    with budget.blocking() as sync, sync.spend(2) as spending:
        spending.report(200, {"x-mbx-used-weight-1m": "2"})
        first = spending
    with budget.blocking(), ThreadPoolExecutor(8) as pool:
        list(pool.map(ask, range(40)))
    assert first.weight == 2
    assert not threads()
    assert budget.state().waiting == 0


def test_a_thread_uses_the_loop_in_which_the_budget_is_in_use(budget: Budget) -> None:
    async def main() -> None:
        async with budget.spend(1) as spending:
            spending.settle(Report(200, 1, NOW))

        def ask() -> None:
            with budget.view(reserve=5).blocking() as sync, sync.spend(5) as spending:
                spending.settle(Report(200, 6, NOW))

        await asyncio.gather(*(asyncio.to_thread(ask) for _ in range(10)))
        assert (budget.state().used_weight, budget.state().in_flight) == (6, 0)
        assert not threads()

    asyncio.run(main())


def test_a_thread_uses_the_loop_in_which_it_was_made(budget: Budget) -> None:
    async def main() -> None:
        sync = budget.blocking()

        def ask() -> None:
            with sync.spend(1) as spending:
                spending.settle(Report(200, 1, NOW))

        await asyncio.to_thread(ask)
        assert not threads()
        async with budget.spend(1) as spending:
            spending.settle(Report(200, 2, NOW))

    asyncio.run(main())


async def test_in_the_loop_s_own_thread_it_is_an_error_not_a_deadlock() -> None:
    budget = LocalBudget(100, reserve=0)
    with pytest.raises(RuntimeError, match="async with"), budget.blocking().spend(1):
        pass


def test_an_error_reaches_the_thread(budget: Budget) -> None:
    with budget.blocking() as sync:
        with sync.spend(1) as spending:
            spending.report(418, {"Retry-After": "60"}, b"")
        with pytest.raises(IPBannedError), sync.spend(1):
            pass
        with pytest.raises(ValueError, match="weight"), sync.spend(-1):
            pass


def test_an_interrupted_wait_leaves_no_trace(budget: Budget) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    with budget.blocking() as sync:
        with sync.spend(1) as spending:
            spending.settle(Report(200, 100, NOW))

        def alarm() -> None:
            asyncio.run(queued(budget))
            os.kill(os.getpid(), signal.SIGALRM)

        before = signal.signal(signal.SIGALRM, interrupt)
        alarming = threading.Thread(target=alarm, daemon=True)
        alarming.start()
        try:
            with pytest.raises(KeyboardInterrupt), sync.spend(1):
                pass
        finally:
            alarming.join(30)
            signal.signal(signal.SIGALRM, before)
        with sync.spend(0) as spending:
            spending.unsent()
    assert (budget.state().waiting, budget.state().in_flight) == (0, 0)


def test_a_block_without_a_word_counts_as_sent(budget: Budget) -> None:
    with budget.blocking() as sync:
        with sync.spend(1) as spending:
            spending.settle(Report(200, 1, NOW))
        with pytest.raises(OSError, match="cut"), sync.spend(5):
            raise OSError("cut off")
        assert budget.state().available == 100 - 1 - 5
        with sync.spend(5) as spending:
            assert spending.confirm()
            spending.unsent()
        assert budget.state().available == 100 - 1 - 5


# --- The loop ends meanwhile ---


class Held(threading.Thread):
    """Holds weight in a thread until it may report."""

    def __init__(self, sync: BlockingBudget, weight: int, *, sent: bool = True) -> None:
        super().__init__()
        self._sent = sent
        self.holds, self.go = threading.Event(), threading.Event()
        self.error: BaseException | None = None
        self._sync, self._weight = sync, weight
        self.start()

    def run(self) -> None:
        try:
            with self._sync.spend(self._weight) as spending:
                self.holds.set()
                self.go.wait(30)
                if self._sent:
                    assert spending.confirm()
                    spending.settle(Report(200, 1 + self._weight, NOW))
                else:
                    spending.unsent()
        except BaseException as error:
            self.error = error

    def report(self) -> None:
        self.go.set()
        self.join(30)
        assert not self.is_alive()
        assert self.error is None


def waiting(sync: BlockingBudget, weight: int) -> Future[None]:
    """Let a thread wait for weight."""
    waits: Future[None] = Future()

    def wait() -> None:
        try:
            with sync.spend(weight):
                waits.set_result(None)
        except BaseException as error:
            waits.set_exception(error)

    threading.Thread(target=wait).start()
    return waits


async def queued(budget: Budget) -> None:
    while not budget.state().waiting:  # noqa: ASYNC110 - a thread comes, not a task
        await asyncio.sleep(0.001)


async def use(budget: Budget, used: int = 1, *, weight: int = 1) -> None:
    async with budget.spend(weight) as spending:
        spending.settle(Report(200, used, NOW))


def test_what_a_thread_holds_when_the_loop_ends_can_be_reported(budget: Budget) -> None:
    async def main() -> tuple[Held, Future[None]]:
        await use(budget)
        sync = budget.blocking()
        held = Held(sync, 40)
        await asyncio.to_thread(held.holds.wait)
        waits = waiting(sync, 90)
        await queued(budget)
        return held, waits

    with warnings.catch_warnings():
        warnings.simplefilter("error")  # such as of a coroutine that was never awaited
        held, waits = asyncio.run(main())
        with pytest.raises(StoreError, match=ENDED):
            waits.result(30)
        assert budget.state().in_flight == 40
        held.report()
        gc.collect()
    state = budget.state()
    assert (state.used_weight, state.in_flight, state.available) == (41, 0, 59)
    asyncio.run(use(budget, 42))
    assert (budget.state().used_weight, budget.state().in_flight) == (42, 0)


def test_what_a_thread_gives_back_in_the_next_loop_serves_its_callers(budget: Budget) -> None:
    async def hold() -> Held:
        await use(budget)
        held = Held(budget.blocking(), 40, sent=False)
        await asyncio.to_thread(held.holds.wait)
        return held

    async def go_on(held: Held) -> None:
        await use(budget, 2)
        waits = asyncio.create_task(use(budget, weight=90))
        await queued(budget)
        await asyncio.to_thread(held.report)
        await asyncio.wait_for(waits, 30)  # it is served with what came back

    held = asyncio.run(hold())
    asyncio.run(go_on(held))
    assert budget.state().in_flight == 0


def test_what_a_thread_does_not_report_after_the_loop_s_end_is_lost(budget: Budget) -> None:
    spent: list[BlockingSpending] = []

    async def main() -> None:
        await use(budget)
        for _ in range(2):
            spent.append(budget.blocking().spend(10))
            await asyncio.to_thread(spent[-1].__enter__)

    asyncio.run(main())
    spent[0].unsent()
    for spending in spent:
        spending.__exit__(None, None, None)
    assert budget.state().available == 100 - 1 - 10
    assert budget.state().in_flight == 10


def test_another_thread_closes_it_meanwhile(budget: Budget) -> None:
    sync = budget.blocking()
    with sync.spend(1) as spending:
        spending.settle(Report(200, 1, NOW))
    held = Held(sync, 40)
    held.holds.wait(30)
    waits = waiting(sync, 90)
    asyncio.run(queued(budget))
    sync.close()
    with pytest.raises(StoreError, match=ENDED):
        waits.result(30)
    held.report()
    assert (budget.state().used_weight, budget.state().in_flight) == (41, 0)


def test_a_loop_that_is_stopped_and_cancels_nothing_leaves_no_thread_waiting() -> None:
    budget = LocalBudget(100, reserve=0)
    loop = asyncio.new_event_loop()
    loop.run_until_complete(use(budget, 100))

    async def wait() -> Future[None]:
        waits = waiting(budget.blocking(), 1)
        await queued(budget)
        return waits

    waits = loop.run_until_complete(wait())
    with pytest.raises(StoreError, match=ENDED):
        waits.result(30)
    loop.run_until_complete(asyncio.sleep(0))
    loop.run_until_complete(asyncio.sleep(0))
    loop.close()
    assert budget.state().waiting == 0


# --- The loop's own thread ---


@pytest.mark.parametrize("say", ["report", "settle", "unsent", "nothing"])
async def test_in_the_loop_s_own_thread_nothing_waits_for_itself(say: str) -> None:
    budget = LocalBudget(100, reserve=0)
    await use(budget)
    spending = budget.blocking().spend(10)
    await asyncio.to_thread(spending.__enter__)
    assert spending.confirm()
    if say == "report":
        spending.report(200, {})
    elif say == "settle":
        spending.settle(Report(200, 11, NOW))
    elif say == "unsent":
        spending.unsent()
    with pytest.raises(RuntimeError, match="async with"):
        spending.__exit__(None, None, None)
    state = budget.state()
    assert (state.in_flight, state.available) == (
        10 if say == "nothing" else 0,
        99 if say == "unsent" else 89,
    )


def test_it_is_used_as_a_block_only() -> None:
    spending = LocalBudget().blocking().spend(1)
    for say in (spending.confirm, spending.unsent, lambda: spending.settle(None)):
        with pytest.raises(RuntimeError, match=r"with sync\.spend"):
            say()
    assert not threads()


def test_a_second_block_of_a_spend_leaves_the_first_alone() -> None:
    budget = LocalBudget(100, reserve=0)
    with budget.blocking() as sync, sync.spend(10) as spending:
        with pytest.raises(RuntimeError, match="make another"):
            spending.__enter__()
        assert budget.state().in_flight == 10


# --- The thread of its own ---


def test_asyncio_is_told_to_close_what_threads_use(budget: Budget) -> None:
    sync = budget.blocking()
    with sync.spend(1) as spending:
        spending.settle(Report(200, 1, NOW))
    for refused in (use(budget), InsuranceClient(budget=budget).fetch_pool("BTCUSDT")):
        with pytest.raises(RuntimeError, match=r"`budget.blocking\(\)`.*close each of those first"):
            asyncio.run(refused)
    sync.close()
    asyncio.run(use(budget))


def test_the_thread_ends_with_its_budget() -> None:
    budget = LocalBudget()
    with budget.blocking().spend(1) as spending:
        spending.report(200, {})
    (thread,) = threads()
    gone = weakref.ref(budget)
    del budget, spending
    gc.collect()
    assert gone() is None
    thread.join(30)
    assert not thread.is_alive()


FORK = """
import os, sys, threading
from binance_insurance import StoreError, create_budget
from binance_insurance.budget import calling

budget = create_budget(sys.argv[1])
sync, other = budget.blocking(), budget.blocking()
for each in (sync, other):
    with each.spend(1) as spending:
        spending.report(200, {})

def spend(each):
    try:
        with each.spend(1, timeout=30) as spending:
            spending.report(200, {})
            return "served"
    except StoreError as error:
        return "forked" if "forked" in str(error) else repr(error)

with calling._threads.lock:  # another thread of the parent is in the middle of it
    child = os.fork()
if child == 0:
    print(spend(sync), spend(other), spend(create_budget("memory://").blocking()), flush=True)
    sync.close(), other.close()
    print([thread.name for thread in threading.enumerate()][1:-1], flush=True)
    os._exit(0)
os.waitpid(child, 0)
print(spend(sync), flush=True)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
def test_a_forked_child_gets_a_thread_of_its_own(budget: Budget, tmp_path: Path) -> None:
    shared = not isinstance(budget, LocalBudget)
    url = f"sqlite:///{tmp_path}/forked.sqlite" if shared else "memory://"
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", FORK, url]
    done = subprocess.run(command, capture_output=True, text=True, timeout=50, check=False)
    served = "forked forked served" if shared else "served served served"
    assert (done.stdout, done.stderr) == (f"{served}\n[]\nserved\n", "")
