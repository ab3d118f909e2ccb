"""Odd snapshots, times and arguments, and a merge that ends in the middle."""

from __future__ import annotations

import asyncio
import sqlite3
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

import msgspec
import pytest

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.history import (
    Delays,
    History,
    HistoryInfo,
    copying,
    open_history,
    reading,
    steps,
    times,
)
from binance_insurance.history.export import export

from .conftest import IN_CAMPAIGN
from .recording import POOLS, snapshot

START = datetime(2026, 9, 24, tzinfo=UTC)
EACH_STORE = pytest.mark.parametrize(
    "history_url", ["sqlite", pytest.param("postgresql", marks=IN_CAMPAIGN)], indirect=True
)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def pool(symbols: str, balance: str, updated: float = 0) -> InsurancePool:
    """A pool with a balance of USDT that was updated some seconds after the start."""
    held = AssetBalance("USDT", Decimal(balance), int(after(updated).timestamp() * 1000))
    return InsurancePool(tuple(symbols.split()), (held,))


def whole(seconds: float, *pools: InsurancePool) -> InsuranceSnapshot:
    """What was observed some seconds after the start."""
    return InsuranceSnapshot(pools, after(seconds))


def use(url: str, work: Callable[[History], Coroutine[Any, Any, None]]) -> None:
    """Run work on a history in real time."""

    async def run() -> None:
        async with open_history(url) as history:
            await work(history)

    asyncio.run(asyncio.wait_for(run(), 50))


View = tuple[InsuranceSnapshot | None, HistoryInfo, int]


async def view(history: History) -> View:
    """What a history says of itself, but for its size."""
    info = msgspec.structs.replace(await history.info(), size=0)
    falls = await history.drawdowns(None, "USDT", limit=None)
    return await history.latest(), info, len(falls)


class Followed:
    """A store after each of whose calls something is done."""

    def __init__(self, history: History, then: Callable[[], Awaitable[None]]) -> None:
        self._store = history.store
        self._then = then

    def __getattr__(self, name: str) -> Any:
        return getattr(self._store, name)

    async def read(self, steps: Any) -> Any:
        done = await self._store.read(steps)
        await self._then()
        return done

    async def write(self, steps: Any) -> Any:
        done = await self._store.write(steps)
        await self._then()
        return done


def followed(history: History, then: Callable[[], Awaitable[None]]) -> History:
    return History(cast("Any", Followed(history, then)))


