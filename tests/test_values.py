"""Pools and snapshots as values to store, return, log, and put into a data frame."""

from __future__ import annotations

import hashlib
import pickle
import subprocess
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, cast

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, TypeAdapter

from binance_insurance import (
    AssetBalance,
    AssetNotHeldError,
    BudgetState,
    ClientStats,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    InsuranceSnapshot,
    LocalBudget,
)
from binance_insurance.sandbox import Sandbox

NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)
UPDATED = 1745366402000
URL = "https://fapi.binance.com/fapi/v1/insuranceBalance?symbol=BTCUSDT"


def pool(*symbols: str, at: datetime | None = None, **balances: str) -> InsurancePool:
    held = tuple(AssetBalance(name, Decimal(text), UPDATED) for name, text in balances.items())
    return InsurancePool(symbols, held, at)


amounts = st.decimals(-(10**30), 10**30, places=None, allow_nan=False, allow_infinity=False).filter(
    lambda amount: -100 <= amount.adjusted() <= 100
)
pools = st.builds(
    InsurancePool,
    st.lists(st.text(min_size=1, max_size=8), min_size=1, max_size=4).map(tuple),
    st.lists(
        st.builds(AssetBalance, st.text(min_size=1), amounts, st.integers(0, 10**13)),
        min_size=1,
        max_size=3,
        unique_by=lambda held: held.asset,
    ).map(tuple),
    st.none() | st.datetimes(timezones=st.just(UTC)),
)


@given(pools)
def test_a_pool_comes_back_from_its_dict(one: InsurancePool) -> None:
    content = one.to_dict()
    again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(content)), InsurancePool)
    assert again == one
    assert again.observed_at == one.observed_at
    assert ("observedAt" in content) == (one.observed_at is not None)
    texts = [held["marginBalance"] for held in cast("list[dict[str, str]]", content["assets"])]
    assert not any("E" in text for text in texts)
    assert [Decimal(text) for text in texts] == [held.margin_balance for held in one.assets]


@given(st.lists(pools, max_size=4), st.booleans())
def test_a_snapshot_comes_back_from_its_dict(some: list[InsurancePool], complete: bool) -> None:
    snapshot = InsuranceSnapshot(tuple(some), NOON, complete)
    content = snapshot.to_dict()
    assert ("complete" in content) == (not complete)
    again = msgspec.convert(msgspec.json.decode(msgspec.json.encode(content)), InsuranceSnapshot)
    assert again == snapshot
    assert again.complete == complete


def test_a_part_is_not_equal_to_all_pools_and_says_what_it_is() -> None:
    whole = InsuranceSnapshot((pool("BTCUSDT", USDT="1"),), NOON)
    part = InsuranceSnapshot(whole.pools, NOON, complete=False)
    assert whole.complete
    assert part != whole
    assert "part of" not in repr(whole)
    assert (
        repr(part)
        == "<InsuranceSnapshot of 1 pools, part of all: 1 USDT at 2026-11-22 12:00:00+00:00>"
    )


@given(st.lists(pools, max_size=4))
def test_rows_lose_no_digit_and_have_one_scale(some: list[InsurancePool]) -> None:
    snapshot = InsuranceSnapshot(tuple(some), NOON)
    rows = snapshot.rows()
    held = [each for one in some for each in one.assets]
    assert [row["margin_balance"] for row in rows] == [each.margin_balance for each in held]
    assert len({cast("Decimal", row["margin_balance"]).as_tuple().exponent for row in rows}) <= 1


def test_a_row_is_flat() -> None:
    snapshot = InsuranceSnapshot((pool("ETHUSDT", "BTCUSDT", USDT="1.50"),), NOON)
    assert snapshot.rows() == [
        {
            "observed_at": NOON,
            "pool": hashlib.sha256(b"BTCUSDT\nETHUSDT").hexdigest()[:12],
            "symbols": ("ETHUSDT", "BTCUSDT"),
            "asset": "USDT",
            "margin_balance": Decimal("1.50"),
            "updated_at": datetime(2025, 4, 23, 0, 0, 2, tzinfo=UTC),
        }
    ]


def test_when_a_pool_was_observed_is_no_part_of_its_value() -> None:
    one, other = pool("A", USDT="1", at=NOON), pool("A", USDT="1.0")
    assert one == other
    assert hash(one) == hash(other)
    assert one != pool("A", USDT="2", at=NOON)
    assert one != ("A",)
    assert pickle.loads(pickle.dumps(one)).observed_at == NOON


async def test_a_fetched_pool_was_observed_at_the_exchange_s_date(
    mocked: Callable[..., None],
) -> None:
    body = (
        b'{"symbols":["BTCUSDT"],"assets":[{"asset":"USDT","marginBalance":"0.00000000",'
        b'"updateTime":1745366402000}],"observedAt":"1999-01-01T00:00:00Z"}'
    )
    mocked(URL, body=body, headers={"Date": "Sun, 22 Nov 2026 12:00:00 GMT"})
    async with InsuranceClient() as client:
        one = await client.fetch_pool("BTCUSDT")
    assert one.observed_at == NOON
    assert one.to_dict() == {
        "symbols": ["BTCUSDT"],
        "assets": [{"asset": "USDT", "marginBalance": "0.00000000", "updateTime": UPDATED}],
        "observedAt": "2026-11-22T12:00:00Z",
    }


