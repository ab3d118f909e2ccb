"""Every way in which a call can fail.

::

    InsuranceError
    ├── TransportError             no usable answer came over the wire
    │   ├── ConnectError           never connected, so certainly nothing was sent
    │   └── RequestTimeoutError    no complete answer in time
    ├── StatusError                the exchange refused
    │   ├── BadRequestError        400
    │   │   └── InvalidSymbolError 400 with code -1121
    │   ├── RateLimitError         429
    │   │   └── IPBannedError      418
    │   ├── ForbiddenError         403 and 451
    │   └── ServerError            408 and 5xx
    ├── DecodeError                200, but not a pool
    ├── BudgetTimeoutError         the wait for weight outlasts the timeout
    ├── BulkFetchError             some of many symbols failed
    └── StoreError                 a file or database of ours failed

Catch `InsuranceError` for all of them. Wrong arguments are `ValueError` or `TypeError`, raised
before anything is sent. All errors can be pickled.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .models import InsurancePool

__all__ = [
    "BadRequestError",
    "BudgetTimeoutError",
    "BulkFetchError",
    "ConnectError",
    "DecodeError",
    "ForbiddenError",
    "IPBannedError",
    "InsuranceError",
    "InvalidSymbolError",
    "RateLimitError",
    "RequestTimeoutError",
    "ServerError",
    "StatusError",
    "StoreError",
    "TransportError",
]


_UNKNOWN_END = datetime.max.replace(tzinfo=UTC)


class InsuranceError(Exception):
    """The root of all errors of this package.

    Attributes:
        symbol: the symbol that the failed request asked for; None where it asked for all pools.
            `str()` of the error begins with it.
    """

    def __init__(self, message: str, *, symbol: str | None = None) -> None:
        super().__init__(message)
        self.symbol = symbol

    def about(self, symbol: str) -> Self:
        """Return this error for a symbol: itself, or a copy."""
        if self.symbol == symbol:
            return self
        error = self.copy()
        error.symbol = symbol
        return error

    def copy(self) -> Self:
        """Return a copy with the same cause and a traceback of its own."""
        error = copy(self)
        error.__cause__ = self.__cause__
        return error

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.symbol is None else f"{self.symbol}: {text}"


class TransportError(InsuranceError):
    """No usable answer: the connection broke, or the answer was cut off or too large."""


class ConnectError(TransportError):
    """No connection came about (refused, DNS, TLS), so no weight was spent."""


class RequestTimeoutError(TransportError):
    """No complete answer came within the attempt's or the call's time."""


class StatusError(InsuranceError):
    """The exchange answered with a status other than 200.

    Attributes:
        status: the HTTP status.
        code: the exchange's own error code, such as -1121; None if the body carries none.
        message: the exchange's own words, or the start of a body that is not JSON.
        retry_after: seconds from the header `Retry-After`; None if absent or 0.
    """

    def __init__(
        self,
        text: str,
        *,
        symbol: str | None = None,
        status: int = 0,
        code: int | None = None,
        message: str = "",
        retry_after: float | None = None,
    ) -> None:
        super().__init__(text, symbol=symbol)
        self.status = status
        self.code = code
        self.message = message
        self.retry_after = retry_after


class BadRequestError(StatusError):
    """400: the request is wrong, and asking again would only cost its weight again."""


class InvalidSymbolError(BadRequestError):
    """400 with code -1121: the exchange does not know the symbol."""


class RateLimitError(StatusError):
    """429: the weight limit of this IP was passed; the budget is frozen until it refills."""


class IPBannedError(RateLimitError):
    """418: this IP is banned. Nothing is sent until the ban ends.

    Attributes:
        banned_until: the end of the ban by the exchange's clock, as an aware datetime in UTC.
    """

    def __init__(
        self,
        text: str,
        *,
        symbol: str | None = None,
        status: int = 418,
        code: int | None = None,
        message: str = "",
        retry_after: float | None = None,
        banned_until: datetime = _UNKNOWN_END,
    ) -> None:
        super().__init__(
            text,
            symbol=symbol,
            status=status,
            code=code,
            message=message,
            retry_after=retry_after,
        )
        self.banned_until = banned_until


class ForbiddenError(StatusError):
    """403 (the exchange's firewall) or 451 (not served to this place): do not ask again."""


class ServerError(StatusError):
    """408 or 5xx: trouble behind the exchange's front; retried with backoff."""


class DecodeError(InsuranceError):
    """The exchange answered 200 with something that is not a pool.

    Attributes:
        reason: where and how it broke, with a JSON path such as `$.assets[0].marginBalance`.
        body: what came, cut to 200 characters.
        truncated: whether the JSON broke off before its end; such answers are retried.
    """

    def __init__(
        self,
        text: str,
        *,
        symbol: str | None = None,
        reason: str = "",
        body: str = "",
        truncated: bool = False,
    ) -> None:
        super().__init__(text, symbol=symbol)
        self.reason = reason
        self.body = body
        self.truncated = truncated


class BudgetTimeoutError(InsuranceError):
    """The wait for weight outlasts the call's timeout; raised as soon as that is certain.

    Attributes:
        wait: seconds until the weight could be had at the earliest; infinite if the request
            weighs more than the budget ever holds.
    """

    def __init__(self, message: str, *, symbol: str | None = None, wait: float = 0.0) -> None:
        super().__init__(message, symbol=symbol)
        self.wait = wait


class BulkFetchError(InsuranceError):
    """Some of the symbols asked for failed.

    Attributes:
        pools: what did arrive, by symbol, in the order asked.
        errors: the error of each symbol that failed, in the order asked.
    """

    def __init__(
        self,
        message: str,
        *,
        pools: Mapping[str, InsurancePool] | None = None,
        errors: Mapping[str, InsuranceError] | None = None,
    ) -> None:
        super().__init__(message)
        self.pools: dict[str, InsurancePool] = dict(pools or {})
        self.errors: dict[str, InsuranceError] = dict(errors or {})


class StoreError(InsuranceError):
    """A file or database that this package keeps could not be read or written."""
