"""Pools, balances and snapshots as immutable, exact values.

A pool's balance belongs to the pool and covers all of its symbols together. So do not divide it by
the number of symbols, and do not add it up once per symbol.
"""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - msgspec reads annotations at run time
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, Inexact
from functools import cached_property
from typing import Annotated

from msgspec import Meta, Struct

__all__ = [
    "AssetBalance",
    "InsurancePool",
    "InsuranceSnapshot",
    "RequestWeight",
    "normalise_symbol",
]

_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact])
_MAX_MAGNITUDE = 100  # 10^±100: larger than any real amount; it limits the digits of an exact sum
_MAX_SYMBOL_LENGTH = 64
_MAX_TIME = 253_402_300_799_999  # the last millisecond that a datetime can hold


def normalise_symbol(symbol: str) -> str:
    """Return the symbol stripped and in upper case, as the exchange spells it.

    Raises:
        TypeError: it is not a string.
        ValueError: it is empty, longer than 64 characters, or has whitespace or control
            characters inside. Non-ASCII symbols are ordinary.
    """
    if not isinstance(symbol, str):  # pyright: ignore[reportUnnecessaryIsInstance]
        raise TypeError(f"a symbol is a str, not {type(symbol).__name__}")
    name = symbol.strip().upper()
    if not name:
        raise ValueError("a symbol must not be empty")
    if len(name) > _MAX_SYMBOL_LENGTH:
        raise ValueError(f"symbol {name[:20]!r}… is longer than {_MAX_SYMBOL_LENGTH} characters")
    if not name.isprintable() or " " in name:
        raise ValueError(f"symbol {name!r} has whitespace or control characters inside")
    return name


class AssetBalance(Struct, frozen=True, gc=False, rename="camel"):
    """The balance of one asset in a pool.

    Attributes:
        asset: the name of the asset, such as `USDT`.
        margin_balance: the exact amount, in units of the asset; it can be negative.
        update_time: when the exchange last updated it, in milliseconds since 1970 UTC.
    """

    asset: Annotated[str, Meta(min_length=1)]
    margin_balance: Decimal
    update_time: Annotated[int, Meta(ge=0, le=_MAX_TIME)]

    @property
    def updated_at(self) -> datetime:
        """`update_time` as an aware datetime in UTC."""
        seconds, milliseconds = divmod(self.update_time, 1000)
        return datetime.fromtimestamp(seconds, UTC).replace(microsecond=milliseconds * 1000)


class InsurancePool(Struct, frozen=True, gc=False, rename="camel"):
    """One insurance pool: the symbols that it covers, and what it holds.

    Attributes:
        symbols: every symbol that the pool covers, delivery contracts included.
        assets: its balances, one for each asset.

    `"BTCUSDT" in pool` is true if the pool covers the symbol, in upper or lower case.
    """

    symbols: Annotated[tuple[str, ...], Meta(min_length=1)]
    assets: Annotated[tuple[AssetBalance, ...], Meta(min_length=1)]

    def __post_init__(self) -> None:
        """Refuse invalid balances: two of one asset, NaN, infinity, or 1E+999999."""
        for held in self.assets:
            amount = held.margin_balance
            if not (amount.is_finite() and -_MAX_MAGNITUDE <= amount.adjusted() <= _MAX_MAGNITUDE):
                text = str(amount)[:40]
                raise ValueError(f"marginBalance {text} of {held.asset} is not an amount")
        if len({held.asset for held in self.assets}) < len(self.assets):
            raise ValueError("the pool lists an asset twice")

    def __contains__(self, symbol: str) -> bool:
        return symbol in self.symbols or symbol.strip().upper() in self.symbols

    def balance(self, asset: str) -> Decimal:
        """Return the balance of `asset`, in units of that asset.

        Raises:
            KeyError: the pool does not hold the asset. That is not the same as a balance of zero.
        """
        for held in self.assets:
            if held.asset == asset:
                return held.margin_balance
        raise KeyError(asset)


class InsuranceSnapshot(Struct, frozen=True, dict=True):
    """Every pool of the exchange, as observed at one time.

    Attributes:
        pools: the pools, in the exchange's order. `len()` counts them, iteration yields them.
        observed_at: when the exchange answered, by its own clock (its `Date` has whole seconds).

    `snapshot["BTCUSDT"]` is the pool of that symbol. It raises `KeyError` if no pool names the
    symbol. If two pools name it, it is the first one.
    """

    pools: tuple[InsurancePool, ...]
    observed_at: datetime

    @cached_property
    def _by_symbol(self) -> dict[str, InsurancePool]:
        index: dict[str, InsurancePool] = {}
        for pool in self.pools:
            for symbol in pool.symbols:
                index.setdefault(symbol, pool)
        return index

    def __getitem__(self, symbol: str) -> InsurancePool:
        found = self.get(symbol)
        if found is None:
            raise KeyError(symbol)
        return found

    def get(self, symbol: str) -> InsurancePool | None:
        """Return the pool of a symbol, or None if no pool names it."""
        index = self._by_symbol
        return index.get(symbol) or index.get(symbol.strip().upper())

    def __contains__(self, symbol: str) -> bool:
        return symbol in self._by_symbol or symbol.strip().upper() in self._by_symbol

    def __iter__(self) -> Iterator[InsurancePool]:
        return iter(self.pools)

    def __len__(self) -> int:
        return len(self.pools)

    def totals(self) -> dict[str, Decimal]:
        """Return the sum over all pools for each asset: each pool once, without rounding.

        Each sum is in units of its asset; nothing is converted.
        """
        totals: dict[str, Decimal] = {}
        for pool in self.pools:
            for held in pool.assets:
                total = totals.get(held.asset)
                totals[held.asset] = (
                    held.margin_balance if total is None else _EXACT.add(total, held.margin_balance)
                )
        return totals


class RequestWeight(Struct, frozen=True, kw_only=True):
    """The request weight that the exchange grants this IP, and how much of it is used.

    Attributes:
        limit: weight that the exchange grants the IP in one window.
        interval: seconds of a window; windows begin at multiples of it since 1970 UTC.
        used_weight: weight that all clients on the IP have used in this window; None if the
            answer did not report it.
        resets_at: when the next window begins, by the exchange's clock; None if that clock is
            not known, because no answer had a `Date`.
    """

    limit: int
    interval: int
    used_weight: int | None
    resets_at: datetime | None

    @property
    def left(self) -> int | None:
        """Weight that is left for all clients on the IP; None if `used_weight` is None."""
        return None if self.used_weight is None else max(0, self.limit - self.used_weight)
