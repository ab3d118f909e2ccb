"""The exchange's clock, seen through answers.

An answer that left here at local time `sent`, was back at `received` and carries `Date: D` was
made at some local time between the two, when the exchange's clock stood between D and D + 1. So

    D - received  <=  offset  <  D + 1 - sent        (offset = exchange's clock - local clock)

and what all answers allow together is a narrow interval: answers on both sides of a full second
pin it down to the latency. The local clock is monotonic and its origin means nothing; that the
two may drift apart widens the interval as time passes.
"""

from __future__ import annotations

from msgspec import Struct

_DRIFT = 2e-4  # seconds per second; computers' clocks stay well below
_ROUNDING = 1e-6  # floats of seconds since 1970 are good to about a quarter of that


class ExchangeClock(Struct):
    """Bounds on the exchange's time, from the `Date` of its answers. Pure: it reads no clock.

    Attributes:
        known: whether any answer has carried a date; without one there are no bounds.
        low: the offset between the exchange's clock and the local one, at the least,
        high: and at the most,
        seen_at: as of this local time.
    """

    known: bool = False
    low: float = 0.0
    high: float = 0.0
    seen_at: float = 0.0

    def observe(self, sent: float, received: float, date: float) -> None:
        """Learn from an answer: local times of sending and receipt, `Date` in seconds."""
        low, high = date - received, date + 1.0 - sent
        if self.known:
            slack = _DRIFT * max(0.0, received - self.seen_at)
            narrow_low, narrow_high = max(low, self.low - slack), min(high, self.high + slack)
            # No common offset: a clock was stepped, or this machine slept. The newest is right.
            if narrow_low <= narrow_high:
                low, high = narrow_low, narrow_high
        self.known = True
        self.low, self.high, self.seen_at = low, high, received

    def earliest(self, now: float) -> float:
        """Return the exchange's time at local time `now`, at the least."""
        return now + self.low - _DRIFT * max(0.0, now - self.seen_at)

    def latest(self, now: float) -> float:
        """Return the exchange's time at local time `now`, at the most."""
        return now + self.high + _DRIFT * max(0.0, now - self.seen_at)

    def local(self, exchange_time: float) -> float:
        """Return the local time from which on the exchange's clock surely shows this time."""
        local = exchange_time - self.low + _ROUNDING
        return local + max(0.0, local - self.seen_at) * _DRIFT / (1.0 - _DRIFT)
