"""`record`: a watch into a history, whatever the store does meanwhile."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable
from datetime import timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, TypeVar, cast

import pytest

from binance_insurance import InsuranceClient
from binance_insurance.errors import ClientClosedError, StoreError
from binance_insurance.history import Gap, History, open_history
from binance_insurance.testing import make_pool, run_exchange
from binance_insurance.watch import Update, Watch

from .recording import at, snapshot

T = TypeVar("T")


def update(number: int, since: int | None) -> Update:
    """The update of a second, and the one before it if nothing was missed."""
    before = None if since is None else at(since)
    return Update(snapshot(number), (), at(number), 0, before)


class Updates:
    """A watch whose updates are given; it ends, fails, or goes on without another one."""

    symbols = None

    def __init__(
        self,
        updates: Iterable[Update],
        every: float = 1.0,
        then: Callable[[], Awaitable[object]] | None = None,
    ) -> None:
        self.every = every
        self._updates = iter(updates)
        self._then = then

    def __aiter__(self) -> AsyncIterator[Update]:
        return self

    async def __anext__(self) -> Update:
        for each in self._updates:
            return each
        if self._then is not None:
            await self._then()
        raise StopAsyncIteration

    def watch(self) -> Watch:
        return cast("Watch", self)


def watch(*updates: Update, every: float = 1.0) -> Watch:
    """A watch that ends after its updates."""
    return Updates(updates, every).watch()


class Failing:
    """A store that is away for some calls, and answers when it may."""

    def __init__(self, history: History, away: int, retry_after: float | None = 0.01) -> None:
        self._store = history.store
        self.away = away
        self.written = 0
        self.answers = asyncio.Event()
        self.answers.set()
        self.asked = asyncio.Event()
        self._retry_after = retry_after

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    def __str__(self) -> str:
        return "store"

    async def read(self, steps: Any) -> Any:
        return await self._store.read(steps)

    async def write(self, steps: Any) -> Any:
        self.asked.set()
        await self.answers.wait()
        if self.away:
            self.away -= 1
            error = StoreError("the history store cannot be used: it is away")
            error.retry_after = self._retry_after
            raise error
        done = await self._store.write(steps)
        self.written += 1
        return done


def run(path: Path, work: Callable[[History], Coroutine[Any, Any, None]]) -> None:
    """Run work on a history in real time, which its threads take."""

    async def use() -> None:
        async with open_history(f"sqlite:///{path}/h.db") as history:
            await work(history)

    asyncio.run(asyncio.wait_for(use(), 50))


async def until(condition: Callable[[], Awaitable[object]]) -> None:
    """Wait until something has come to be."""
    while not await condition():  # noqa: ASYNC110 - a store calls nobody
        await asyncio.sleep(0.005)


async def numbers(history: History) -> list[int]:
    """The numbers of the snapshots that are there."""
    return [int(point.balance) for point in (await history.series("S0USDT", "USDT")).points]


async def gaps(history: History) -> list[tuple[int, int]]:
    """The gaps, from the number of one snapshot to that of another."""
    found: tuple[Gap, ...] = (await history.series(None, "USDT")).gaps
    second = timedelta(seconds=1)
    return [((gap.start - at(0)) // second, (gap.end - at(0)) // second) for gap in found]


def test_every_update_is_there_until_it_is_cancelled(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        with run_exchange(limit=100_000) as exchange:  # a slow machine looks more often
            exchange.set_pools(make_pool("BTCUSDT", USDT=1))
            async with exchange.client() as client:
                recording = asyncio.create_task(history.record(client.watch(0.02)))
                for balance in range(2, 12):

                    async def seen(balance: int = balance) -> bool:
                        latest = await history.latest()
                        return latest is not None and latest.totals() == {"USDT": balance - 1}

                    await until(seen)
                    exchange.set_pools(make_pool("BTCUSDT", USDT=balance, update_time=balance))
                recording.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await recording
        series = await history.series("BTCUSDT", "USDT")
        assert [int(each.balance) for each in series.points] in (
            [*range(1, 11)],
            [*range(1, 12)],
        )

    run(tmp_path, work)


def test_a_store_that_is_away_for_20_ticks_loses_no_value_and_makes_no_gap(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=20)
        updates = [update(number, number - 1 if number else None) for number in range(25)]

        async def written() -> int:
            return store.written

        async def slowly() -> AsyncIterator[Update]:
            for each in updates:
                yield each
                await asyncio.sleep(0.01)
            await until(written)

        class Slow(Updates):
            def __aiter__(self) -> AsyncIterator[Update]:
                return slowly()

        await History(cast("Any", store)).record(Slow(()).watch())
        assert store.away == 0
        assert await numbers(history) == [*range(25)]
        assert await gaps(history) == []

    with caplog.at_level(logging.WARNING):
        run(tmp_path, work)
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2, said  # once that it is away, once that it is back
    assert "it is away" in said[0]


def test_what_does_not_fit_into_memory_shows_as_a_gap(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=0)
        store.answers.clear()

        async def let_go() -> None:
            await asyncio.sleep(0)
            store.answers.set()

        await history.append(snapshot(0))
        given = [update(number, number - 1) for number in range(1, 1502)]
        watch = Updates(given, then=let_go).watch()
        store.away = 1  # the first try has one update, and fails when all are there
        await History(cast("Any", store)).record(watch)
        found = await numbers(history)
        assert found == [0, *range(502, 1502)]
        assert await gaps(history) == [(0, 502)]

    run(tmp_path, work)


def test_of_what_was_tried_in_vain_the_oldest_is_dropped_first(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=1)

        async def watched() -> AsyncIterator[Update]:
            for number in range(1001):
                yield update(number, number - 1 if number else None)
                if number == 1:  # both are tried, and wait again

                    async def failed() -> bool:
                        return not store.away

                    await until(failed)

        class Waited(Updates):
            def __aiter__(self) -> AsyncIterator[Update]:
                return watched()

        await History(cast("Any", store)).record(Waited(()).watch())
        assert await numbers(history) == [*range(1, 1001)]

    run(tmp_path, work)


class Away:
    """A store that is away, for all but the last of some tries, and knows when these were."""

    def __init__(self, tries: int, retry_after: float) -> None:
        self._left = tries
        self._retry_after = retry_after
        self.tries: list[float] = []

    async def read(self, steps: Any) -> None:
        steps.close()

    async def write(self, steps: Any) -> int:
        steps.close()
        self.tries.append(asyncio.get_running_loop().time())
        self._left -= 1
        if self._left:
            error = StoreError("the history cannot be used: it is away")
            error.retry_after = self._retry_after
            raise error
        return 1


@pytest.mark.parametrize(("retry_after", "pause"), [(60.0, 2.0), (0.5, 0.5)])
async def test_a_store_that_is_away_is_tried_again_after_2_seconds_at_the_latest(
    retry_after: float, pause: float
) -> None:
    store = Away(4, retry_after)
    await History(cast("Any", store)).record(watch(update(0, None)))
    pauses = [round(after - before, 3) for before, after in pairwise(store.tries)]
    assert pauses == [pause] * 3


def test_a_restart_within_one_tick_is_no_gap(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.record(watch(update(0, None), update(60, 0), every=60))
        await history.record(watch(update(120, None), update(180, 120), every=60))
        assert await gaps(history) == []
        await history.record(watch(update(241, None), update(301, 241), every=60))
        assert await gaps(history) == [(180, 241)]
        # What was missed is a gap also within a run.
        await history.record(watch(update(361, None), update(400, None), every=60))
        assert await gaps(history) == [(180, 241), (361, 400)]
        # A tick may be longer than any time between two dates.
        await history.record(watch(update(9_999, None), every=1e300))
        assert await gaps(history) == [(180, 241), (361, 400)]

    run(tmp_path, work)


def test_dates_are_whole_seconds_where_a_tick_is_shorter(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.record(watch(update(0, None), every=1.5))
        await history.record(watch(update(2, None), every=1.5))
        assert await gaps(history) == []
        await history.record(watch(update(5, None), every=1.5))
        assert await gaps(history) == [(2, 5)]

    run(tmp_path, work)


def test_a_missed_tick_is_a_gap_also_where_each_update_is_written_alone(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        async def watched() -> AsyncIterator[Update]:
            yield update(0, None)
            await until(history.latest)
            yield update(59, None)

        class Slow(Updates):
            def __aiter__(self) -> AsyncIterator[Update]:
                return watched()

        await history.record(Slow((), every=60).watch())
        assert await gaps(history) == [(0, 59)]

    run(tmp_path, work)


def test_what_the_first_update_says_of_the_one_before_counts(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.append(snapshot(0))
        await history.record(watch(update(300, 240), every=60))
        assert await gaps(history) == [(0, 240)]

    run(tmp_path, work)


def test_a_restart_within_a_second_closes_no_gap_before_it(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.append(snapshot(0))
        await history.append(snapshot(60))
        await history.record(watch(update(60, None), every=60))
        assert await gaps(history) == [(0, 60)]

    run(tmp_path, work)


def test_a_late_run_follows_what_was_observed_before_it(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.append(snapshot(100))
        await history.append(snapshot(500))
        await history.record(watch(update(150, None), every=60))
        assert await gaps(history) == [(150, 500)]

    run(tmp_path, work)


def test_a_date_of_the_exchange_that_goes_back_does_not_end_it(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        back = Update(snapshot(10), (), at(10), 0, at(11))
        updates = [update(9, None), update(11, 9), back, update(12, 10), update(13, 12)]
        await history.record(watch(*updates))
        assert await numbers(history) == [9, 10, 11, 12, 13]
        assert await gaps(history) == []
        assert await history.latest() == snapshot(13)

    run(tmp_path, work)


def test_a_watch_of_some_symbols_is_refused_before_anything_is_sent(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        with run_exchange() as exchange:
            async with exchange.client() as client:
                with pytest.raises(ValueError, match="whole snapshots"):
                    await history.record(client.watch(60, symbols=["BTCUSDT"]))
            assert exchange.requests == ()

    run(tmp_path, work)


def test_a_store_that_waiting_cannot_help_ends_it(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=1, retry_after=None)
        stuck = Updates([update(0, None)], then=asyncio.Event().wait).watch()
        with pytest.raises(StoreError, match="it is away"):
            await History(cast("Any", store)).record(stuck)

    run(tmp_path, work)


def test_a_closed_client_ends_it_when_all_is_written(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        async def closed() -> None:
            raise ClientClosedError("the client is closed")

        with pytest.raises(ClientClosedError):
            await history.record(Updates([update(0, None), update(1, 0)], then=closed).watch())
        assert await numbers(history) == [0, 1]
        assert await gaps(history) == []

    run(tmp_path, work)


async def begin(history: History, store: Failing) -> asyncio.Task[None]:
    """Record two updates into a store that does not answer yet."""
    store.answers.clear()
    updates = Updates([update(0, None), update(1, 0)], then=asyncio.Event().wait)
    recording = asyncio.create_task(History(cast("Any", store)).record(updates.watch()))
    await store.asked.wait()
    return recording


def test_a_cancellation_finishes_what_is_being_written(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=0)
        recording = await begin(history, store)
        recording.cancel()
        await asyncio.sleep(0.05)
        assert not recording.done()
        store.answers.set()
        with pytest.raises(asyncio.CancelledError):
            await recording
        assert await numbers(history) == [0, 1]

    run(tmp_path, work)


def test_a_second_cancellation_does_not_wait_for_the_store(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        others = asyncio.all_tasks()
        recording = await begin(history, Failing(history, away=0))
        for _ in range(2):
            recording.cancel()
            await asyncio.sleep(0.01)
        with pytest.raises(asyncio.CancelledError):
            await recording
        assert asyncio.all_tasks() == others
        assert await numbers(history) == []

    run(tmp_path, work)


def test_a_store_that_is_away_when_it_is_cancelled_is_tried_once_more(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def work(history: History) -> None:
        store = Failing(history, away=10**6, retry_after=60.0)
        updates = Updates([update(0, None), update(1, 0)], then=asyncio.Event().wait)
        recording = asyncio.create_task(History(cast("Any", store)).record(updates.watch()))
        await store.asked.wait()
        await asyncio.sleep(0.05)
        recording.cancel()
        with pytest.raises(asyncio.CancelledError):
            await recording
        assert 10**6 - store.away == 2

    with caplog.at_level(logging.WARNING):
        run(tmp_path, work)
    assert "2 updates are lost" in caplog.messages[-1]


def test_a_client_in_a_watch_is_asked_by_its_schedule_alone(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        with run_exchange() as exchange:
            client: InsuranceClient = exchange.client()
            async with client, client.watch(0.02) as updates:
                recording = asyncio.create_task(history.record(updates))
                await until(history.latest)
            await recording  # leaving the block ends it

    run(tmp_path, work)
