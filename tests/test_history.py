"""What a history takes and refuses, and what it keeps exactly, on each store."""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable, Coroutine
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.errors import StoreError
from binance_insurance.history import Drawdown, History, Series, open_history
from binance_insurance.history.steps import Steps, ask, fetch

from .recording import snapshot

START = datetime(2026, 9, 24, 9, 14, tzinfo=UTC)
TIME = int(START.timestamp() * 1000)
TEN = Decimal(10)


def after(seconds: float) -> datetime:
    return START + timedelta(seconds=seconds)


def whole(
    seconds: float, *balances: str, symbols: tuple[str, ...] = ("BTCUSDT",)
) -> InsuranceSnapshot:
    """A snapshot of one pool; its balances are in assets A0, A1 and so on."""
    assets = (
        AssetBalance(f"A{number}", Decimal(balance), TIME)
        for number, balance in enumerate(balances or ("1",))
    )
    return InsuranceSnapshot((InsurancePool(symbols, tuple(assets)),), after(seconds))


def use(url: str, work: Callable[[History], Coroutine[Any, Any, None]]) -> None:
    """Run work on a history in real time, which its threads take."""

    async def run() -> None:
        async with open_history(url) as history:
            await work(history)

    asyncio.run(run())


EXACT = [
    "123456789012345678901234567890.123456789012345678",
    "-123456789012345678901234567890.123456789012345678",
    "1E-30",
    "-0.000000000000000000000000000001",
    "0",
    "1E+3",
    "12.5000",
]


def test_balances_come_back_exactly(history_url: str) -> None:
    symbols = ("币安人生USDT", "BTCUSDT_250627", "A B", "50%USDT", "E%20F")

    async def work(history: History) -> None:
        given = whole(0, *EXACT, symbols=symbols)
        assert await history.append(given) == len(EXACT)
        latest = await history.latest()
        assert latest == given
        assert latest is not None
        assert [str(each.margin_balance) for each in latest.pools[0].assets] == [
            *EXACT[:2],
            "1E-30",
            "-1E-30",
            "0",
            "1000",
            "12.5",
        ]
        for number, balance in enumerate(EXACT):
            (point,) = (await history.series("币安人生USDT", f"a{number}")).points
            assert (point.balance, point.symbols) == (Decimal(balance), tuple(sorted(symbols)))

    use(history_url, work)


def test_two_values_of_one_time_are_both_there(history_url: str) -> None:
    async def work(history: History) -> None:
        await history.append(whole(0, "1"))
        await history.append(whole(1, "2"))
        assert await history.append(whole(2, "1")) == 0
        points = (await history.series("BTCUSDT", "A0")).points
        assert [(int(each.balance), each.observed_time - TIME) for each in points] == [
            (1, 0),
            (2, 1000),
        ]
        # Of one update time the one that was first reported later is the newest.
        assert (await history.latest() or whole(0))["BTCUSDT"].balance("A0") == 2

    use(history_url, work)


class NoTime(datetime):
    """As NaT of pandas is, which is what a data frame has for a missing time."""

    def __sub__(self, other: object) -> Any:
        return self

    def __floordiv__(self, other: object) -> float:
        return float("nan")


