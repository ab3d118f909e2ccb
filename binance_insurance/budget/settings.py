"""The numbers that a budget is made with."""

from __future__ import annotations

from math import inf

from msgspec import Struct

_LONGEST_TRANSIT = 10.0


class Settings(Struct, frozen=True):
    """Limit, interval and reserve of a budget: a value.

    Attributes:
        limit: weight that the exchange grants in one window.
        interval: seconds of a window; windows begin at multiples of it since 1970 UTC.
        reserve: the part of the limit that is left to the other clients on the IP.

    Raises:
        ValueError: unless 0 <= reserve < limit and interval is a whole number of seconds >= 1
            (the exchange's clock is read in whole seconds).
    """

    limit: int
    interval: float
    reserve: int

    def __post_init__(self) -> None:
        """Refuse numbers that mean nothing."""
        if self.limit < 1:
            raise ValueError(f"limit must be at least 1, not {self.limit}")
        if not 0 <= self.reserve < self.limit:
            raise ValueError(
                f"reserve must be from 0 to below the limit of {self.limit}, not {self.reserve}"
            )
        if not 1 <= self.interval < inf or self.interval != int(self.interval):
            raise ValueError(f"interval must be a whole number of seconds, not {self.interval}")

    @property
    def capacity(self) -> int:
        """Weight that is granted in one window: limit - reserve."""
        return self.limit - self.reserve

    @property
    def transit(self) -> float:
        """Seconds after which a request that was sent has arrived or never will."""
        return min(_LONGEST_TRANSIT, self.interval)
