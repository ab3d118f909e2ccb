"""When to ask again, after how long, and how often at all.

A retry is for what may go better next time: no connection, a broken one, a timeout, 408, 5xx,
and answers that were cut off. After a 429 the budget's freeze does the waiting. What the exchange
refuses for a reason (400, 401, 403, 404, 418, 451) is never asked again.

Waits grow exponentially, with full jitter: uniform between 0 and
min(max_delay, base_delay * 2^(attempt - 1)) seconds, so that many callers do not return at once.
"""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING, Protocol, Self

from msgspec import Struct

from ._text import one_line
from .errors import (
    BudgetTimeoutError,
    DecodeError,
    InsuranceError,
    IPBannedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    TransportError,
)

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from types import TracebackType

    import tenacity

    from ._runtime import Runtime

_log = logging.getLogger("binance_insurance.retry")
_QUOTA = 500
_RETRY_COST = 5
_TIMEOUT_COST = 10
_SUCCESS_REFUND = 1


class Attempted(Protocol):
    """What is attempted."""

    @property
    def symbol(self) -> str | None:
        """The symbol that it asks for, or None."""
        ...

    @property
    def deadline(self) -> float:
        """Local monotonic time after which no attempt may begin; it may move."""
        ...


class RetryPolicy(Struct, frozen=True):
    """How often and how patiently to ask again.

    Attributes:
        max_attempts: attempts in all, the first included; 1 never retries.
        base_delay: seconds, the longest wait before the second attempt; it doubles from there.
        max_delay: seconds, the longest wait before any attempt. An answer whose `Retry-After`
            is longer than this ends the call instead.

    Raises:
        ValueError: max_attempts is below 1, or a delay is negative or not finite.
    """

    max_attempts: int = 4
    base_delay: float = 0.2
    max_delay: float = 8.0

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.max_attempts < 1:
            raise ValueError(f"max_attempts must be at least 1, not {self.max_attempts}")
        for name in ("base_delay", "max_delay"):
            if not 0 <= getattr(self, name) < inf:
                raise ValueError(f"{name} must be 0 or more seconds, not {getattr(self, name)}")


class RetryQuota:
    """Keeps an outage from doubling the load: retries are paid from what successes earn.

    As the AWS SDKs keep one: 500 tokens at first, 5 for a retry, 10 after a timeout. A retried
    call that succeeds returns what its last retry cost, any other success returns 1. So a lasting
    outage sees at most 100 retries, then only first attempts.

    Attributes:
        spent: tokens that are not there now; only then a success need return any.
    """

    __slots__ = ("spent",)

    def __init__(self) -> None:
        self.spent = 0

    def spend(self, error: InsuranceError) -> int | None:
        """Take what a retry after `error` costs and return it; None if it is not there."""
        cost = _retry_cost(error)
        if self.spent + cost > _QUOTA:
            return None
        self.spent += cost
        return cost

    def refund(self, cost: int = _SUCCESS_REFUND) -> None:
        """Return tokens after a success."""
        self.spent = max(0, self.spent - cost)


def is_retryable(error: BaseException) -> bool:
    """Return whether asking again may help."""
    if isinstance(error, DecodeError):
        return error.truncated
    if isinstance(error, IPBannedError):
        return False
    return isinstance(error, (TransportError, ServerError, RateLimitError))


def delay_before_retry(
    policy: RetryPolicy, attempt: int, error: BaseException | None, chance: float
) -> float:
    """Return the seconds to wait after failed attempt number `attempt`.

    Infinite if the exchange asks for a longer pause than the policy has patience for.
    """
    if isinstance(error, RateLimitError):
        return 0.0  # the budget is frozen, and its queue is the fair place to wait
    pause = error.retry_after if isinstance(error, ServerError) else None
    if pause is not None and pause > policy.max_delay:
        return inf
    # Beyond 2^30 the cap holds anyway, and floats do not overflow.
    longest = min(policy.max_delay, policy.base_delay * 2.0 ** min(attempt - 1, 30))
    return max(chance * longest, pause or 0.0)


