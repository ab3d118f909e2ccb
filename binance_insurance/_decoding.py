"""Decodes an answer (status and body) to pools, or to the error that describes it."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Annotated, Never

import msgspec
from msgspec.structs import force_setattr

from .budget.report import SECONDS, utc
from .errors import (
    BadRequestError,
    DecodeError,
    ForbiddenError,
    InvalidSymbolError,
    IPBannedError,
    RateLimitError,
    ServerError,
    StatusError,
)
from .models import InsurancePool

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from datetime import datetime

    from .budget import BudgetState
    from .budget.report import Report

_EXCERPT = 200
_INVALID_SYMBOL = -1121
_TOO_MANY_REQUESTS = 429
_BANNED = 418
_CLOCK_STEP = 3.0  # seconds; an end is rounded up, from a clock of whole seconds
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)

# One decoder for both shapes: an object for one symbol, a list for the snapshot request.
_decode: Callable[[bytes], InsurancePool | list[InsurancePool]] = msgspec.json.Decoder(
    InsurancePool | Annotated[list[InsurancePool], msgspec.Meta(min_length=1)]
).decode
# The list in parts, where it is not good as a whole.
_split = msgspec.json.Decoder(list[msgspec.Raw]).decode


class _Refusal(msgspec.Struct):
    code: int
    msg: str = ""


class _RateLimit(msgspec.Struct, rename="camel"):
    rate_limit_type: str
    interval: str
    interval_num: int
    limit: Annotated[int, msgspec.Meta(ge=1)]


class _ExchangeInfo(msgspec.Struct, rename="camel"):
    rate_limits: list[_RateLimit]


_decode_refusal = msgspec.json.Decoder(_Refusal).decode
_decode_exchange_info = msgspec.json.Decoder(_ExchangeInfo).decode


@lru_cache(maxsize=8)  # all answers of one second carry the same date
def _whole_second(seconds: float) -> datetime:
    return utc(int(seconds))


def observed_at(report: Report) -> datetime:
    """Return when the exchange answered, by its own clock, in whole seconds.

    Without a `Date` the local clock stands in.
    """
    return _whole_second(report.wall if report.date is None else report.date)


def decode_pool(body: bytes, symbol: str, report: Report) -> InsurancePool:
    """Decode the answer for one symbol: the pool that names it.

    Raises:
        DecodeError: the body is not a pool, or the pool does not name the symbol.
    """
    try:
        answer = _decode(body)
    except _UNREADABLE as error:
        _refuse(body, symbol, error)
    for pool in answer if isinstance(answer, list) else (answer,):
        if symbol in pool.symbols:
            date = report.date
            seen = _whole_second(report.wall if date is None else date)
            force_setattr(pool, "observed_at", seen)
            return pool
    return _fail(body, symbol, f"no pool in the answer names {symbol}")


def decode_pools(body: bytes, seen: datetime) -> tuple[InsurancePool, ...]:
    """Decode the answer to the snapshot request, observed at a time: every pool.

    Raises:
        DecodeError: the body is not a list of pools; it has those that are good.
    """
    try:
        answer = _decode(body)
    except _UNREADABLE as error:
        _refuse(body, None, error, _observed(_good_pools(body), seen))
    if isinstance(answer, InsurancePool):
        _fail(body, None, "Expected a list of pools, got one pool - at `$`")
    return _observed(answer, seen)


def _observed(pools: Iterable[InsurancePool], seen: datetime) -> tuple[InsurancePool, ...]:
    known = tuple(pools)
    for pool in known:
        force_setattr(pool, "observed_at", seen)
    return known


def _good_pools(body: bytes) -> list[InsurancePool]:
    """Decode pool by pool what is not good as a whole."""
    pools: list[InsurancePool] = []
    try:
        parts = _split(body)
    except _UNREADABLE:
        return pools
    for part in parts:
        try:
            pool = _decode(part)
        except _UNREADABLE:
            continue
        if isinstance(pool, InsurancePool):
            pools.append(pool)
    return pools


def decode_weight_limit(body: bytes, interval: int) -> int:
    """Decode `exchangeInfo`: the request weight granted in windows of `interval` seconds.

    Raises:
        DecodeError: the body has another shape, or no such limit.
    """
    try:
        info = _decode_exchange_info(body)
    except _UNREADABLE as error:
        _fail(body, None, _reason(error), error)
    for rate in info.rate_limits:
        length = rate.interval_num * SECONDS.get(rate.interval, 0)
        if rate.rate_limit_type == "REQUEST_WEIGHT" and length == interval:
            return rate.limit
    return _fail(body, None, f"no REQUEST_WEIGHT limit for {interval} s - at `$.rateLimits`")


def status_error(
    report: Report, body: bytes, symbol: str | None, budget: BudgetState
) -> StatusError:
    """Build the error for an answer whose status is not 200, which the budget knows already."""
    status, refusal = report.status, read_refusal(body)
    code = None if refusal is None else refusal[0]
    message = excerpt(body) if refusal is None else refusal[1]
    kind: type[StatusError] = _KINDS.get(status, ServerError if status >= 500 else StatusError)
    if kind is BadRequestError and code == _INVALID_SYMBOL:
        kind = InvalidSymbolError
    said = message if code is None else f"{message} (code {code})"
    meaning = "redirects are not followed; " if 300 <= status < 400 else _MEANINGS.get(status, "")
    text = f"{meaning}HTTP {status}{': ' * bool(said)}{said}"
    retry_after, banned_until = report.retry_after, budget.banned_until
    if status == _TOO_MANY_REQUESTS:
        retry_after = _until(budget.frozen_until, report)
        if retry_after is not None:
            text += f"; try again in {retry_after:.0f} s"
    if status == _BANNED and banned_until is not None:
        return IPBannedError(
            f"the exchange bans this IP until {banned_until:%Y-%m-%d %H:%M:%S} UTC; {text}",
            symbol=symbol,
            code=code,
            message=message,
            retry_after=_until(banned_until, report),
            banned_until=banned_until,
        )
    return kind(
        text,
        symbol=symbol,
        status=status,
        code=code,
        message=message,
        retry_after=retry_after,
    )


def _until(end: datetime | None, report: Report) -> float | None:
    """Return the seconds until a freeze or ban ends; `Retry-After` where that is no earlier."""
    header = report.retry_after
    if end is None:
        return header
    left = end.timestamp() - (report.wall if report.date is None else report.date)
    return header if header is not None and left < header + _CLOCK_STEP else max(left, 0.0)


def read_refusal(body: bytes) -> tuple[int, str] | None:
    """Read the exchange's `{"code", "msg"}`; None if the body has another shape."""
    try:
        refusal = _decode_refusal(body)
    except _UNREADABLE:
        return None
    return refusal.code, refusal.msg


