"""Answers are decoded to exact values, or to errors that name the broken field."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal, localcontext

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from binance_insurance import (
    AssetBalance,
    DecodeError,
    InsuranceClient,
    InsurancePool,
    InsuranceSnapshot,
)

URL = "https://fapi.binance.com/fapi/v1/insuranceBalance"
BTC = f"{URL}?symbol=BTCUSDT"
NOON = datetime(2026, 11, 22, 12, tzinfo=UTC)


def body(balance: str = '"1.5"', *, symbols: str = '["BTCUSDT"]', more: str = "") -> bytes:
    """One pool in the exchange's JSON format."""
    return (
        f'{{"symbols":{symbols},"assets":[{{"asset":"USDT","marginBalance":{balance},'
        f'"updateTime":1745366402000{more}}}]{more}}}'
    ).encode()


@pytest.mark.parametrize(
    "text",
    [
        "793930579.315848",
        "0E-8",
        "0.00000000",
        "-1250.12345678",
        "123456789012345678901234567890.123456789012345678",
        "-0.000000000000000001",
    ],
)
async def test_a_balance_keeps_every_digit(mocked: Callable[..., None], text: str) -> None:
    mocked(BTC, body=body(f'"{text}"', more=',"future":[{"x":1}]'))
    async with InsuranceClient() as client:
        pool = await client.fetch_pool("btcusdt")
    assert pool.balance("USDT").as_tuple() == Decimal(text).as_tuple()
    assert pool.assets[0].updated_at == datetime(2025, 4, 23, 0, 0, 2, tzinfo=UTC)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b'{"code":-1003,"msg":"Too many requests."}', r"'Too many requests.' \(code -1003\)"),
        (b"<html><body>maintenance</body></html>", "JSON is malformed"),
        (b"[]", r"length >= 1 - at `\$`"),
        (b"null", r"got `null` - at `\$`"),
        (b"{}", r"missing required field `symbols` - at `\$`"),
        (b'{"symbols":["BTCUSDT"],"assets":[]}', r"length >= 1 - at `\$.assets`"),
        (body(symbols="[]"), r"at `\$.symbols`"),
        (body(symbols="[7]"), r"at `\$.symbols\[0\]`"),
        (body(symbols='["ETHUSDT"]'), "no pool in the answer names BTCUSDT"),
        (body("null"), r"at `\$.assets\[0\].marginBalance`"),
        (body('""'), r"at `\$.assets\[0\].marginBalance`"),
        (body('"NaN"'), r"marginBalance NaN of USDT is not an amount - at `\$`"),
        (body('"-Infinity"'), "-Infinity of USDT is not an amount"),
        (body('"1E+999999"'), "of USDT is not an amount"),
        (body().replace(b"1745366402000", b"-1"), r"at `\$.assets\[0\].updateTime`"),
        (body().replace(b"1745366402000", b'"soon"'), r"at `\$.assets\[0\].updateTime`"),
        (body().replace(b"USDT", b"US\xffDT"), "utf-8"),
        (b'{"x":' * 10_000 + b"1" + b"}" * 10_000, "recursion"),
    ],
)
async def test_an_answer_that_is_not_a_pool_is_an_error_not_an_empty_pool(
    mocked: Callable[..., None], answer: bytes, reason: str
) -> None:
    mocked(BTC, body=answer)
    async with InsuranceClient() as client:
        with pytest.raises(DecodeError, match=reason) as caught:
            await client.fetch_pool("BTCUSDT", timeout=0.1)
    assert caught.value.symbol == "BTCUSDT"
    assert str(caught.value).startswith("BTCUSDT: HTTP 200, but not the documented answer")
    assert "\n" not in str(caught.value)
    assert len(caught.value.body) <= 200


async def test_a_list_is_accepted_for_one_symbol_but_one_pool_is_no_snapshot(
    mocked: Callable[..., None],
) -> None:
    mocked(BTC, body=b"[" + body(symbols='["ADAUSDT"]') + b"," + body() + b"]")
    mocked(URL.replace("insuranceBalance", "ping"), body=b"{}", repeat=True)  # it reports no weight
    mocked(URL, body=body())
    async with InsuranceClient() as client:
        assert (await client.fetch_pool("BTCUSDT")).symbols == ("BTCUSDT",)
        with pytest.raises(DecodeError, match="Expected a list of pools, got one pool"):
            await client.fetch_snapshot()


def pool(*symbols: str, **balances: str) -> InsurancePool:
    """A pool with these symbols and balances."""
    assets = tuple(AssetBalance(asset, Decimal(text), 0) for asset, text in balances.items())
    return InsurancePool(symbols, assets)


def test_a_pool_is_looked_up_by_symbol_and_asset() -> None:
    majors = pool("BTCUSDT", "BTCUSDT_250627", USDT="1.10", BTC="0")
    assert "BTCUSDT" in majors
    assert " btcusdt_250627 " in majors
    assert "ETHUSDT" not in majors
    assert str(majors.balance("USDT")) == "1.10"
    assert majors.balance("BTC") == 0
    with pytest.raises(KeyError, match="USDC"):
        majors.balance("USDC")


def test_a_snapshot_is_looked_up_by_symbol() -> None:
    majors, other = pool("BTCUSDT", "ETHUSDT", USDT="1"), pool("币安人生USDT", "ETHUSDT", USDT="2")
    snapshot = InsuranceSnapshot((majors, other), NOON)
    assert snapshot["BTCUSDT"] is majors
    assert snapshot["币安人生usdt"] is other
    assert snapshot["ETHUSDT"] is majors, "two pools name it: the first one"
    assert "ethusdt" in snapshot
    assert "ADAUSDT" not in snapshot
    assert (len(snapshot), list(snapshot)) == (2, [majors, other])
    with pytest.raises(KeyError, match="ADAUSDT"):
        snapshot["ADAUSDT"]


@given(st.lists(st.decimals(-(10**30), 10**30, places=18), min_size=1, max_size=20))
def test_totals_count_each_pool_once_without_rounding(amounts: list[Decimal]) -> None:
    pools = tuple(pool("A", "B", "C", USDT=str(amount)) for amount in amounts)
    with localcontext(prec=200):
        exact = sum(amounts, Decimal(0))
        assert InsuranceSnapshot(pools, NOON).totals()["USDT"] - exact == 0


def test_models_are_immutable_and_survive_a_json_round_trip() -> None:
    majors = pool("BTCUSDT", USDT="0E-8")
    with pytest.raises(AttributeError):
        majors.symbols = ()  # type: ignore[misc]
    assert msgspec.json.decode(msgspec.json.encode(majors), type=InsurancePool) == majors
    assert hash(majors) == hash(pool("BTCUSDT", USDT="0E-8"))


@pytest.mark.parametrize("amount", ["NaN", "Infinity", "1E+101", "1E-101"])
def test_a_pool_refuses_an_invalid_amount(amount: str) -> None:
    with pytest.raises(ValueError, match="is not an amount"):
        pool("BTCUSDT", USDT=amount)
