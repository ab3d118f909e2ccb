"""Values as Parquet."""

# pyarrow has no types.
# pyright: reportMissingTypeStubs=false, reportUnknownArgumentType=false
# pyright: reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from decimal import Decimal
from typing import TYPE_CHECKING

import pyarrow as pa  # type: ignore[import-untyped]
from pyarrow import parquet as pq

from .facts import symbols_of

if TYPE_CHECKING:
    from collections.abc import Sequence
    from typing import BinaryIO

    from .copying import Value

_GROUP = 100_000  # values that readers take at a time
_DIGITS, _DECIMALS = 38, 18

_TIME = pa.timestamp("ms", "UTC")
_SCHEMA = pa.schema(
    [
        pa.field("update_time", _TIME, nullable=False),
        pa.field("observed_time", _TIME, nullable=False),
        pa.field("symbols", pa.list_(pa.string()), nullable=False),
        pa.field("asset", pa.string(), nullable=False),
        pa.field("balance", pa.decimal128(_DIGITS, _DECIMALS), nullable=False),
    ]
)


class ParquetRows:
    """Values into a file of Parquet."""

    def __init__(self, file: BinaryIO) -> None:
        self._writer = pq.ParquetWriter(file, _SCHEMA, compression="zstd")
        self._batches: list[pa.RecordBatch] = []
        self._waiting = 0

    def write(self, values: Sequence[Value]) -> None:
        """Write values.

        Raises:
            ValueError: a balance has too many digits.
        """
        for value in values:
            _check(value)
        columns = (
            [value.update_time for value in values],
            [value.observed_time for value in values],
            [symbols_of(value.symbols) for value in values],
            [value.asset for value in values],
            [Decimal(value.balance) for value in values],
        )
        arrays = [
            pa.array(column, field.type) for column, field in zip(columns, _SCHEMA, strict=True)
        ]
        self._batches.append(pa.RecordBatch.from_arrays(arrays, schema=_SCHEMA))
        self._waiting += len(values)
        if self._waiting >= _GROUP:
            self._flush()

    def finish(self) -> None:
        """Write what is left, and what a reader needs to know."""
        self._flush()
        self._writer.close()

    def abandon(self) -> None:
        """Write nothing more."""
        self._writer.is_open = False  # else it writes what a reader needs when it is collected

    def _flush(self) -> None:
        if self._waiting:
            table = pa.Table.from_batches(self._batches, _SCHEMA)
            self._writer.write_table(table, row_group_size=2 * _GROUP)
        self._batches, self._waiting = [], 0


def _check(value: Value) -> None:
    whole, _, decimals = value.balance.lstrip("-").partition(".")
    if len(whole) <= _DIGITS - _DECIMALS and len(decimals) <= _DECIMALS:
        return
    first, *others = symbols_of(value.symbols)
    more = f" and {len(others)} more" if others else ""
    raise ValueError(
        f"Parquet's decimal128({_DIGITS},{_DECIMALS}) does not hold {value.balance} {value.asset}, "
        f"the balance of {first}{more} at the update time {value.update_time}; .csv and .jsonl do"
    )
