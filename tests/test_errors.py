"""The documented error tree; errors can be pickled and name their symbol."""

from __future__ import annotations

import pickle
from datetime import UTC, datetime

import pytest

import binance_insurance as bi

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
