"""Pools, balances and snapshots as immutable, exact values.

A pool's balance belongs to the pool and covers all of its symbols together. So do not divide it by
the number of symbols, and do not add it up once per symbol.
"""

from __future__ import annotations

from collections.abc import Iterator  # noqa: TC003 - msgspec reads annotations at run time
from datetime import UTC, datetime
from decimal import MAX_EMAX, MAX_PREC, MIN_EMIN, Context, Decimal, Inexact
from functools import cached_property, reduce
from hashlib import sha256
from typing import TYPE_CHECKING, Annotated, TypeVar, overload

from msgspec import Meta, Struct

from ._pydantic import PydanticStruct
from ._text import iso, one_line, printable
from .errors import AssetNotHeldError

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = [
    "AssetBalance",
    "InsurancePool",
    "InsuranceSnapshot",
    "RequestWeight",
    "exact_difference",
    "exact_sum",
    "normalise_symbol",
    "same_scale",
]

T = TypeVar("T")

_EXACT = Context(prec=MAX_PREC, Emax=MAX_EMAX, Emin=MIN_EMIN, traps=[Inexact])
_MAX_MAGNITUDE = 100  # 10^±100: larger than any real amount; it limits the digits of an exact sum
_MAX_SYMBOL_LENGTH = 64
_MAX_TIME = 253_402_300_799_999  # the last millisecond that a datetime can hold
_ID_DIGITS = 12
_SHOWN_LENGTH = 100  # characters of a list in a repr


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


class InsurancePool(PydanticStruct, frozen=True, gc=False, eq=False, rename="camel"):
    """One insurance pool: the symbols that it covers, and what it holds.

    Attributes:
        symbols: every symbol that the pool covers, delivery contracts included.
        assets: its balances, one for each asset.
        observed_at: when the exchange answered, by its own clock, in whole seconds; None only for a
            pool that no client fetched. No part of `==` and `hash`.

    `"BTCUSDT" in pool` is true if the pool covers the symbol, in upper or lower case.
    """

    symbols: Annotated[tuple[str, ...], Meta(min_length=1)]
    assets: Annotated[tuple[AssetBalance, ...], Meta(min_length=1)]
    observed_at: datetime | None = None

    def __post_init__(self) -> None:
        """Refuse invalid balances: two of one asset, NaN, infinity, or 1E+999999."""
        for held in self.assets:
            amount = held.margin_balance
            if not (amount.is_finite() and -_MAX_MAGNITUDE <= amount.adjusted() <= _MAX_MAGNITUDE):
                text = str(amount)[:40]
                raise ValueError(f"marginBalance {text} of {held.asset} is not an amount")
        if len({held.asset for held in self.assets}) < len(self.assets):
            raise ValueError("the pool lists an asset twice")

    def __eq__(self, other: object) -> bool:
        if type(other) is not InsurancePool:
            return NotImplemented
        return self.symbols == other.symbols and self.assets == other.assets

    def __hash__(self) -> int:
        return hash((self.symbols, self.assets))

    def __repr__(self) -> str:
        held = _first(f"{each.margin_balance:f} {each.asset}" for each in self.assets)
        seen = "" if self.observed_at is None else f" at {self.observed_at:%Y-%m-%d %H:%M:%S %Z}"
        return f"<InsurancePool of {_first(self.symbols)}: {held}{seen}>"

    def __contains__(self, symbol: object) -> bool:
        return isinstance(symbol, str) and (
            symbol in self.symbols or symbol.strip().upper() in self.symbols
        )

    def balance(self, asset: str) -> Decimal:
        """Return the balance of an asset, in upper or lower case, in units of that asset.

        Raises:
            AssetNotHeldError: the pool does not hold the asset. That is not a balance of zero.
        """
        held = self.get(asset)
        if held is None:
            raise AssetNotHeldError(
                f"the pool of {_first(self.symbols)} holds no {one_line(str(asset), 40)}, but "
                + _first(each.asset for each in self.assets)
            )
        return held

    @overload
    def get(self, asset: str) -> Decimal | None: ...

    @overload
    def get(self, asset: str, default: T) -> Decimal | T: ...

    def get(self, asset: object, default: object = None) -> object:
        """Return the balance of an asset, in units of that asset; `default` if it is not held."""
        if not isinstance(asset, str):
            return default
        for held in self.assets:
            if held.asset == asset:
                return held.margin_balance
        name = asset.strip().upper()
        for held in self.assets:
            if held.asset.upper() == name:
                return held.margin_balance
        return default

    def to_dict(self) -> dict[str, object]:
        """Return the pool as JSON's own types, under the exchange's names.

        `symbols`, `assets` (`asset`, `marginBalance` as a string of plain digits, `updateTime`) and
        `observedAt` (ISO 8601, UTC; left out where it is None). `msgspec.convert` makes an equal
        pool of it.
        """
        content: dict[str, object] = {
            "symbols": list(self.symbols),
            "assets": [
                {
                    "asset": held.asset,
                    "marginBalance": f"{held.margin_balance:f}",
                    "updateTime": held.update_time,
                }
                for held in self.assets
            ],
        }
        if self.observed_at is not None:
            content["observedAt"] = iso(self.observed_at)
        return content

    _as_dict = to_dict


