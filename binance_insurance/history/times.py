"""Datetimes of users and the integers of a store. Pure.

A store keeps observations in microseconds, and update times and first reports in milliseconds, as
the exchange gives them.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from heapq import merge
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_SECOND = 1_000_000  # microseconds
_PART = 20_000  # times that are sorted at once
FOREVER = 2**62


def microseconds(time: datetime, name: str) -> int:
    """Return an aware datetime as microseconds since 1970 UTC.

    Raises:
        ValueError: it is naive, or no datetime; the message has its name.
    """
    try:
        return int((time - _EPOCH) // _MICROSECOND)
    except (TypeError, ValueError):  # the second of NaT, which is a datetime to pandas
        raise ValueError(
            f"{name} must be an aware datetime, such as datetime.now(UTC), not {time!r}"
        ) from None


def aware(time: int) -> datetime:
    """Return microseconds since 1970 UTC as a datetime in UTC."""
    return _EPOCH + timedelta(microseconds=time)


def milliseconds(time: int) -> int:
    """Return the millisecond in which a time in microseconds lies."""
    return time // 1000


def first_millisecond(time: int) -> int:
    """Return the first whole millisecond at or after a time in microseconds; of forever, that."""
    return time if abs(time) == FOREVER else -(-time // 1000)


def next_second(time: int) -> int:
    """Return when the second of a time in microseconds is over, in milliseconds."""
    return (time // _SECOND + 1) * 1000


def in_order(times: Iterable[int]) -> Iterator[int]:
    """Sort times, some at a time: one sort of very many stops all threads for long."""
    given = list(times)
    parts = (sorted(given[each : each + _PART]) for each in range(0, len(given), _PART))
    return merge(*parts)


def bounds(start: datetime | None, end: datetime | None) -> tuple[int, int]:
    """Return `start <= time < end` in microseconds.

    Raises:
        ValueError: one of them is naive, or the start is after the end.
    """
    low = -FOREVER if start is None else microseconds(start, "start")
    high = FOREVER if end is None else microseconds(end, "end")
    if low > high:
        raise ValueError(f"start {start} is after end {end}")
    return low, high