NO_TIME = NoTime(1, 1, 1)
WRONG: dict[str, Callable[[History], Coroutine[Any, Any, object]]] = {
    "naive observation": lambda h: h.append(
        InsuranceSnapshot(whole(0).pools, datetime(2026, 9, 24))
    ),
    "naive since": lambda h: h.append(whole(0), since=datetime(2026, 9, 24)),
    "since after the observation": lambda h: h.append(whole(0), since=after(1)),
    "part of the pools": lambda h: h.append(InsuranceSnapshot(whole(0).pools, START, False)),
    "no pool": lambda h: h.append(InsuranceSnapshot((), START)),
    "no snapshot": lambda h: h.append(None),  # type: ignore[arg-type]
    "one of several": lambda h: h.extend([(whole(0), None), (whole(1), after(2))]),
    "naive at": lambda h: h.latest(datetime(2026, 9, 24)),
    "naive start": lambda h: h.series("A", "USDT", start=datetime(2026, 9, 24)),
    "naive end": lambda h: h.drawdowns("A", "USDT", end=datetime(2026, 9, 24)),
    "start after end": lambda h: h.series("A", "USDT", start=after(1), end=START),
    "blank symbol": lambda h: h.series(" ", "USDT"),
    "symbol with a blank": lambda h: h.drawdowns("A B", "USDT"),
    "symbol that is a number": lambda h: h.series(1, "USDT"),  # type: ignore[arg-type]
    "asset that is a number": lambda h: h.series("A", 1),  # type: ignore[arg-type]
    "empty asset": lambda h: h.series("A", " "),
    "window of 0": lambda h: h.drawdowns("A", "USDT", window=0),
    "window below 0": lambda h: h.drawdowns("A", "USDT", window=-1.0),
    "endless window": lambda h: h.drawdowns("A", "USDT", window=float("inf")),
    "window that is no number": lambda h: h.drawdowns("A", "USDT", window=float("nan")),
    "window that is a bool": lambda h: h.drawdowns("A", "USDT", window=True),
    "limit that is a bool": lambda h: h.drawdowns("A", "USDT", limit=True),
    "limit of 0": lambda h: h.drawdowns("A", "USDT", limit=0),
    "limit below 0": lambda h: h.drawdowns("A", "USDT", limit=-1),
    "at that is no time": lambda h: h.latest(NO_TIME),
    "since that is no time": lambda h: h.append(whole(0), since=NO_TIME),
    "endless update time": lambda h: h.append(
        InsuranceSnapshot((InsurancePool(("A",), (AssetBalance("B", TEN, 2**63),)),), START)
    ),
    "a URL to merge": lambda h: h.merge("sqlite:///h.db"),  # type: ignore[arg-type]
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_what_is_wrong_is_a_value_error_and_changes_nothing(
    wrong: Callable[[History], Coroutine[Any, Any, object]], tmp_path: Path
) -> None:
    async def work(history: History) -> None:
        with pytest.raises(ValueError, match=r"."):
            await wrong(history)
        assert await history.latest() is None
        assert (await history.info()).values == 0

    use(f"sqlite:///{tmp_path}/h.db", work)


def test_an_error_says_which_snapshots_a_history_takes(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        with pytest.raises(ValueError, match="whole snapshots only, and this is part of the pools"):
            await history.append(InsuranceSnapshot(whole(0).pools, START, False))
        with pytest.raises(ValueError, match="whole snapshots only, and this is an empty one"):
            await history.append(InsuranceSnapshot((), START))

    use(f"sqlite:///{tmp_path}/h.db", work)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "history.db",
        "sqlite:history.db",
        "sqlite://host/history.db",
        "sqlite:///",
        "sqlite:///history.db?timeout=1",
        "sqlite:///no/such/directory/history.db",
        "mysql://host/database",
        "redis://user:secret@host/0",
    ],
)
def test_a_url_of_nothing_is_a_value_error(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=r".") as caught:
        open_history(url)
    assert "secret" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_what_nobody_observed_is_empty(history_url: str) -> None:
    async def work(history: History) -> None:
        empty = Series((), (), ())
        assert await history.latest() is None
        for symbol in ("BTCUSDT", None):
            assert await history.series(symbol, "USDT") == empty
            assert await history.drawdowns(symbol, "USDT") == ()
        await history.append(whole(0))
        assert await history.latest(after(-0.001)) is None
        assert await history.series("NADA", "A0") == empty
        assert (await history.series("BTCUSDT", "NADA")).points == ()
        assert (await history.series(None, "NADA")).points == ()
        assert await history.extend([]) == 0
        info = await history.info()
        assert (info.values, info.first, info.last, info.gaps) == (1, START, START, ())

    use(history_url, work)


def test_the_first_call_makes_a_history_whichever_it_is(history_url: str) -> None:
    async def run() -> None:
        history = open_history(history_url)
        assert (await history.info()).values == 0
        await history.aclose()

    asyncio.run(run())


def test_values_are_rows_and_json(history_url: str) -> None:
    async def work(history: History) -> None:
        await history.append(whole(0, "10"))
        later = InsuranceSnapshot(
            (InsurancePool(("BTCUSDT",), (AssetBalance("A0", Decimal("7.25"), TIME + 5000),)),),
            after(60),
        )
        await history.append(later)
        series = await history.series("btcusdt", "A0")
        (fall,) = await history.drawdowns("BTCUSDT", "A0")
        rows = series.rows()
        assert [str(row["balance"]) for row in rows] == ["10.00", "7.25"]
        assert list(rows[0]) == ["update_time", "observed_time", "balance", "symbols"]
        assert fall.to_dict() == {
            "peak": "10",
            "trough": "7.25",
            "depth": "2.75",
            "fraction": "0.275",
            "peak_time": TIME,
            "trough_time": TIME + 5000,
            "recovered_time": None,
        }
        plain = series.to_dict()
        assert plain["gaps"] == [{"start": "2026-09-24T09:14:00Z", "end": "2026-09-24T09:15:00Z"}]
        assert msgspec.convert(plain, Series) == series
        assert msgspec.convert(fall.to_dict(), Drawdown) == fall

    use(history_url, work)


