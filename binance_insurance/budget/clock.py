"""The exchange's clock, seen through answers.

An answer whose request left here at local time `sent`, that was back at `received` and carries
`Date: D`, was made at some local time between the two, when the exchange's clock stood between D
and D + 1. So

    D - received  <=  offset  <  D + 1 - sent        (offset = exchange's clock - local clock)

and what all answers allow together is a narrow interval: answers on both sides of a full second
narrow it down to the latency. The local clock is monotonic and its origin means nothing. The two
clocks may drift apart, so the interval widens as time passes.
"""

from __future__ import annotations

from math import inf

from msgspec import Struct

DRIFT = 2e-4  # seconds per second; computers' clocks stay well below
_ROUNDING = 1e-6  # floats of seconds since 1970 are good to about a quarter of that


class ExchangeClock(Struct, omit_defaults=True):
    """Bounds on the exchange's time, from the `Date` of its answers. Pure: it reads no clock.

    Attributes:
        low: lower bound of the offset between the exchange's clock and the local one,
        high: and its upper bound,
        seen_at: as of this local time; -inf as long as no answer has carried a date.
    """

    low: float = -inf
    high: float = inf
    seen_at: float = -inf

    @property
    def known(self) -> bool:
        """Whether any answer has carried a date; without one there are no bounds."""
        return self.seen_at > -inf

    def observe(self, sent: float, received: float, date: float) -> bool:
        """Learn from an answer: local times of sending and receipt, `Date` in seconds.

        Returns whether it taught anything.
        """
        drift = DRIFT * (received - self.seen_at) if received > self.seen_at else 0.0
        known_low, known_high = self.low - drift, self.high + drift
        low, high = date - received, date + 1.0 - sent
        if low <= known_low and high >= known_high:
            return False
        if low <= known_high and high >= known_low:
            low, high = max(low, known_low), min(high, known_high)
        # Else there is no common offset: a clock was stepped, or this machine slept. The newest
        # answer is right.
        self.low, self.high, self.seen_at = low, high, received
        return True

    def earliest(self, now: float) -> float:
        """Return the lower bound of the exchange's time at local time `now`."""
        return now + self.low - DRIFT * max(0.0, now - self.seen_at)

    def latest(self, now: float) -> float:
        """Return the upper bound of the exchange's time at local time `now`."""
        return now + self.high + DRIFT * max(0.0, now - self.seen_at)

    def local(self, exchange_time: float) -> float:
        """Return the local time from which on the exchange's clock surely shows this time."""
        local = exchange_time - self.low + _ROUNDING
        return local + max(0.0, local - self.seen_at) * DRIFT / (1.0 - DRIFT)

    def shift(self, by: float) -> None:
        """Express the bounds by a local clock that shows so many seconds more."""
        self.low, self.high, self.seen_at = self.low - by, self.high - by, self.seen_at + by
