"""A history as a file for other tools: CSV, JSON lines and Parquet."""

from __future__ import annotations

import asyncio
import csv
import json
import random
import resource
import sys
from collections.abc import Callable, Coroutine
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from typer.testing import CliRunner

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.cli._app import app
from binance_insurance.history import History, copying, open_history, parquet
from binance_insurance.history.export import export

START = datetime(2026, 9, 24, 9, 14, 0, 7000, tzinfo=UTC)
TIME = int(START.timestamp() * 1000)
LONG = "123456789012345678901234567890.123456789012345678"
WIDEST = "-12345678901234567890.123456789012345678"
ODD = ("C D", "E%20F", "币安人生USDT")


def whole(*pools: InsurancePool, seconds: int = 0) -> InsuranceSnapshot:
    return InsuranceSnapshot(pools, START + timedelta(seconds=seconds))


def pool(*symbols: str, asset: str = "USDT", update_time: int = TIME, **kind: str) -> InsurancePool:
    return InsurancePool(
        symbols, (AssetBalance(asset, Decimal(kind.get("balance", "1.5")), update_time),)
    )


SNAPSHOTS = [
    whole(pool("B", "A", balance=WIDEST), pool(*ODD, asset="BTC", balance="1E-18")),
    whole(pool("B", "A", balance="9"), pool(*ODD, asset="BTC", balance="0E-8"), seconds=1),
    whole(pool("B", "A", balance="10"), pool(*ODD, asset="BTC", balance="7"), seconds=2),
    whole(pool("B", "A", balance="10.50", update_time=TIME - 1), pool("G", balance="3"), seconds=3),
]
# By symbols, asset, update time and balance.
ROWS = [
    (TIME - 1, TIME + 3000, ("A", "B"), "USDT", "10.5"),
    (TIME, TIME, ("A", "B"), "USDT", WIDEST),
    (TIME, TIME + 1000, ("A", "B"), "USDT", "9"),
    (TIME, TIME + 2000, ("A", "B"), "USDT", "10"),
    (TIME, TIME + 1000, ODD, "BTC", "0"),
    (TIME, TIME, ODD, "BTC", "0.000000000000000001"),
    (TIME, TIME + 2000, ODD, "BTC", "7"),
    (TIME, TIME + 3000, ("G",), "USDT", "3"),
]


def use(url: str, work: Callable[[History], Coroutine[Any, Any, None]]) -> None:
    """Run work on a history in real time, which its threads take."""

    async def run() -> None:
        async with open_history(url) as history:
            await work(history)

    asyncio.run(run())


def exported(url: str, path: Path, snapshots: list[InsuranceSnapshot]) -> str:
    """Export a history of snapshots, and return the text of the file."""

    async def work(history: History) -> None:
        for each in snapshots:
            await history.append(each)
        counts.append(await export(history, path))

    counts: list[int] = []
    use(url, work)
    if path.suffix == ".parquet":
        return ""
    text = path.read_text("utf-8")
    assert counts == [text.count("\n") - (path.suffix == ".csv")]
    return text


@pytest.fixture
def path(tmp_path: Path) -> Path:
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "values.csv"


