"""What a 429 and a 418 forbid, and until when. Pure; the caller has the time.

- 429: the IP's weight limit was passed. Nothing is sent until `Retry-After` has passed or, without
  it, until the next window; also if the request that then goes first is refused again.
- 418: the IP is banned. Nothing is sent until the latest end that any reading of the answer allows:
  `Retry-After` counts from the answer, and the end that header or text names is read by the clock
  that earlier answers showed, and by the answer's own `Date`. Only where no answer had a `Date` is
  it read by the local clock; an end in its past then means the longest ban. Without any end a ban
  lasts 2 minutes, and twice as long for each that follows within a day.

The exchange documents bans of 2 minutes up to 3 days, longer for those who repeat it.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from msgspec import Struct

from .clock import DRIFT
from .report import utc

if TYPE_CHECKING:
    from .clock import ExchangeClock
    from .report import Report

TOO_MANY_REQUESTS, BANNED = 429, 418
_FIRST_BAN, _LONGEST_BAN = 120.0, 3 * 86_400.0
REPEATED = 86_400.0  # seconds after a ban in which the next one is a repeated one
_ABSURD = 366 * 86_400.0  # seconds; a longer pause is none that an exchange asks for
_SAME_TIME = 0.5  # two clocks agree on a time if they are no further apart


class Refusals(Struct, omit_defaults=True):
    """The freeze and the ban of one IP, in local monotonic time unless named otherwise.

    Attributes:
        frozen_until: the end of the freeze.
        ban_ends: the end of the ban,
        ban_end_utc: the same in seconds since 1970 by the exchange's clock,
        bans: and how many bans there were, each within a day of the last.
    """

    frozen_until: float = -inf
    ban_ends: float = -inf
    ban_end_utc: float = 0.0
    bans: int = 0

    def freeze(
        self, sent_at: float, now: float, pause: float, window_begins: float, window_ends: float
    ) -> None:
        """Begin a freeze, or prolong it.

        Args:
            sent_at: when the refused request was sent.
            now: when its answer was here.
            pause: `Retry-After`; 0 if there is none.
            window_begins: when the window began that is used up,
            window_ends: and when it ends.
        """
        # A request that went first after a freeze in the same window.
        again = sent_at >= self.frozen_until > window_begins
        if pause > _ABSURD:
            pause = 0.0
        until = _after(now, pause)
        if again or not pause:
            until = max(until, window_ends)
        self.frozen_until = max(self.frozen_until, until)

    def ban(self, now: float, report: Report, clock: ExchangeClock) -> None:
        """Begin a ban, or prolong it, with an answer that was here at `now` or before."""
        ends = self._named_end(now, report, clock)
        if ends is None:
            if now < self.ban_ends:
                return  # the ban is known; this answer adds nothing to it
            repeated = self.bans if now < self.ban_ends + REPEATED else 0
            ends = now + min(_LONGEST_BAN, _FIRST_BAN * 2.0 ** min(repeated, 30))
        if now >= self.ban_ends:
            self.bans = 1 + (self.bans if now < self.ban_ends + REPEATED else 0)
        if ends > self.ban_ends:
            self.ban_ends = ends
            self.ban_end_utc = _utc_of(ends, now, report, clock)

    @staticmethod
    def _named_end(now: float, report: Report, clock: ExchangeClock) -> float | None:
        """Return the latest end that the answer can mean; None if that is over."""
        ends: list[float] = []
        named = report.banned_until
        if report.retry_after is not None:
            ends.append(_after(now, report.retry_after))
        if named is not None and report.date is not None:
            ends.append(_after(now, named - report.date))
        if named is not None and clock.known:
            ends.append(clock.local(named))
        elif named is not None and report.date is None:
            left = named - report.wall
            ends.append(_after(now, left) if left > 0 else now + _LONGEST_BAN)
        ends = [end if end < now + _ABSURD else now + _LONGEST_BAN for end in ends if end > now]
        return max(ends, default=None)

    def forbid(self, now: float) -> bool:
        """Return whether nothing may be sent now."""
        return now < self.frozen_until or now < self.ban_ends

    def banned_until(self, now: float) -> float | None:
        """Return the end of the ban in seconds since 1970 by the exchange's clock, or None."""
        return self.ban_end_utc if now < self.ban_ends else None

    def freeze_ends(self, now: float, clock: ExchangeClock) -> float | None:
        """Return the end of the freeze in seconds since 1970 by the exchange's clock, or None."""
        if now >= self.frozen_until or not clock.known:
            return None
        return clock.earliest(self.frozen_until)

    def outlook(self, now: float, clock: ExchangeClock) -> str:
        """Say in words when something may be sent again."""
        end = self.banned_until(now) or self.freeze_ends(now, clock)
        if end is None:
            return "nothing is sent for now"
        return f"nothing is sent until {utc(end):%Y-%m-%d %H:%M:%S} UTC"

    def merge(self, other: Refusals) -> bool:
        """Take over what another process knows; return whether any of it was new."""
        news = False
        if other.ban_ends > self.ban_ends + _SAME_TIME:
            self.ban_ends, self.ban_end_utc = other.ban_ends, other.ban_end_utc
            self.bans, news = other.bans, True
        if other.frozen_until > self.frozen_until + _SAME_TIME:
            self.frozen_until, news = other.frozen_until, True
        return news

    def shift(self, by: float) -> None:
        """Express all times by a clock that shows so many seconds more."""
        self.frozen_until += by
        self.ban_ends += by


def _after(now: float, seconds: float) -> float:
    """Return the local time at which so many seconds of the exchange's clock are surely over."""
    return now + seconds * (1.0 + DRIFT)


def _utc_of(ends: float, now: float, report: Report, clock: ExchangeClock) -> float:
    """Return the end of a ban in seconds since 1970 by the exchange's clock."""
    if clock.known:
        named = report.banned_until
        if named is not None and clock.local(named) == ends:
            return named
        # Whole seconds, so that all that read one answer name the same end.
        return float(ceil(clock.latest(now) + (ends - now) / (1.0 + DRIFT)))
    return float(ceil(report.wall + ends - now))
