"""All errors that a call can raise.

::

    InsuranceError
    ├── TransportError             no usable answer arrived
    │   ├── ConnectError           no connection, so nothing was sent
    │   └── RequestTimeoutError    no complete answer in time
    ├── StatusError                a status other than 200
    │   ├── BadRequestError        400
    │   │   └── InvalidSymbolError 400 with code -1121
    │   ├── RateLimitError         429
    │   │   └── IPBannedError      418
    │   ├── ForbiddenError         403 and 451
    │   └── ServerError            408 and 5xx
    ├── DecodeError                200, but not a pool
    ├── BudgetTimeoutError         the wait for weight is longer than the timeout
    ├── BulkFetchError             some of several symbols failed
    ├── AssetNotHeldError          the pool does not hold the asset; a KeyError, too
    ├── ClientClosedError          the client is or was closed
    └── StoreError                 a shared budget's file or Redis failed

Catch `InsuranceError` for all of them; each has `.retry_after`. Wrong arguments are `ValueError` or
`TypeError`, raised before anything is sent. All errors can be pickled.
"""

from __future__ import annotations

from copy import copy
from datetime import UTC, datetime
from math import inf
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from collections.abc import Mapping

    from .models import InsurancePool

__all__ = [
    "AssetNotHeldError",
    "BadRequestError",
    "BudgetTimeoutError",
    "BulkFetchError",
    "ClientClosedError",
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
    """The base class of all errors of this package.

    Attributes:
        symbol: the symbol that the failed call asked for; None if it asked for all pools.
            `str()` of the error begins with it.
        retry_after: seconds until asking again can make sense; None where that is not known.
    """

    retry_after: float | None = None

    def __init__(self, message: str, *, symbol: str | None = None) -> None:
        super().__init__(message)
        self.symbol = symbol

    def about(self, symbol: str) -> Self:
        """Return this error for a symbol: the same object, or a copy."""
        if self.symbol == symbol:
            return self
        error = self.copy()
        error.symbol = symbol
        return error

    def copy(self) -> Self:
        """Return a copy with the same cause and its own traceback."""
        error = copy(self)
        error.__cause__ = self.__cause__
        return error

    def __str__(self) -> str:
        text = super().__str__()
        return text if self.symbol is None else f"{self.symbol}: {text}"


class TransportError(InsuranceError):
    """No usable answer: the connection broke, or the answer was cut off or too large."""


class ConnectError(TransportError):
    """No connection was made (refused, DNS, TLS), so nothing was sent and no weight spent."""


class RequestTimeoutError(TransportError):
    """No complete answer arrived within the timeout of the attempt or of the call."""


class StatusError(InsuranceError):
    """The exchange answered with a status other than 200.

    Attributes:
        status: the HTTP status.
        code: the exchange's own error code, such as -1121; None if the body has none.
        message: the exchange's own message, or the start of a body that is not JSON.
        retry_after: seconds from the header `Retry-After`; after a 429 or 418, until the freeze or
            the ban ends, which can be longer.
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
    """400: the request is wrong. A retry would spend its weight again and fail again."""


class InvalidSymbolError(BadRequestError):
    """400 with code -1121: the exchange does not know the symbol."""


class RateLimitError(StatusError):
    """429: this IP passed its weight limit. A freeze follows: nothing is sent until it ends."""


class IPBannedError(RateLimitError):
    """418: the exchange has banned this IP. Nothing is sent until the ban ends.

    Attributes:
        banned_until: when the ban ends by the exchange's clock, an aware datetime in UTC.
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
    """403 (the exchange's firewall) or 451 (location not served): not retried, do not ask again."""


class ServerError(StatusError):
    """408 or 5xx: a failure inside the exchange; retried with backoff."""


class DecodeError(InsuranceError):
    """The exchange answered 200, but the body is not a pool.

    Attributes:
        reason: what is wrong and where, as a JSON path such as `$.assets[0].marginBalance`.
        body: the body that arrived, cut to 200 characters.
        truncated: whether the JSON ends too early; such answers are retried.
        pools: the good pools of an answer to the snapshot request in which others are not; else
            empty. `fetch_pool` and `fetch_pools` have used them already.
    """

    def __init__(
        self,
        text: str,
        *,
        symbol: str | None = None,
        reason: str = "",
        body: str = "",
        truncated: bool = False,
        pools: tuple[InsurancePool, ...] = (),
    ) -> None:
        super().__init__(text, symbol=symbol)
        self.reason = reason
        self.body = body
        self.truncated = truncated
        self.pools = pools

    def pool_of(self, symbol: str | None) -> InsurancePool | None:
        """Return the good pool that names a symbol, or None."""
        return next((pool for pool in self.pools if symbol in pool.symbols), None)


class BudgetTimeoutError(InsuranceError):
    """The wait for weight cannot end before the call's timeout; raised as soon as that is certain.

    Attributes:
        wait: seconds until the weight is free at the earliest; infinite if the request weighs
            more than a whole window of the budget.
    """

    def __init__(self, message: str, *, symbol: str | None = None, wait: float = 0.0) -> None:
        super().__init__(message, symbol=symbol)
        self.wait = wait
        self.retry_after: float | None = wait if 0 < wait < inf else None


class BulkFetchError(InsuranceError):
    """Some of the requested symbols failed.

    Attributes:
        pools: the pools that arrived, by symbol, in the order requested.
        errors: the error of each symbol that failed, in the order requested.
        retry_after: the longest of these errors; None if none of them has one.
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
        waits = [each.retry_after for each in self.errors.values()]
        self.retry_after: float | None = max(
            (wait for wait in waits if wait is not None), default=None
        )


class AssetNotHeldError(InsuranceError, KeyError):
    """A pool does not hold an asset; the message names those that it holds."""

    def __str__(self) -> str:
        return str(self.args[0])  # a KeyError would put it in quotes


class ClientClosedError(InsuranceError):
    """The client is closed, or was closed during the call."""


class StoreError(InsuranceError):
    """A file or database of this package, such as a shared budget's, cannot be used."""
