"""What a 429 and a 418 forbid, and until when. Pure; the caller has the time.

- 429: the IP's weight limit was passed. Nothing is sent until `Retry-After` has passed, nor in the
  rest of the window on which the answer reports.
- 418: the IP is banned. Nothing is sent until the later of the ends that header and text name.
  Without any, for 2 minutes, and twice as long for each ban that follows without a good answer
  in between. The exchange documents bans of 2 minutes up to 3 days.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from msgspec import Struct

from .report import LONGEST_BAN, utc

if TYPE_CHECKING:
    from .clock import ExchangeClock
    from .report import Report

TOO_MANY_REQUESTS, BANNED = 429, 418
_FIRST_BAN = 120.0  # the shortest ban that the exchange documents
_SAME_TIME = 0.5  # two clocks agree on a time if they are no further apart


class Refusals(Struct, omit_defaults=True):
    """The freeze and the ban of one IP, in local monotonic time unless named otherwise.

    Attributes:
        frozen_until: the end of the freeze.
        ban_ends: the end of the ban,
        ban_end_utc: the same in seconds since 1970 by the exchange's clock,
        bans: and how many bans there were in a row.
    """

    frozen_until: float = -inf
    ban_ends: float = -inf
    ban_end_utc: float = 0.0
    bans: int = 0

    def freeze(self, until: float) -> None:
        """Begin a freeze, or prolong it."""
        self.frozen_until = max(self.frozen_until, until)

    def ban(self, now: float, report: Report, clock: ExchangeClock) -> None:
        """Begin a ban, or prolong it."""
        exchange_now = clock.latest(now) if clock.known else report.wall
        # Whole seconds, so that all who read one answer name the same end.
        end = float(ceil(exchange_now + report.retry_after)) if report.retry_after else -inf
        if report.banned_until is not None:
            end = max(end, report.banned_until)
        if end <= exchange_now:
            if now < self.ban_ends:
                return  # the ban is known; this answer adds nothing to it
            end = exchange_now + _FIRST_BAN * 2**self.bans
        if now >= self.ban_ends:
            self.bans += 1
        end = min(end, exchange_now + LONGEST_BAN)
        ends = clock.local(end) if clock.known else now + end - exchange_now
        if ends > self.ban_ends:
            self.ban_ends, self.ban_end_utc = ends, end

    def answered(self, sent_at: float) -> None:
        """Count an answer that is no ban; one to a request sent after a ban ends the doubling."""
        if self.bans and sent_at >= self.ban_ends:
            self.bans = 0

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
