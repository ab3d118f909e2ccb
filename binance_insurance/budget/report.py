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

LONGEST_BAN = 3 * 86_400.0  # the exchange documents bans of 2 minutes up to 3 days
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
    retry_after = headers.get("Retry-After")
    ban = _BANNED_UNTIL.search(body) if status == _BANNED else None
    return replace(
        report,
        retry_after=None if retry_after is None else _read_retry_after(retry_after, date),
        banned_until=None if ban is None else int(ban[1]) / 1000,
    )


def utc(seconds: float) -> datetime:
    """Turn seconds since 1970 into an aware datetime in UTC."""
    return datetime.fromtimestamp(seconds, UTC)


def _positive_int(text: str) -> int | None:
    # -1 and 0 have been seen where nothing was counted, so neither says anything.
    return (int(text) or None) if len(text) < 16 and text.isascii() and text.isdigit() else None


@lru_cache(maxsize=8)  # all answers of one second carry the same text
def _read_date(text: str) -> float | None:
    try:
        date = parsedate_to_datetime(text)
    except ValueError:
        return None
    return (date if date.tzinfo else date.replace(tzinfo=UTC)).timestamp()


def _read_retry_after(text: str, date: str | None) -> float | None:
    """Read seconds, or an HTTP date relative to the answer's own date (RFC 9110, 10.2.3)."""
    seconds = _positive_int(text)
    if seconds is None and date is not None:
        until, now = _read_date(text), _read_date(date)
        if until is not None and now is not None and until > now:
            seconds = int(until - now)
    return None if seconds is None else min(float(seconds), LONGEST_BAN)