def test_ten_falls_are_told_unless_more_are_asked_for(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        looks = [whole(n, str(9 - n % 2 * n)) for n in range(24)]
        moved = (
            msgspec.structs.replace(each.pools[0].assets[0], update_time=TIME + number)
            for number, each in enumerate(looks)
        )
        await history.extend(
            (InsuranceSnapshot((InsurancePool(("A",), (asset,)),), each.observed_at), None)
            for each, asset in zip(looks, moved, strict=True)
        )
        for symbol in ("A", None):
            assert len(await history.drawdowns(symbol, "A0")) == 10
            assert len(await history.drawdowns(symbol, "A0", limit=None)) == 12

    use(f"sqlite:///{tmp_path}/h.db", work)


def test_a_merge_also_copies_from_one_kind_of_store_to_another(
    history_url: str, tmp_path: Path
) -> None:
    async def work(history: History) -> None:
        await history.extend([(snapshot(number), None) for number in range(3)])
        async with open_history(f"sqlite:///{tmp_path}/copy.db") as copy:
            await copy.append(snapshot(9))
            assert await copy.merge(history) == 60
            assert await copy.merge(history) == 0
            assert await history.merge(copy) == 20
            assert await history.merge(copy) == 0
            assert await history.series("S1USDT", "USDT") == await copy.series("S1USDT", "USDT")

    use(history_url, work)


def test_a_merge_with_itself_changes_nothing(history_url: str) -> None:
    async def work(history: History) -> None:
        await history.append(snapshot(1))
        assert await history.merge(history) == 0

    use(history_url, work)


def test_many_calls_at_once_are_served(history_url: str) -> None:
    async def work(history: History) -> None:
        appended = [history.append(snapshot(number)) for number in range(20)]
        assert sum(await asyncio.gather(*appended)) == 20 * 20 + 20
        answers = await asyncio.gather(*(history.series("S1USDT", "USDT") for _ in range(20)))
        assert {len(each.points) for each in answers} == {20}

    use(history_url, work)


def test_a_call_that_is_cancelled_leaves_a_history_that_works(history_url: str) -> None:
    async def work(history: History) -> None:
        for number in range(5):
            call = asyncio.create_task(history.append(snapshot(number)))
            await asyncio.sleep(0.001 * number)
            call.cancel()
            await asyncio.wait({call})
        await history.append(snapshot(9))
        assert (await history.latest() or whole(0)).observed_at == snapshot(9).observed_at
        for point in (await history.series("S1USDT", "USDT")).points:
            for pool in range(20):  # what was appended at all is there as a whole
                other = await history.series(f"S{pool}USDT", "USDT")
                assert point.update_time in {each.update_time for each in other.points}

    use(history_url, work)


def test_a_closed_history_says_so(history_url: str) -> None:
    async def run() -> None:
        history = open_history(history_url)
        await history.append(snapshot(1))  # without `async with` the first call opens it
        await history.aclose()
        await history.aclose()
        for call in (history.latest(), history.append(snapshot(2))):
            with pytest.raises(StoreError, match="is closed"):
                await call

    asyncio.run(run())


def test_one_history_serves_several_event_loops(history_url: str) -> None:
    history = open_history(history_url)
    for number in range(3):
        assert asyncio.run(history.append(snapshot(number))) == 20 + 20 * (number == 0)
    asyncio.run(history.aclose())


def test_all_steps_of_an_answer_see_one_state(history_url: str) -> None:
    async def work(history: History) -> None:
        async def append() -> int:
            return await history.append(snapshot(1))

        def count_twice() -> Steps[list[int]]:
            ((before,),) = yield from ask("SELECT count(*) FROM value")
            new = yield from fetch(append)
            ((after_it,),) = yield from ask("SELECT count(*) FROM value")
            return [before, after_it - before, new]

        await history.append(snapshot(0))
        assert await history.store.read(count_twice()) == [40, 0, 20]

    use(history_url, work)


def test_other_programs_read_the_view(tmp_path: Path) -> None:
    async def work(history: History) -> None:
        await history.append(whole(0, "12.50", symbols=("ETHUSDT", "BTCUSDT")))

    use(f"sqlite:///{tmp_path}/h.db", work)
    with closing(sqlite3.connect(tmp_path / "h.db")) as connection:
        cursor = connection.execute("SELECT * FROM balances")
        assert [column[0] for column in cursor.description] == [
            *("update_time", "observed_time", "symbols", "asset", "balance")
        ]
        assert cursor.fetchall() == [(TIME, TIME, "BTCUSDT ETHUSDT", "A0", "12.5")]
