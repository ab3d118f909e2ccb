"""What an answer says besides its body: used weight, the exchange's time, and when to come back.

All readings are careful ones: what is missing, not positive or unreadable is None, never 0.
Sources: the exchange's "General Info" (headers, Retry-After) and the text of its ban notices.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

if TYPE_CHECKING:
    from collections.abc import Mapping

_LAST_DATE = 7_258_118_400.0  # 2200; what is later is no date of an answer
_LONGEST_DATE = 64  # characters
_BANNED_UNTIL = re.compile(rb"banned until (\d{13})\b")
_OK, _BANNED = 200, 418
_UNITS = ((86_400, "D"), (3_600, "H"), (60, "M"), (1, "S"))


class Report(Struct, frozen=True, gc=False):
    """What one answer reports about the IP's weight.

    Attributes:
        status: the HTTP status.
        used_weight: weight that the whole IP has used in the answer's window, or None.
        date: the exchange's time in whole seconds since 1970 UTC, or None.
        retry_after: seconds to stay away, or None.
        banned_until: the end of a ban that the body names, in seconds since 1970 UTC, or None.
        wall: the local clock at receipt, for answers without a date.
    """

    status: int
    used_weight: int | None = None
    date: float | None = None
    retry_after: float | None = None
    banned_until: float | None = None
    wall: float = 0.0


def used_weight_header(interval: int) -> str:
    """Name the used-weight header of windows of `interval` seconds, such as `…-1M` for 60."""
    size, letter = next((size, letter) for size, letter in _UNITS if interval % size == 0)
    return f"X-MBX-USED-WEIGHT-{interval // size}{letter}"


def read_report(
    status: int, headers: Mapping[str, str], body: bytes, *, weight_header: str, wall: float
) -> Report:
    """Read all that an answer says about weight, time and refusal."""
    date, used = headers.get("Date"), headers.get(weight_header)
    report = Report(
        status,
        None if used is None else _positive_int(used),
        None if date is None else _read_date(date),
        wall=wall,
    )
    if status == _OK:
        return report
    retry_after = headers.get("Retry-After", "")
    comes_back = _read_date(retry_after)
    return replace(
        report,
        retry_after=_read_retry_after(retry_after, comes_back, report),
        banned_until=_read_ban(body, comes_back) if status == _BANNED else None,
    )


def utc(seconds: float) -> datetime:
    """Turn seconds since 1970 into an aware datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def _positive_int(text: str) -> int | None:
    # -1 and 0 have been seen where nothing was counted, so neither says anything.
    return (int(text) or None) if len(text) < 16 and text.isascii() and text.isdigit() else None


@lru_cache(maxsize=8)  # all answers of one second carry the same text
def _read_date(text: str) -> float | None:
    if len(text) > _LONGEST_DATE:
        return None
    try:
        date = parsedate_to_datetime(text)
        seconds = (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return seconds if 0.0 <= seconds < _LAST_DATE else None


def _read_retry_after(text: str, comes_back: float | None, report: Report) -> float | None:
    """Read seconds, or an HTTP date relative to the answer's own date (RFC 9110, 10.2.3)."""
    seconds: float | None = _positive_int(text)
    if seconds is None and comes_back is not None:
        seconds = comes_back - (report.wall if report.date is None else report.date)
    return float(seconds) if seconds is not None and seconds > 0 else None


def _read_ban(body: bytes, comes_back: float | None) -> float | None:
    """Read the later of the ends that the text and a `Retry-After` with a date name."""
    text = _BANNED_UNTIL.search(body)
    if text is None:
        return comes_back
    return max(int(text[1]) / 1000, comes_back or 0.0)
