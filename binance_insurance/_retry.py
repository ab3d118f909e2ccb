"""When to ask again, after how long, and how often at all.

A retry is for what may go better next time: no connection, a broken one, a timeout, 408, 5xx,
and answers that were cut off. After a 429 the budget's freeze does the waiting. What the exchange
refuses for a reason (400, 401, 403, 404, 418, 451) is never asked again.

Waits grow exponentially, with full jitter: uniform between 0 and
min(max_delay, base_delay * 2^(attempt - 1)) seconds, so that many callers do not return at once.
"""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Protocol, TypeVar

from msgspec import Struct

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
    from collections.abc import Awaitable, Callable

    import tenacity

    from ._runtime import Runtime

_QUOTA = 500
_RETRY_COST = 5
_TIMEOUT_COST = 10
_SUCCESS_REFUND = 1


class Retriable(Protocol):
    """What is attempted."""

    @property
    def deadline(self) -> float:
        """Local monotonic time after which no attempt may begin; it may move."""
        ...

    @property
    def diverted(self) -> bool:
        """Whether its last failure was that of another call, which has had its retries."""
        ...


T = TypeVar("T")
Call = TypeVar("Call", bound=Retriable)


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
    """

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = _QUOTA

    def spend(self, error: InsuranceError) -> int | None:
        """Take what a retry after `error` costs and return it; None if it is not there."""
        cost = _retry_cost(error)
        if cost > self._tokens:
            return None
        self._tokens -= cost
        return cost

    def refund(self, cost: int = _SUCCESS_REFUND) -> None:
        """Return tokens after a success."""
        if self._tokens < _QUOTA:
            self._tokens = min(_QUOTA, self._tokens + cost)


def is_retryable(error: BaseException) -> bool:
    """Tell whether asking again may help."""
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


class Retrier:
    """Runs the attempts of one client's calls under a policy and a shared quota."""

    def __init__(self, policy: RetryPolicy, runtime: Runtime) -> None:
        import tenacity  # with the first client, since it takes a third of this package's import

        self.retries = 0
        self._retrying = tenacity.AsyncRetrying
        self._if_retryable = tenacity.retry_if_exception(is_retryable)
        self._policy = policy
        self._runtime = runtime
        self._quota = RetryQuota()

    async def run(self, attempt: Callable[[Call], Awaitable[T]], call: Call) -> T:
        """Run `attempt` until it succeeds or there is no point in going on.

        The first attempt runs bare, so that a call that does not fail costs nothing extra.

        Args:
            attempt: makes one attempt for the call; raises an `InsuranceError` where it fails.
            call: what is attempted.

        Raises:
            InsuranceError: that of the last attempt that was made.
        """
        try:
            result = await attempt(call)
        except InsuranceError as error:
            if call.diverted or not is_retryable(error):
                raise
            return await self._retry(attempt, call, error)
        self._quota.refund()
        return result

    async def _retry(
        self, attempt: Callable[[Call], Awaitable[T]], call: Call, first: InsuranceError
    ) -> T:
        pending: InsuranceError | None = first
        last = first
        paid = 0

        def wait(state: tenacity.RetryCallState) -> float:
            return delay_before_retry(
                self._policy, state.attempt_number, _error_of(state), self._runtime.random()
            )

        def stop(state: tenacity.RetryCallState) -> bool:
            nonlocal last, paid
            error = _error_of(state)
            if not isinstance(error, InsuranceError):
                return True
            last = error
            if (
                call.diverted
                or state.attempt_number >= self._policy.max_attempts
                or state.upcoming_sleep == inf
                or self._runtime.monotonic() + state.upcoming_sleep >= call.deadline
            ):
                return True
            if isinstance(error, RateLimitError):
                return False
            cost = self._quota.spend(error)
            paid = cost or 0
            return cost is None

        async def replay_then_attempt() -> T:
            # Attempt 1 was made before tenacity came in: it only hears of the failure.
            nonlocal pending
            if pending is not None:
                error, pending = pending, None
                raise error
            self.retries += 1
            return await attempt(call)

        try:
            result: T = await self._retrying(
                sleep=self._runtime.sleep,
                retry=self._if_retryable,
                wait=wait,
                stop=stop,
                reraise=True,
            )(replay_then_attempt)
        except BudgetTimeoutError as error:
            raise last from error  # the retry was not made; what made it necessary says more
        self._quota.refund(paid or _SUCCESS_REFUND)
        return result


def _retry_cost(error: InsuranceError) -> int:
    return _TIMEOUT_COST if isinstance(error, RequestTimeoutError) else _RETRY_COST


def _error_of(state: tenacity.RetryCallState) -> BaseException | None:
    return None if state.outcome is None else state.outcome.exception()
