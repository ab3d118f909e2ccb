"""The error tree; errors can be pickled, name their symbol, and say when to ask again."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest

import binance_insurance as bi
from binance_insurance.sandbox import Fault, Sandbox

TREE = {
    bi.InsuranceError: Exception,
    bi.TransportError: bi.InsuranceError,
    bi.ConnectError: bi.TransportError,
    bi.RequestTimeoutError: bi.TransportError,
    bi.StatusError: bi.InsuranceError,
    bi.BadRequestError: bi.StatusError,
    bi.InvalidSymbolError: bi.BadRequestError,
    bi.RateLimitError: bi.StatusError,
    bi.IPBannedError: bi.RateLimitError,
    bi.ForbiddenError: bi.StatusError,
    bi.ServerError: bi.StatusError,
    bi.DecodeError: bi.InsuranceError,
    bi.BudgetTimeoutError: bi.InsuranceError,
    bi.AssetNotHeldError: bi.InsuranceError,
    bi.BulkFetchError: bi.InsuranceError,
    bi.ClientClosedError: bi.InsuranceError,
    bi.StoreError: bi.InsuranceError,
}


def test_the_tree_is_the_documented_one() -> None:
    assert {error: error.__base__ for error in TREE} == TREE


def test_all_errors_are_exported() -> None:
    defined = {getattr(bi, name) for name in bi.__all__ if isinstance(getattr(bi, name), type)}
    assert {kind for kind in defined if issubclass(kind, Exception)} == set(TREE)
    assert bi.__all__ == sorted(bi.__all__)


@pytest.mark.parametrize(
    "error",
    [
        bi.InvalidSymbolError("no", symbol="X", status=400, code=-1121, message="Invalid symbol."),
        bi.IPBannedError("no", symbol="X", banned_until=datetime(2026, 1, 1, tzinfo=UTC)),
        bi.DecodeError("no", symbol="X", reason="at `$`", body="<", truncated=True),
        bi.DecodeError("no", reason="at `$[1]`", pools=(bi.InsurancePool(("A",), ()),)),
        bi.BudgetTimeoutError("no", symbol="X", wait=3.0),
        bi.BulkFetchError("no", errors={"X": bi.ConnectError("down", symbol="X")}),
        bi.BulkFetchError("no", errors={"X": bi.BudgetTimeoutError("full", wait=3.0)}),
        bi.AssetNotHeldError("the pool holds no DOGE, but USDT"),
        bi.ClientClosedError("closed"),
    ],
)
def test_an_error_survives_pickling(error: bi.InsuranceError) -> None:
    copy: bi.InsuranceError = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (type(error), str(error))
    assert repr(vars(copy)) == repr(vars(error))
    assert copy.retry_after == error.retry_after


def test_an_error_names_its_symbol_first() -> None:
    assert str(bi.ConnectError("cannot connect", symbol="BTCUSDT")) == "BTCUSDT: cannot connect"
    assert str(bi.ConnectError("cannot connect")) == "cannot connect"


def test_no_error_knows_when_to_ask_again_unless_it_was_told() -> None:
    assert bi.InsuranceError.retry_after is None
    assert bi.ConnectError("down").retry_after is None
    assert bi.BudgetTimeoutError("never", wait=float("inf")).retry_after is None
    assert bi.BudgetTimeoutError("full", wait=3.0).retry_after == 3.0


def test_several_errors_say_when_the_last_of_them_may_be_asked_again() -> None:
    soon, late = bi.BudgetTimeoutError("full", wait=3.0), bi.BudgetTimeoutError("full", wait=9.0)
    down = bi.ConnectError("down")
    assert bi.BulkFetchError("no", errors={"A": soon, "B": late, "C": down}).retry_after == 9.0
    assert bi.BulkFetchError("no", errors={"C": down}).retry_after is None


async def fails(client: bi.InsuranceClient, symbol: str, **options: float) -> bi.InsuranceError:
    with pytest.raises(bi.InsuranceError) as caught:
        await client.fetch_pool(symbol, **options)
    copy: bi.InsuranceError = pickle.loads(pickle.dumps(caught.value))
    assert copy.retry_after == caught.value.retry_after
    return caught.value


async def test_a_ban_says_when_it_ends_to_those_who_met_it_and_to_all_later_calls() -> None:
    async with Sandbox() as exchange, bi.InsuranceClient(exchange.url) as client:
        exchange.inject(Fault.of_status(418, headers={"Retry-After": "300"}))
        met, later = await fails(client, "BTCUSDT"), await fails(client, "OMUSDT")
        assert met.retry_after == 300.0
        assert later.retry_after == pytest.approx(301, abs=2)
        with pytest.raises(bi.BulkFetchError) as caught:
            await client.fetch_pools(["BTCUSDT", "OMUSDT"])
        assert caught.value.retry_after == pytest.approx(301, abs=2)


async def test_a_ban_without_retry_after_says_when_its_text_does() -> None:
    async with Sandbox() as exchange, bi.InsuranceClient(exchange.url) as client:
        end = int((exchange.now + 700) * 1000)
        notice = b'{"code":-1003,"msg":"Way too many requests; banned until %d."}' % end
        exchange.inject(Fault(418, notice))
        assert (await fails(client, "BTCUSDT")).retry_after == pytest.approx(700, abs=2)


@pytest.mark.parametrize("headers", [{"Retry-After": "50"}, {}])
async def test_a_freeze_says_when_it_ends(headers: dict[str, str]) -> None:
    retry = bi.RetryPolicy(max_attempts=1)
    async with Sandbox() as exchange, bi.InsuranceClient(exchange.url, retry=retry) as client:
        exchange.inject(Fault.of_status(429, headers=headers))
        met = await fails(client, "BTCUSDT")
        later = await fails(client, "OMUSDT", timeout=0.01)
        left = 50 if headers else 60 - exchange.now % 60 + 1
        assert isinstance(met, bi.RateLimitError)
        assert isinstance(later, bi.BudgetTimeoutError)
        assert met.retry_after == pytest.approx(left, abs=2)
        assert later.retry_after == pytest.approx(left, abs=2)