async def test_without_a_date_the_local_clock_stands_in(mocked: Callable[..., None]) -> None:
    mocked(URL, body=msgspec.json.encode(pool("BTCUSDT", USDT="1")), headers={})
    async with InsuranceClient() as client:
        one = await client.fetch_pool("BTCUSDT")
    assert one.observed_at is not None
    assert one.observed_at.microsecond == 0


async def test_every_pool_of_a_snapshot_was_observed_with_it() -> None:
    async with Sandbox("market") as exchange, InsuranceClient(exchange.url) as client:
        snapshot = await client.fetch_snapshot()
    assert {one.observed_at for one in snapshot} == {snapshot.observed_at}


def test_an_asset_is_found_in_either_case() -> None:
    one = pool("BTCUSDT", USDT="1.5", BNFCR="0")
    assert one.balance("usdt") == one.balance(" USDT ") == Decimal("1.5")
    assert one.get("bnfcr") == 0
    assert one.get("DOGE") is None
    assert one.get("DOGE", Decimal(7)) == 7
    for error in (InsuranceError, KeyError):
        with pytest.raises(error, match=r"^the pool of BTCUSDT holds no doge, but USDT, BNFCR$"):
            one.balance("doge")
    no_asset: Any = 5
    assert one.get(no_asset, 7) == 7
    with pytest.raises(AssetNotHeldError):
        one.balance(no_asset)


def test_what_comes_from_outside_is_shown_as_text() -> None:
    one = InsurancePool(("\x1b[31mBTC\nX",), (AssetBalance("US\x07DT", Decimal(1), UPDATED),))
    with pytest.raises(AssetNotHeldError) as caught:
        one.balance("\x1b[2J")
    for text in (str(caught.value), repr(one), repr(InsuranceSnapshot((one,), NOON))):
        assert text.isprintable()


def test_what_is_no_symbol_is_not_there() -> None:
    one = pool("BTCUSDT", USDT="1")
    snapshot = InsuranceSnapshot((one,), NOON)
    assert 5 not in one
    assert 0 not in snapshot
    with pytest.raises(KeyError):
        snapshot[cast("Any", 0)]
    assert snapshot.get("btcusdt") is snapshot.get("BTCUSDT") is one
    assert snapshot.get("ETHUSDT", 7) == 7


@pytest.mark.parametrize("text", [repr, str])
def test_a_repr_is_short(text: Callable[[object], str]) -> None:
    symbols = [f"{'币安人生' * 12}{number}USDT" for number in range(900)]
    wide = {f"{'X' * 60}{number}": f"{10**38}.{'1' * 18}" for number in range(50)}
    large = pool(*symbols, **wide, at=NOON)
    small = pool("BTCUSDT", "ETHUSDT", USDT="793930579.315848", BNFCR="0E-8", at=NOON)
    snapshot = InsuranceSnapshot((large, small), NOON)
    client = InsuranceClient("https://user:secret@fapi.example:8443/path")
    for value in (large, small, snapshot, client):
        assert len(text(value)) < 300
        assert "secret" not in text(value)
    assert text(small) == (
        "<InsurancePool of BTCUSDT, ETHUSDT: 793930579.315848 USDT, 0.00000000 BNFCR "
        "at 2026-11-22 12:00:00 UTC>"
    )
    assert "and 899 more" in text(large)
    assert text(client) == "<InsuranceClient of https://fapi.example:8443>"


async def test_a_max_age_of_the_client_is_the_default_of_its_calls() -> None:
    async with (
        Sandbox("documented") as exchange,
        InsuranceClient(exchange.url, max_age=60) as client,
    ):
        first = await client.fetch_pool("BTCUSDT")
        other = next(symbol for symbol in first.symbols if symbol != "BTCUSDT")
        assert await client.fetch_pool(other) is first, "it answers for all of its symbols"
        assert await client.fetch_pools([other]) == {other: first}
        sent = len(exchange.requests)
        await client.fetch_pool("BTCUSDT", max_age=0)
        assert len(exchange.requests) == sent + 1, "a call's own wins"
        snapshot = await client.fetch_snapshot()
        assert await client.fetch_snapshot(max_age=None) is snapshot
    for age in (-1.0, float("nan")):
        with pytest.raises(ValueError, match="max_age"):
            InsuranceClient(max_age=age)


def test_the_core_imports_no_pydantic() -> None:
    code = "import sys, binance_insurance; print('pydantic' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, check=True, text=True)
    assert done.stdout == "False\n"


async def test_pydantic_reads_and_writes_our_values() -> None:
    class Risk(BaseModel):
        pool: InsurancePool
        snapshot: InsuranceSnapshot
        state: BudgetState
        stats: ClientStats

    one = pool("BTCUSDT", USDT="1.50", at=NOON)
    async with InsuranceClient() as client:
        stats = client.stats()
    risk = Risk(
        pool=one,
        snapshot=InsuranceSnapshot((one,), NOON),
        state=LocalBudget().state(),
        stats=stats,
    )
    assert Risk.model_validate_json(risk.model_dump_json()) == risk
    assert risk.model_dump()["pool"] == one.to_dict()
    with pytest.raises(ValueError, match="marginBalance"):
        TypeAdapter(InsurancePool).validate_python({"symbols": ["A"], "assets": [{"asset": "B"}]})
    schema = TypeAdapter(InsurancePool).json_schema()
    assert schema["properties"]["assets"]["items"]["properties"]["marginBalance"] == {
        "type": "string",
        "format": "decimal",
    }
    assert "$ref" not in str(Risk.model_json_schema()["properties"]["pool"])
