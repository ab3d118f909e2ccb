"""Rows in data frames: every balance exactly."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pandas as pd  # type: ignore[import-untyped]
import polars as pl
import pytest

from binance_insurance import InsuranceSnapshot
from binance_insurance.history import Point, Series
from binance_insurance.testing import make_pool

NOON = datetime(2026, 7, 1, 12, tzinfo=UTC)
MANY = 150  # polars takes a column's scale from its first 100 rows
EXACT = [*[Decimal("1.5")] * MANY, Decimal("0.123456789012")]


@pytest.fixture(params=[pl.DataFrame, pd.DataFrame], ids=["polars", "pandas"])
def frame(request: pytest.FixtureRequest) -> Callable[[list[dict[str, object]]], Any]:
    """What makes a data frame of rows."""
    made: Callable[[list[dict[str, object]]], Any] = request.param
    return made


def test_a_snapshot(frame: Callable[[list[dict[str, object]]], Any]) -> None:
    pools = (make_pool(f"S{number}USDT", USDT=each) for number, each in enumerate(EXACT))
    snapshot = InsuranceSnapshot(tuple(pools), NOON)
    column = frame(snapshot.rows())["margin_balance"]
    assert column.to_list() == EXACT
    assert column.sum() == snapshot.totals()["USDT"] == sum(EXACT)


def test_a_series(frame: Callable[[list[dict[str, object]]], Any]) -> None:
    points = (Point(number, number, each, ("A",)) for number, each in enumerate(EXACT))
    column = frame(Series(tuple(points), (), ()).rows())["balance"]
    assert column.to_list() == EXACT
    assert column.sum() == sum(EXACT)
