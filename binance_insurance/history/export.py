"""All values of a history into a file: CSV, JSON lines or Parquet."""

from __future__ import annotations

import asyncio
import csv
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from errno import EISDIR
from io import TextIOWrapper
from os import strerror
from pathlib import Path
from secrets import token_hex
from typing import TYPE_CHECKING, Protocol, TypeAlias, TypeVar

import msgspec

from .copying import START, Place, Value, read_held, read_sorted
from .facts import symbols_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from os import PathLike
    from typing import BinaryIO

    from .history import History

__all__ = ["export"]

T = TypeVar("T")


class _Rows(Protocol):
    """How values are written."""

    def write(self, values: Sequence[Value]) -> None:
        """Write values."""
        ...

    def finish(self) -> None:
        """Write what is left."""
        ...

    def abandon(self) -> None:
        """Write nothing more; the file may be closed already."""
        ...


_Format: TypeAlias = "Callable[[BinaryIO], _Rows]"


async def export(history: History, path: str | PathLike[str]) -> int:
    """Write all values of a history into a file, and return their number.

    There is a row for each value, with the columns of the view `balances`: `update_time`,
    `observed_time`, `symbols`, `asset`, `balance`. Rows are sorted by symbols, asset, update time
    and balance, so equal histories give equal rows. A file that is there is replaced once the new
    one is complete. What is appended meanwhile may be missing.

    Args:
        history: what to write.
        path: its ending chooses the format. `.csv` and `.jsonl`: times are milliseconds since 1970
            UTC, balances text of plain digits. `symbols` is in CSV the text that the view has (with
            blanks in between), in JSON lines and Parquet a list. `.parquet` (extra `parquet`):
            balances are decimal128(38,18), times timestamps in UTC, in milliseconds.

    Raises:
        ValueError: another ending; or a balance has more than 20 digits before the point or 18
            after it, which Parquet does not take. No file is left.
        ModuleNotFoundError: the extra is not installed.
        OSError: the file cannot be written.
        StoreError: the store failed.
    """
    target = Path(path)
    file = _File(target, _format(target))
    # One thread carries all out in order: also what is under way when this is cancelled.
    thread = ThreadPoolExecutor(1, thread_name_prefix="binance-insurance-export")

    async def run(work: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(thread, work, *arguments)

    try:
        await run(file.open)
        held = await history.store.read(read_held())
        place: Place | None = START
        count = 0
        while place is not None:
            values, place = await history.store.read(read_sorted(held, place))
            await run(file.write, values)
            count += len(values)
        await run(file.finish)
    finally:
        await run(file.discard)
        thread.shutdown(wait=False)
    return count


class _File:
    """A file beside the target, which takes its place when it is complete."""

    def __init__(self, target: Path, kind: _Format) -> None:
        self._target = target
        self._part = target.with_name(f".{target.name}.{token_hex(4)}.part")
        self._kind = kind
        self._file: BinaryIO | None = None
        self._rows: _Rows | None = None

    def open(self) -> None:
        if self._target.is_dir():
            raise IsADirectoryError(EISDIR, strerror(EISDIR), str(self._target))
        self._file = self._part.open("xb")
        self._rows = self._kind(self._file)

    def write(self, values: Sequence[Value]) -> None:
        if self._rows is not None:
            self._rows.write(values)

    def finish(self) -> None:
        if self._rows is not None and self._file is not None:
            self._rows.finish()
            self._file.close()
            self._part.replace(self._target)

    def discard(self) -> None:
        """Remove what is not complete."""
        if self._rows is not None:
            self._rows.abandon()
        if self._file is not None:
            with suppress(OSError):  # what is left in its buffer
                self._file.close()
            self._part.unlink(missing_ok=True)


class _Csv:
    def __init__(self, file: BinaryIO) -> None:
        self._text = TextIOWrapper(file, "utf-8", newline="", write_through=True)
        self._writer = csv.writer(self._text, lineterminator="\n")
        self._writer.writerow(Value._fields)

    def write(self, values: Sequence[Value]) -> None:
        self._writer.writerows(values)

    def finish(self) -> None:
        self._text.flush()

    def abandon(self) -> None:
        pass


class _JsonLines:
    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def write(self, values: Sequence[Value]) -> None:
        encode = msgspec.json.Encoder().encode_lines
        rows = [{**value._asdict(), "symbols": symbols_of(value.symbols)} for value in values]
        self._file.write(encode(rows))

    def finish(self) -> None:
        pass

    def abandon(self) -> None:
        pass


def _parquet(file: BinaryIO) -> _Rows:
    try:
        from .parquet import ParquetRows
    except ModuleNotFoundError as error:
        if error.name != "pyarrow":
            raise
        raise ModuleNotFoundError(
            "pyarrow is missing, which the extra 'parquet' brings: "
            "pip install 'binance-insurance[parquet]'",
            name="pyarrow",
        ) from None
    return ParquetRows(file)


_FORMATS: dict[str, _Format] = {".csv": _Csv, ".jsonl": _JsonLines, ".parquet": _parquet}


def _format(path: Path) -> _Format:
    """Return the format of a file by its ending.

    Raises:
        ValueError: there is none.
    """
    try:
        return _FORMATS[path.suffix.lower()]
    except KeyError:
        raise ValueError(
            f"a history is exported to a file that ends in {', '.join(_FORMATS)}, not {str(path)!r}"
        ) from None