@pytest.mark.parametrize("page", [1, 3, 10_000])
def test_a_row_for_each_value_in_one_order_whatever_the_store_and_the_arrival(
    history_url: str, path: Path, page: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_PAGE", page)
    shuffled = random.Random(page).sample(SNAPSHOTS, len(SNAPSHOTS))
    text = exported(history_url, path.with_suffix(".jsonl"), shuffled)
    rows = [json.loads(line) for line in text.splitlines()]
    assert [(*row.values(),) for row in rows] == [
        (updated, observed, list(symbols), asset, balance)
        for updated, observed, symbols, asset, balance in ROWS
    ]
    assert list(rows[0]) == ["update_time", "observed_time", "symbols", "asset", "balance"]


def test_csv_has_what_the_view_has(tmp_path: Path, path: Path) -> None:
    text = exported(f"sqlite:///{tmp_path / 'h.db'}", path, SNAPSHOTS)
    rows = list(csv.reader(text.splitlines()))
    assert rows[0] == ["update_time", "observed_time", "symbols", "asset", "balance"]
    assert rows[1] == [str(TIME - 1), str(TIME + 3000), "A B", "USDT", "10.5"]
    assert rows[5][2] == "C%20D E%2520F 币安人生USDT"
    assert [path] == list(path.parent.iterdir())


def test_parquet_has_exact_decimals_and_utc_times(tmp_path: Path, path: Path) -> None:
    path = path.with_suffix(".parquet")
    exported(f"sqlite:///{tmp_path / 'h.db'}", path, SNAPSHOTS)
    by_polars = pl.read_parquet(path)
    time = pl.Datetime("ms", "UTC")
    assert by_polars.schema == {
        "update_time": time,
        "observed_time": time,
        "symbols": pl.List(pl.String),
        "asset": pl.String,
        "balance": pl.Decimal(38, 18),
    }
    expected = [(*row[2:4], Decimal(row[4])) for row in ROWS]
    rows = by_polars.rows()
    assert [(tuple(row[2]), row[3], row[4]) for row in rows] == expected
    assert rows[0][0] == START - timedelta(milliseconds=1)
    by_pandas: Any = import_module("pandas").read_parquet(path)
    assert list(by_pandas["balance"]) == [row[2] for row in expected]
    assert by_pandas["update_time"][0] == START - timedelta(milliseconds=1)
    assert str(by_pandas["update_time"].dtype) == "datetime64[ms, UTC]"


def test_parquet_has_each_value_once_whatever_a_reader_takes_at_a_time(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = path.with_suffix(".parquet")
    monkeypatch.setattr(copying, "_PAGE", 1)
    monkeypatch.setattr(parquet, "_GROUP", 3)
    exported(f"sqlite:///{tmp_path / 'h.db'}", path, SNAPSHOTS)
    rows = pl.read_parquet(path).rows()
    assert [(tuple(row[2]), row[4]) for row in rows] == [
        (symbols, Decimal(balance)) for _, _, symbols, _, balance in ROWS
    ]


def test_the_command_writes_parquet_or_says_in_one_line_why_not(tmp_path: Path) -> None:
    url, file = f"sqlite:///{tmp_path / 'h.db'}", tmp_path / "values.parquet"

    async def append(balance: str) -> None:
        async with open_history(url) as history:
            await history.append(whole(pool("BTCUSDT", balance=balance)))

    command = ["history", "export", url, str(file)]
    asyncio.run(append(WIDEST))
    assert CliRunner().invoke(app, command).stdout == f"1 values written to {file}\n"
    assert pl.read_parquet(file)["balance"].to_list() == [Decimal(WIDEST)]
    asyncio.run(append(LONG))
    file.unlink()
    result = CliRunner().invoke(app, command)
    assert (result.exit_code, result.stderr.count("\n")) == (2, 1)
    assert f"does not hold {LONG} USDT, the balance of BTCUSDT" in result.stderr
    assert not file.exists()


@pytest.mark.parametrize("balance", [LONG, "1E-19", "1E+20"])
def test_a_balance_that_parquet_does_not_hold_is_named_and_no_file_is_left(
    tmp_path: Path, path: Path, balance: str
) -> None:
    async def work(history: History) -> None:
        await history.append(whole(pool("BTCUSDT", "ETHUSDT", balance=balance), pool("G")))
        await export(history, path)
        path.with_suffix(".parquet").write_text("what was there")
        for _ in range(2):
            with pytest.raises(ValueError, match="does not hold") as caught:
                await export(history, path.with_suffix(".parquet"))
            for part in (f"{Decimal(balance):f} USDT", "BTCUSDT and 1 more", str(TIME), "38,18"):
                assert part in str(caught.value)
        assert path.with_suffix(".parquet").read_text() == "what was there"
        assert len(list(path.parent.iterdir())) == 2

    use(f"sqlite:///{tmp_path / 'h.db'}", work)
    assert f"{Decimal(balance):f}" in path.read_text()


def test_an_empty_history_is_a_file_without_rows(tmp_path: Path, path: Path) -> None:
    assert exported(f"sqlite:///{tmp_path / 'h.db'}", path, []).count("\n") == 1
    exported(f"sqlite:///{tmp_path / 'h.db'}", path.with_suffix(".parquet"), [])
    assert pl.read_parquet(path.with_suffix(".parquet")).shape == (0, 5)


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_a_file_that_cannot_be_written_leaves_nothing(
    tmp_path: Path, path: Path, ending: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(copying, "_PAGE", 10)
    path = path.with_suffix(f".{ending}")

    async def work(history: History) -> None:
        many = [whole(pool("A", balance=str(n), update_time=n), seconds=n) for n in range(500)]
        await history.extend((each, None) for each in many)
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1024, limits[1]))
        try:
            with pytest.raises(OSError, match="too large"):
                await export(history, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert list(path.parent.iterdir()) == []
        exporting = asyncio.create_task(export(history, path))
        while not list(path.parent.iterdir()):  # noqa: ASYNC110 - a file is awaited
            await asyncio.sleep(0)
        exporting.cancel()
        await asyncio.wait([exporting])
        assert exporting.cancelled()
        assert list(path.parent.iterdir()) == []
        with pytest.raises(OSError, match="No such file"):
            await export(history, path.parent / "missing" / path.name)
        path.mkdir()
        with pytest.raises(OSError, match="directory"):
            await export(history, path)

    use(f"sqlite:///{tmp_path / 'h.db'}", work)


@pytest.mark.parametrize("name", ["values.txt", "values", ".csv"])
def test_another_ending_is_a_value_error(tmp_path: Path, name: str) -> None:
    async def work(history: History) -> None:
        with pytest.raises(ValueError, match=r"\.csv, \.jsonl, \.parquet"):
            await export(history, tmp_path / name)

    use(f"sqlite:///{tmp_path / 'h.db'}", work)


def test_without_pyarrow_only_parquet_names_the_extra(
    tmp_path: Path, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "binance_insurance.history.parquet", raising=False)
    monkeypatch.setitem(sys.modules, "pyarrow", None)

    async def work(history: History) -> None:
        assert await export(history, path.with_suffix(".jsonl")) == 0
        with pytest.raises(
            ModuleNotFoundError, match=r"pip install 'binance-insurance\[parquet\]'"
        ):
            await export(history, path.with_suffix(".parquet"))
        assert [each.suffix for each in path.parent.iterdir()] == [".jsonl"]

    use(f"sqlite:///{tmp_path / 'h.db'}", work)