class Retries:
    """The retries of one client: its policy, one quota for all of them, and their number.

    Attributes:
        policy: how often and how patiently to ask again.
        runtime: sleep, clock and chance.
        quota: what pays for retries.
        made: attempts after the first of a request.
    """

    def __init__(self, policy: RetryPolicy, runtime: Runtime) -> None:
        import tenacity  # with the first client, since it takes a third of this package's import

        self.policy = policy
        self.runtime = runtime
        self.quota = RetryQuota()
        self.made = 0
        self._retrying = tenacity.AsyncRetrying
        self._always = tenacity.retry_always

    def after(self, error: InsuranceError, request: Attempted) -> FurtherAttempts:
        """Return the attempts that follow a first one that failed with `error`."""
        return FurtherAttempts(self, error, request)

    def repeat(self, further: FurtherAttempts) -> AsyncIterator[tenacity.AttemptManager]:
        """Let tenacity do the waiting between attempts."""
        return aiter(
            self._retrying(
                sleep=self.runtime.sleep,
                retry=self._always,
                wait=further.wait,
                stop=further.stop,
                before_sleep=further.announce,
                retry_error_callback=_end,
            )
        )


class FurtherAttempts:
    """Yields itself for each further attempt, as the context in which to make it.

    ::

        attempts = retries.after(error, request)
        async for attempt in attempts:
            with attempt:
                return await ask(request)
        raise attempts.error

    It waits before each, and ends when there is no point in going on. A first attempt that
    succeeds never comes here, so it costs nothing of tenacity.

    Attributes:
        error: that of the last attempt that was made.
    """

    def __init__(self, retries: Retries, error: InsuranceError, request: Attempted) -> None:
        self.error = error
        self._retries = retries
        self._request = request
        self._paid = 0
        self._repeat: AsyncIterator[tenacity.AttemptManager] | None = None
        self._state: tenacity.RetryCallState | None = None

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Self:
        if not is_retryable(self.error):
            raise StopAsyncIteration
        if self._repeat is None or self._state is None:
            self._repeat = self._retries.repeat(self)
            self._state = (await anext(self._repeat)).retry_state  # attempt 1, already made
        self._state.set_exception((type(self.error), self.error, self.error.__traceback__))
        self._state = (await anext(self._repeat)).retry_state
        self._retries.made += 1
        return self

    def __enter__(self) -> None:
        """Begin an attempt."""

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool:
        """End an attempt: a success earns quota, a failure may be followed by another attempt."""
        if error is None:
            self._retries.quota.refund(self._paid or _SUCCESS_REFUND)
        elif isinstance(error, BudgetTimeoutError):
            raise self.error from error  # not made; what made it necessary says more
        elif isinstance(error, InsuranceError):
            self.error = error
            return True
        return False

    def wait(self, state: tenacity.RetryCallState) -> float:
        """Return the seconds to wait before the next attempt."""
        retries = self._retries
        chance = retries.runtime.random()
        return delay_before_retry(retries.policy, state.attempt_number, self.error, chance)

    def stop(self, state: tenacity.RetryCallState) -> bool:
        """Return whether the last attempt was the last one; else pay for the next."""
        retries, pause = self._retries, state.upcoming_sleep
        if (
            state.attempt_number >= retries.policy.max_attempts
            or pause == inf
            or retries.runtime.monotonic() + pause >= self._request.deadline
        ):
            return True
        if isinstance(self.error, RateLimitError):
            return False
        cost = retries.quota.spend(self.error)
        self._paid = cost or 0
        return cost is None

    def announce(self, state: tenacity.RetryCallState) -> None:
        """Log that another attempt follows, after how many seconds and why."""
        error, seconds = self.error, state.upcoming_sleep
        if isinstance(error, RateLimitError):  # the budget does the waiting
            seconds = error.retry_after or seconds
        _log.info(
            "%s: attempt %d in %.3g s or later: %s",
            self._request.symbol or "request without symbol",
            state.attempt_number + 1,
            seconds,
            one_line(Exception.__str__(error)),  # without its symbol
        )


def _retry_cost(error: InsuranceError) -> int:
    return _TIMEOUT_COST if isinstance(error, RequestTimeoutError) else _RETRY_COST


def _end(_: tenacity.RetryCallState) -> None:
    """Let the iteration end without an error of tenacity's own."""