def excerpt(body: bytes) -> str:
    """Return the start of a body as one readable line."""
    text = " ".join(body[: 4 * _EXCERPT].decode("utf-8", "replace").split())
    return text if len(text) <= _EXCERPT else f"{text[: _EXCERPT - 1]}…"


_KINDS: Mapping[int, type[StatusError]] = {
    400: BadRequestError,
    403: ForbiddenError,
    408: ServerError,
    429: RateLimitError,
    451: ForbiddenError,
}
_MEANINGS: Mapping[int, str] = {
    404: "nothing is served at this URL, check the base URL; ",
    403: "the exchange's firewall refused this IP; find the reason before you send more; ",
    429: "the weight limit of this IP was passed; ",
    451: "the exchange does not serve this location; ",
}


def _refuse(
    body: bytes, symbol: str | None, error: Exception, pools: tuple[InsurancePool, ...] = ()
) -> Never:
    refusal = read_refusal(body)
    if refusal is not None:
        _fail(body, symbol, f"the exchange answered {refusal[1]!r} (code {refusal[0]})", error)
    _fail(body, symbol, _reason(error), error, pools)


def _reason(error: Exception) -> str:
    reason = str(error)
    if isinstance(error, msgspec.ValidationError) and " - at `" not in reason:
        reason += " - at `$`"  # msgspec gives no path for the root
    return reason


def _fail(
    body: bytes,
    symbol: str | None,
    reason: str,
    cause: Exception | None = None,
    pools: tuple[InsurancePool, ...] = (),
) -> Never:
    start, end = body.strip()[:1], body.strip()[-1:]
    text = excerpt(body)
    raise DecodeError(
        f"HTTP 200, but not the documented answer: {reason}; it begins {text[:60]!r}",
        symbol=symbol,
        reason=reason,
        body=text,
        # Judged by its brackets: a parser may report another error before it reaches the cut.
        truncated=not start or (start in b"{[" and end not in b"}]"),
        pools=pools,
    ) from cause
