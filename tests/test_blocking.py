"""The same budget for threads."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from binance_insurance import Budget, IPBannedError, LocalBudget, Report, create_budget

NOW = 1_790_000_000.0
THREAD = "binance-insurance"


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
        with budget.blocking() as sync, sync.spend(1, timeout=10) as spending:
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
        before = signal.signal(signal.SIGALRM, interrupt)
        signal.setitimer(signal.ITIMER_REAL, 0.1)
        try:
            with pytest.raises(KeyboardInterrupt), sync.spend(1):
                pass
        finally:
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