class InsuranceSnapshot(PydanticStruct, frozen=True, dict=True, rename="camel"):
    """Every pool of the exchange, or part of them, as observed at one time.

    Attributes:
        pools: the pools, in the exchange's order. `len()` counts them, iteration yields them.
        observed_at: when the exchange answered, by its own clock (its `Date` has whole seconds).
        complete: whether these are all pools of the exchange. Where it is false, nothing follows
            from the absence of a pool or a symbol.

    `snapshot["BTCUSDT"]` is the pool of that symbol. It raises `KeyError` if no pool names the
    symbol. If two pools name it, it is the first one.
    """

    pools: tuple[InsurancePool, ...]
    observed_at: datetime
    complete: bool = True

    @cached_property
    def _by_symbol(self) -> dict[str, InsurancePool]:
        index: dict[str, InsurancePool] = {}
        for pool in self.pools:
            for symbol in pool.symbols:
                index.setdefault(symbol, pool)
        return index

    def __repr__(self) -> str:
        totals = self.totals().items()
        held = _first(f"{amount:f} {asset}" for asset, amount in totals)
        pools = f"{len(self)} pools" if self.complete else f"{len(self)} pools, part of all"
        return f"<InsuranceSnapshot of {pools}: {held} at {self.observed_at}>"

    def __getitem__(self, symbol: str) -> InsurancePool:
        found = self.get(symbol)
        if found is None:
            raise KeyError(symbol)
        return found

    @overload
    def get(self, symbol: str) -> InsurancePool | None: ...

    @overload
    def get(self, symbol: str, default: T) -> InsurancePool | T: ...

    def get(self, symbol: object, default: object = None) -> object:
        """Return the pool of a symbol, in upper or lower case; `default` if no pool names it."""
        if not isinstance(symbol, str):
            return default
        index = self._by_symbol
        return index.get(symbol) or index.get(symbol.strip().upper(), default)

    def __contains__(self, symbol: object) -> bool:
        return self.get(symbol) is not None  # type: ignore[call-overload]

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

    def to_dict(self) -> dict[str, object]:
        """Return the snapshot as JSON's own types.

        `pools` as by `to_dict()`, `observedAt`, and `complete` only where it is false.
        `msgspec.convert` makes an equal snapshot of it.
        """
        content: dict[str, object] = {
            "pools": [pool.to_dict() for pool in self.pools],
            "observedAt": iso(self.observed_at),
        }
        if not self.complete:
            content["complete"] = False
        return content

    _as_dict = to_dict

    def rows(self) -> list[dict[str, object]]:
        """Return one flat dict for each asset of each pool, for a data frame.

        Keys: `observed_at`; `pool`, the first 12 hex digits of the SHA-256 of its sorted symbols,
        joined by newlines; `symbols` (tuple); `asset`; `margin_balance` (Decimal); `updated_at`.
        All balances of one call have the same number of decimals, and no digit is lost: polars
        takes a column's scale from its first rows and would cut the others.
        """
        amounts = same_scale(held.margin_balance for pool in self.pools for held in pool.assets)
        scaled = iter(amounts)
        return [
            {
                "observed_at": self.observed_at,
                "pool": name,
                "symbols": pool.symbols,
                "asset": held.asset,
                "margin_balance": next(scaled),
                "updated_at": held.updated_at,
            }
            for pool in self.pools
            for name in (_pool_id(pool.symbols),)
            for held in pool.assets
        ]


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


def exact_difference(minuend: Decimal, subtrahend: Decimal) -> Decimal:
    """Subtract without rounding, whatever the current decimal context says."""
    return _EXACT.subtract(minuend, subtrahend)


def exact_sum(amounts: Iterable[Decimal]) -> Decimal:
    """Add up without rounding, whatever the current decimal context says."""
    return reduce(_EXACT.add, amounts, Decimal(0))


def same_scale(amounts: Iterable[Decimal]) -> list[Decimal]:
    """Return equal amounts that have the same number of decimals."""
    given = list(amounts)
    unit = Decimal(1).scaleb(-max(map(_decimals, given), default=0))
    return [amount.quantize(unit, context=_EXACT) for amount in given]


def _decimals(amount: Decimal) -> int:
    return max(0, -int(amount.as_tuple().exponent))


def _pool_id(symbols: Iterable[str]) -> str:
    """Name a pool by its symbols, in any order."""
    return sha256("\n".join(sorted(symbols)).encode()).hexdigest()[:_ID_DIGITS]


def _first(texts: Iterable[str]) -> str:
    """Join the first texts, as far as they fit, and say how many more there are."""
    all_texts = [printable(text) for text in texts]
    shown, length = 0, 0
    for text in all_texts:
        length += len(text) + 2
        if shown and length > _SHOWN_LENGTH:
            break
        shown += 1
    joined = ", ".join(text if len(text) <= _SHOWN_LENGTH else "…" for text in all_texts[:shown])
    more = len(all_texts) - shown
    return f"{joined} and {more} more" if more else joined