@pytest.fixture
def small_pages(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let a merge take several pages."""
    monkeypatch.setattr(copying, "_PAGE", POOLS)


async def two(url: str, tmp_path: Path) -> tuple[History, History]:
    """A history that has one snapshot, and another that has more."""
    target, source = open_history(url), open_history(f"sqlite:///{tmp_path}/source.db")
    await target.append(snapshot(3))
    await source.extend([(snapshot(number), None) for number in range(6)])
    return target, source


@EACH_STORE
@pytest.mark.usefixtures("small_pages")
def test_a_merge_that_is_cancelled_adds_nothing_or_all(history_url: str, tmp_path: Path) -> None:
    async def merge(target: History, source: History, calls: int) -> bool:
        """Cancel a merge after so many calls of its stores; whether it was cancelled."""

        async def cancel() -> None:
            nonlocal calls
            calls -= 1
            if calls == 0:
                raise asyncio.CancelledError

        try:
            await followed(target, cancel).merge(followed(source, cancel))
        except asyncio.CancelledError:
            return True
        return False

    async def work() -> None:
        target, source = await two(history_url, tmp_path)
        before, calls = await view(target), 1
        while await merge(target, source, calls):
            if await view(target) != before:
                break  # it was cancelled after the last of all
            calls += 1
        assert calls > 6, "a merge of several pages"
        merged = await view(target)
        assert merged == await view(source)
        assert await target.merge(source) == 0
        for each in (target, source):
            await each.aclose()

    asyncio.run(asyncio.wait_for(work(), 50))


def test_a_merge_takes_more_observations_and_values_than_a_page_has(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_PAGE", 2)

    async def work(target: History) -> None:
        async with open_history(f"sqlite:///{tmp_path}/source.db") as source:
            await source.extend([(whole(n, pool("A", str(n), n)), None) for n in range(5)])
            assert await target.merge(source) == 5
            assert await view(target) == await view(source)
            assert len((await target.info()).gaps) == 4

    use(f"sqlite:///{tmp_path}/h.db", work)


@EACH_STORE
@pytest.mark.usefixtures("small_pages")
def test_a_merge_goes_no_further_once_it_is_cancelled(history_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        target, source = await two(history_url, tmp_path)
        before, calls = await view(target), 0

        async def cancel() -> None:
            nonlocal calls
            calls += 1
            merging.cancel()

        merging = asyncio.create_task(target.merge(followed(source, cancel)))
        await asyncio.wait({merging})
        assert merging.cancelled()
        assert await target.append(snapshot(3)) == 0  # after whatever is under way
        assert await view(target) == before
        assert calls == 1
        for each in (target, source):
            await each.aclose()

    asyncio.run(asyncio.wait_for(work(), 20))


@EACH_STORE
@pytest.mark.usefixtures("small_pages")
def test_what_is_appended_to_the_other_during_a_merge_is_no_observation_without_values(
    history_url: str, tmp_path: Path
) -> None:
    async def work() -> None:
        target, source = await two(history_url, tmp_path)
        numbers = iter(range(10, 99))

        async def append() -> None:
            await source.append(snapshot(next(numbers)))

        await target.merge(followed(source, append))
        assert next(numbers) > 16, "a merge of several pages"
        assert await target.latest() == snapshot(5)
        await target.merge(source)
        assert await view(target) == await view(source)
        for each in (target, source):
            await each.aclose()

    asyncio.run(asyncio.wait_for(work(), 20))


@EACH_STORE
@pytest.mark.usefixtures("small_pages")
def test_a_reader_sees_nothing_of_a_merge_until_its_end(history_url: str, tmp_path: Path) -> None:
    async def work() -> None:
        target, source = await two(history_url, tmp_path)
        reader = open_history(history_url, read_only=True)
        before, seen = await view(reader), list[View]()

        async def look() -> None:
            seen.append(await view(reader))

        await followed(target, look).merge(followed(source, look))
        assert len(seen) > 6, "a merge of several pages"
        assert [each for each in seen if each not in (before, await view(target))] == []
        for each in (target, source, reader):
            await each.aclose()

    asyncio.run(asyncio.wait_for(work(), 50))


BAD: dict[str, Callable[[History], Coroutine[Any, Any, object]]] = {
    "part of the pools": lambda h: h.append(InsuranceSnapshot(snapshot(1).pools, START, False)),
    "naive observation": lambda h: h.append(
        InsuranceSnapshot(snapshot(1).pools, datetime(2026, 9, 24))
    ),
    "since after the observation": lambda h: h.append(whole(0, pool("A", "1")), since=after(1)),
    "no snapshot": lambda h: h.append(None),  # type: ignore[arg-type]
    "no pair": lambda h: h.extend([snapshot(1)]),  # type: ignore[list-item]
}


@pytest.mark.parametrize("call", BAD.values(), ids=BAD)
def test_bad_input_is_a_value_error_at_once(
    call: Callable[[History], Coroutine[Any, Any, object]], tmp_path: Path
) -> None:
    async def work(history: History) -> None:
        await history.append(snapshot(0))
        with closing(sqlite3.connect(tmp_path / "h.db", isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            began = time.monotonic()
            with pytest.raises(ValueError, match=r"."):
                await call(history)
            assert time.monotonic() - began < 4, "the lock is waited for during 5 s"
        async with open_history(f"sqlite:///{tmp_path}/h.db", read_only=True) as reader:
            with pytest.raises(ValueError, match=r"."):
                await call(reader)

    use(f"sqlite:///{tmp_path}/h.db", work)


@pytest.mark.parametrize(
    "bad", [snapshot(0), None, 5, (snapshot(0),), (snapshot(0), None, None)], ids=lambda _: ""
)
def test_what_is_no_pair_is_an_error_that_names_what_is_expected(bad: Any, tmp_path: Path) -> None:
    async def work(history: History) -> None:
        with pytest.raises(ValueError, match="pairs of a snapshot and"):
            await history.extend([bad])

    use(f"sqlite:///{tmp_path}/h.db", work)


@EACH_STORE
def test_delays_do_not_count_what_a_regrouping_or_a_listing_reports_anew(history_url: str) -> None:
    async def work(history: History) -> None:
        await history.append(whole(0, pool("A", "1")))
        await history.append(whole(86_340, pool("A", "1")), since=after(0))
        await history.append(whole(86_400, pool("A B", "1")), since=after(86_340))
        assert (await history.info()).delays is None
        await history.append(whole(86_460, pool("A B", "1"), pool("C", "2")), since=after(86_400))
        assert (await history.info()).delays is None
        updated = pool("A B", "3", 86_500)
        await history.append(whole(86_520, updated, pool("C", "2")), since=after(86_460))
        assert (await history.info()).delays == Delays(20, 20, 20)

    use(history_url, work)


@EACH_STORE
@pytest.mark.parametrize("balances", ["12", "21"])
def test_two_pools_of_the_same_symbols_count_once_in_every_total(
    balances: str, history_url: str
) -> None:
    async def work(history: History) -> None:
        await history.append(whole(0, *(pool("A", each) for each in balances), pool("B", "10")))
        latest = await history.latest()
        assert latest is not None
        fund = (await history.series(None, "USDT")).points
        assert latest.totals() == {"USDT": fund[-1].balance}
        assert fund[-1].balance == Decimal(10) + latest["A"].balance("USDT")

    use(history_url, work)


@EACH_STORE
def test_two_pools_of_the_same_symbols_hold_the_assets_of_both(history_url: str) -> None:
    async def work(history: History) -> None:
        other = InsurancePool(("B", "A"), (AssetBalance("BTC", Decimal(2), 0),))
        await history.append(whole(0, pool("A B", "1"), other))
        latest = await history.latest()
        assert latest is not None
        assert latest.totals() == {"USDT": 1, "BTC": 2}

    use(history_url, work)


@EACH_STORE
@pytest.mark.parametrize("first", [0, 1], ids=["as the alphabet has them", "the other way"])
def test_the_order_of_two_pools_that_name_a_symbol_changes_no_answer(
    first: int, history_url: str
) -> None:
    pools = [pool("A X", "1"), pool("B X", "2")]
    if first:
        pools.reverse()

    async def answers(history: History) -> list[object]:
        latest = await history.latest()
        assert latest is not None
        said: list[object] = [{each.symbols: each.assets for each in latest}, latest.totals()]
        for symbol in (*"ABX", None):
            series = await history.series(symbol, "USDT")
            said += [series.points, series.regroupings]
            said += await history.drawdowns(symbol, "USDT")
        return said

    async def work(history: History) -> None:
        await history.append(whole(10, *pools))
        before = await answers(history)
        await history.append(whole(20, *reversed(pools)), since=after(10))
        assert await answers(history) == before

    use(history_url, work)


@EACH_STORE
def test_of_several_orders_the_answer_is_the_same_whichever_came_first(
    history_url: str, tmp_path: Path
) -> None:
    def held(symbols: str, *assets: str) -> InsurancePool:
        balances = (AssetBalance(asset, Decimal(1), 0) for asset in assets)
        return InsurancePool(tuple(symbols.split()), tuple(balances))

    one = held("A B", "BTC", "USDT"), held("C", "USDT")
    other = held("C", "USDT"), held("B A", "USDT", "BTC")

    async def work(history: History) -> None:
        async with open_history(f"sqlite:///{tmp_path}/other.db") as second:
            await history.extend([(whole(0, *one), None), (whole(1, *other), None)])
            for number, pools in enumerate((other, one)):
                await second.append(whole(number, *pools))
            assert await history.latest() == await second.latest()
            await history.append(whole(2, *one))
            assert await second.merge(history) == 0
            assert await history.latest() == await second.latest()

    use(history_url, work)


def test_two_layouts_of_one_moment_have_one_order_whichever_came_first(tmp_path: Path) -> None:
    one, other = (pool("A B", "1"),), (pool("A", "1"), pool("B", "2"))

    looks: list[list[InsuranceSnapshot]] = []
    for third in (one, other):
        looks.append([whole(0, *one), whole(0, *other), whole(60, *third)])
        looks.append([whole(0, *third), whole(60, *one), whole(60, *other)])

    async def said(number: int, order: Sequence[InsuranceSnapshot], *, at_once: bool) -> object:
        async with open_history(f"sqlite:///{tmp_path}/{number}.db") as history:
            if at_once:
                await history.extend([(each, None) for each in order])
            for each in order:
                await history.append(each)
            return await history.series("A", "USDT")

    async def work() -> None:
        for number, three in enumerate(looks):
            told = await said(3 * number, three, at_once=True)
            assert await said(3 * number + 1, three, at_once=False) == told
            assert await said(3 * number + 2, three[::-1], at_once=False) == told

    asyncio.run(asyncio.wait_for(work(), 20))


@EACH_STORE
@pytest.mark.parametrize("size", [1, 2, 3])
def test_answers_do_not_depend_on_the_size_of_pages(
    size: int, history_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work(history: History) -> None:
        looks = [
            whole(n, pool("A", str(n), n // 5), *(pool(f"P{each}", "1") for each in range(n)))
            for n in range(12)
        ]

        async def answers() -> list[object]:
            return [
                await history.latest(),
                await history.series("A", "USDT"),
                await history.series(None, "USDT"),
                await history.info(),
            ]

        for number in (5, 12):
            await history.extend([(each, None) for each in looks[:number]])
        usual = await answers()
        assert usual[0] == looks[-1]
        for module, name in ((reading, "_PAGE"), (steps, "_AT_ONCE"), (times, "_PART")):
            monkeypatch.setattr(module, name, size)
        assert await answers() == usual
        assert await history.extend([(each, None) for each in reversed(looks)]) == 0

    use(history_url, work)


@pytest.mark.parametrize("ending", ["jsonl", "JSONL"])
def test_an_export_has_what_was_updated_at_0_and_before(ending: str, tmp_path: Path) -> None:
    async def work(history: History) -> None:
        values = [AssetBalance(asset, Decimal(1), time) for asset, time in (("A", 0), ("B", -1))]
        pools = [InsurancePool((symbol,), tuple(values)) for symbol in "XY"]
        await history.append(whole(0, *pools))
        path = tmp_path / f"values.{ending}"
        assert await export(history, path) == 4
        rows = [msgspec.json.decode(line) for line in path.read_text().splitlines()]
        assert [(row["symbols"], row["asset"], row["update_time"]) for row in rows] == [
            (["X"], "A", 0),
            (["X"], "B", -1),
            (["Y"], "A", 0),
            (["Y"], "B", -1),
        ]

    use(f"sqlite:///{tmp_path}/h.db", work)


@EACH_STORE
@pytest.mark.parametrize("updated", [10**18, -(10**18)])
def test_a_series_has_whatever_update_time_the_exchange_reports(
    updated: int, history_url: str
) -> None:
    async def work(history: History) -> None:
        held = AssetBalance("USDT", Decimal(1), updated)
        given = whole(0, InsurancePool(("A",), (held,)))
        await history.append(given)
        assert await history.latest() == given
        (point,) = (await history.series("A", "USDT")).points
        assert point.update_time == updated
        bounded = await history.series("A", "USDT", start=after(-1), end=after(1))
        assert bounded.points == ()

    use(history_url, work)


@EACH_STORE
def test_half_a_millisecond_before_an_observation_nothing_of_it_is_known(history_url: str) -> None:
    async def work(history: History) -> None:
        old, new = whole(10, pool("A", "1")), whole(20.0005, pool("A", "2", 15))
        await history.extend([(old, None), (new, None)])
        for seconds in (19.9995, 20.0, 20.0004):
            assert await history.latest(after(seconds)) == old
        assert await history.latest(after(20.0005)) == new

    use(history_url, work)
