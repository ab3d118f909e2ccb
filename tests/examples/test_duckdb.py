"""A history that was exported to Parquet, in DuckDB."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal
from importlib import import_module
from pathlib import Path
from typing import Any

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.history import open_history
from binance_insurance.history.export import export

TIME = 1_795_861_665_007  # 2026-11-28T10:27:45.007Z
WIDEST = Decimal("-12345678901234567890.123456789012345678")
SYMBOLS = ("BTCUSDT", "币安人生USDT")


async def make(directory: Path) -> Path:
    path = directory / "values.parquet"
    pool = InsurancePool(SYMBOLS, (AssetBalance("USDT", WIDEST, TIME),))
    async with open_history(f"sqlite:///{directory / 'h.db'}") as history:
        seen = datetime(2026, 11, 28, 10, 28, tzinfo=UTC)
        await history.append(InsuranceSnapshot((pool,), seen))
        assert await export(history, path) == 1
    return path


def test_duckdb_reads_exact_decimals_and_utc_times(tmp_path: Path) -> None:
    path = asyncio.run(make(tmp_path))
    duckdb: Any = import_module("duckdb")
    found = duckdb.read_parquet(str(path))
    assert [str(each) for each in found.types] == [
        "TIMESTAMP WITH TIME ZONE",
        "TIMESTAMP WITH TIME ZONE",
        "VARCHAR[]",
        "VARCHAR",
        "DECIMAL(38,18)",
    ]
    query = f"""
        SELECT epoch_ms(update_time), symbols, asset, balance FROM '{path}'
        WHERE observed_time = TIMESTAMPTZ '2026-11-28 10:28:00+00'
    """  # noqa: S608
    assert duckdb.sql(query).fetchall() == [(TIME, list(SYMBOLS), "USDT", WIDEST)]
