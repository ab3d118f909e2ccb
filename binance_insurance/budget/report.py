"""What an answer says besides its body: used weight, the exchange's time, and when to come back.

All readings are careful ones: what is missing, not positive or unreadable is None, never 0.
Sources: the exchange's "General Info" (headers, Retry-After) and the text of its ban notices.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

import msgspec
from msgspec import Struct
from msgspec.structs import replace
from multidict import CIMultiDict

if TYPE_CHECKING:
    from collections.abc import Mapping

_LAST_DATE = 7_258_118_400.0  # 2200; what is later is no date of an answer
_LONGEST_DATE = 64  # characters
_ORDER_LIMIT = re.compile(rb'"code"\s*:\s*-1015\b')
_BANNED_UNTIL = re.compile(rb"banned until (\d{13})\b")
_OK, _BANNED, _TOO_MANY = 200, 418, 429
_ORDERS = -1015  # the code of an account's order limit
SECONDS = {"SECOND": 1, "MINUTE": 60, "HOUR": 3_600, "DAY": 86_400}
_UNITS = ((86_400, "D"), (3_600, "H"), (60, "M"), (1, "S"))


T = TypeVar("T")


class Report(Struct, frozen=True, gc=False):
    """What one answer reports about the IP's weight.

    Attributes:
        status: the HTTP status.
        used_weight: weight that the whole IP has used in the answer's window, or None.
        date: the exchange's time in whole seconds since 1970 UTC, or None.
        retry_after: seconds to stay away, or None.
        banned_until: the end of a ban that the body names, in seconds since 1970 UTC, or None.
        wall: the local clock at receipt, for answers without a date; 0 if it was not looked at.
        counts: whether its request is one whose answers have a used weight, where the exchange
            reports any; else an answer without it shows nothing.
        order_limit: whether a 429 is about an account's orders (code -1015), not about the IP.
    """

    status: int
    used_weight: int | None = None
    date: float | None = None
    retry_after: float | None = None
    banned_until: float | None = None
    wall: float = 0.0
    counts: bool = True
    order_limit: bool = False

    @property
    def freezes(self) -> bool:
        """Whether the IP's weight limit was passed."""
        return self.status == _TOO_MANY and not self.order_limit

    @classmethod
    def from_response(
        cls,
        status: int,
        headers: Mapping[str, str],
        body: bytes | str | None = b"",
        *,
        interval: float = 60,
    ) -> Report:
        """Read what the answer says that any HTTP library received.

        Args:
            status: the HTTP status.
            headers: in any case; the last of several that differ in case only counts.
            body: it matters unless the status is 200.
            interval: seconds of the budget's window, which names the used-weight header.

        Raises:
            TypeError: status is no int, or body no bytes, text or None.
        """
        if not isinstance(status, int):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"status must be an int, not {status!r}")
        if isinstance(body, str):
            body = body.encode()
        if not isinstance(body, (bytes, bytearray, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"body must be bytes, not {type(body).__name__}")
        found = CIMultiDict(headers)
        header = used_weight_header(int(interval))
        return read_report(status, found, bytes(body or b""), weight_header=header, wall=0.0)

    @classmethod
    def from_message(cls, message: Mapping[str, object], *, interval: float = 60) -> Report:
        """Read what a decoded answer of the WebSocket API says.

        Args:
            message: `status`, the `REQUEST_WEIGHT` of `rateLimits`, `error`, and `serverTime` in
                `error.data` or `result`. What is missing or of another shape reports nothing.
            interval: seconds of the budget's window.
        """
        return read_message(message, int(interval))


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
        order_limit=status == _TOO_MANY and _ORDER_LIMIT.search(body) is not None,
        retry_after=_read_retry_after(retry_after, comes_back, report),
        banned_until=_read_ban(body, comes_back) if status == _BANNED else None,
    )


class _Limit(Struct, rename="camel"):
    rate_limit_type: str
    interval: str
    interval_num: int
    count: int


class _Times(Struct, rename="camel"):
    server_time: int | None = None
    retry_after: int | None = None


class _Failure(Struct):
    code: int = 0
    data: Any = None


def read_message(message: Mapping[str, object], interval: int) -> Report:
    """Read all that a decoded answer of the WebSocket API says about weight, time and refusal."""
    status = _convert(message.get("status"), int) or _OK
    used = [
        limit.count
        for each in _convert(message.get("rateLimits"), list[Any]) or []
        if (limit := _convert(each, _Limit)) is not None
        and limit.rate_limit_type == "REQUEST_WEIGHT"
        and limit.interval_num * SECONDS.get(limit.interval, 0) == interval
    ]
    failure = _convert(message.get("error"), _Failure) or _Failure()
    times = _convert(failure.data, _Times) or _Times()
    now = times.server_time
    if now is None:
        now = (_convert(message.get("result"), _Times) or _Times()).server_time
    refused, end = status in {_BANNED, _TOO_MANY}, times.retry_after
    left = (end - now) / 1000 if refused and end is not None and now is not None else 0.0
    return Report(
        status,
        max((each for each in used if each > 0), default=None),
        None if now is None or not 0 <= now < _LAST_DATE * 1000 else float(now // 1000),
        retry_after=left if left > 0 else None,
        banned_until=end / 1000 if status == _BANNED and end is not None else None,
        order_limit=status == _TOO_MANY and failure.code == _ORDERS,
    )


def _convert(value: object, kind: type[T]) -> T | None:
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError:
        return None


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
