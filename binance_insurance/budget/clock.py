"""The exchange's clock, seen through answers.

An answer that left here at local time `sent`, was back at `received` and carries `Date: D` was
made at some local time between the two, when the exchange's clock stood between D and D + 1. So

    D - received  <=  offset  <  D + 1 - sent        (offset = exchange's clock - local clock)

and what all answers allow together is a narrow interval: answers on both sides of a full second
pin it down to the latency. The local clock is monotonic and its origin means nothing; that the
two may drift apart widens the interval as time passes.
"""

from __future__ import annotations

_DRIFT = 2e-4  # seconds per second; computers' clocks stay well below
_ROUNDING = 1e-6  # floats of seconds since 1970 are good to about a quarter of that


class ExchangeClock:
    """Bounds on the exchange's time, from the `Date` of its answers. Pure: it reads no clock.

    `known` says whether any answer has carried a date; without one there are no bounds.
    """

    __slots__ = ("_high", "_low", "_seen_at", "known")

    def __init__(self) -> None:
        self.known = False
        self._low = self._high = self._seen_at = 0.0

    def observe(self, sent: float, received: float, date: float) -> None:
        """Learn from an answer: local times of sending and receipt, `Date` in seconds."""
        low, high = date - received, date + 1.0 - sent
        if self.known:
            slack = _DRIFT * max(0.0, received - self._seen_at)
            narrow_low, narrow_high = max(low, self._low - slack), min(high, self._high + slack)
            # No common offset: a clock was stepped, or this machine slept. The newest is right.
            if narrow_low <= narrow_high:
                low, high = narrow_low, narrow_high
        self.known = True
        self._low, self._high, self._seen_at = low, high, received

    def earliest(self, now: float) -> float:
        """Return the exchange's time at local time `now`, at the least."""
        return now + self._low - _DRIFT * max(0.0, now - self._seen_at)

    def latest(self, now: float) -> float:
        """Return the exchange's time at local time `now`, at the most."""
        return now + self._high + _DRIFT * max(0.0, now - self._seen_at)

    def local(self, exchange_time: float) -> float:
        """Return the local time from which on the exchange's clock surely shows this time."""
        local = exchange_time - self._low + _ROUNDING
        return local + max(0.0, local - self._seen_at) * _DRIFT / (1.0 - _DRIFT)
