"""What a history answers: series, falls and facts about itself, as immutable, exact values."""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import cast

from .._pydantic import PydanticStruct
from .._text import iso
from ..models import same_scale

__all__ = ["Delays", "Drawdown", "Gap", "HistoryInfo", "Point", "Regrouping", "Series"]


class _Value(PydanticStruct, frozen=True):
    def to_dict(self) -> dict[str, object]:
        """Return it as JSON's own types, under the names of its fields.

        Balances are strings of plain digits, datetimes ISO 8601 in UTC. `msgspec.convert` makes an
        equal value of it.
        """
        return {name: _plain(getattr(self, name)) for name in self.__struct_fields__}

    _as_dict = to_dict


class Point(_Value, frozen=True, gc=False):
    """One reported balance.

    Attributes:
        update_time: when the exchange updated it, in milliseconds since 1970 UTC; of the whole
            fund, when it was observed.
        observed_time: when it was first reported, in milliseconds since 1970 UTC.
        balance: the exact amount, in units of the asset.
        symbols: the sorted symbols of the pool that reported it; empty for the whole fund.
    """

    update_time: int
    observed_time: int
    balance: Decimal
    symbols: tuple[str, ...]


class Gap(_Value, frozen=True, gc=False):
    """A time in which nobody looked.

    Attributes:
        start: the last observation before it, or the start that was asked for.
        end: the first observation after it, or the end that was asked for.
    """

    start: datetime
    end: datetime


class Regrouping(_Value, frozen=True, gc=False):
    """Symbols came to the pool of a symbol from another pool, or went to one.

    Attributes:
        since: the last observation before it.
        observed_at: the first observation after it; it happened between the two.
        before: the sorted symbols of the pool before.
        after: the sorted symbols of the pool after.
    """

    since: datetime
    observed_at: datetime
    before: tuple[str, ...]
    after: tuple[str, ...]


class Series(_Value, frozen=True):
    """The balances that stood behind a symbol, or those of the whole fund, in one asset.

    Attributes:
        points: sorted by update time, then by when they were first reported, then by balance.
        gaps: the times in which nobody looked, between the first and the last observation.
        regroupings: in order of time; none for the whole fund.
    """

    points: tuple[Point, ...]
    gaps: tuple[Gap, ...]
    regroupings: tuple[Regrouping, ...]

    def rows(self) -> list[dict[str, object]]:
        """Return one flat dict for each point, for a data frame, under the names of its fields.

        All balances have the same number of decimals, and no digit is lost.
        """
        scaled = same_scale([point.balance for point in self.points])
        return [
            {
                "update_time": point.update_time,
                "observed_time": point.observed_time,
                "balance": balance,
                "symbols": point.symbols,
            }
            for point, balance in zip(self.points, scaled, strict=True)
        ]


class Drawdown(_Value, frozen=True, gc=False):
    """A fall from a peak, reported at its deepest.

    Attributes:
        peak: the balance from which it fell, in units of the asset.
        trough: the balance at its deepest.
        depth: `peak - trough`, exact. If a gap lies between, it may have been deeper.
        fraction: `depth / peak` with 28 digits; None where the peak is not positive.
        peak_time: the update time of the last point that stood so high before it.
        trough_time: the update time of the trough.
        recovered_time: the update time of the first later point as high as the peak, or None.
    """

    peak: Decimal
    trough: Decimal
    depth: Decimal
    fraction: Decimal | None
    peak_time: int
    trough_time: int
    recovered_time: int | None


class HistoryInfo(_Value, frozen=True):
    """What a history holds.

    Attributes:
        schema: the version of its schema.
        size: bytes that it takes.
        values: how many values it has.
        first: when it was first observed; None in an empty history.
        last: when it was last observed.
        gaps: the times in between in which nobody looked.
        delays: how late the exchange reported its newest values; None where that is not known.
    """

    schema: int
    size: int
    values: int
    first: datetime | None
    last: datetime | None
    gaps: tuple[Gap, ...]
    delays: Delays | None


class Delays(_Value, frozen=True, gc=False):
    """How late the exchange reports an update: `observed_time - update_time`, in seconds.

    Attributes:
        least: of the newest values, as far as they replaced others.
        median: their median.
        greatest: the longest.
    """

    least: float
    median: float
    greatest: float


def _plain(value: object) -> object:
    if isinstance(value, _Value):
        return value.to_dict()
    if isinstance(value, Decimal):
        return f"{value:f}"
    if isinstance(value, datetime):
        return iso(value)
    if isinstance(value, tuple):
        return [_plain(each) for each in cast("tuple[object, ...]", value)]
    return value
