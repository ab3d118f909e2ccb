"""The token bucket: what may be sent at a given time. Pure decisions; the caller tells the time.

How the exchange counts
-----------------------
For each IP it adds up the weight of every request, whoever sent it and whatever came of it, in
windows of its own UTC clock (`:00` to `:60` for the minute), and refuses what passes the limit.
Each answer tells the sum so far. The sum of the next window starts from zero.

How the bucket keeps below
--------------------------
Of the weight that we were granted in a window, some is *settled*: an answer tells a sum which
includes it. The rest is *unsettled*: in flight, or its answer was lost. So the exchange's sum,
as of the newest answer, is at most

    reported + unsettled        (reported = the highest sum that an answer of this window told)

and this is wrong on the careful side only, by no more than what is in flight. Where nodes of the
exchange report a little late, `spent` is a second bound: each reported sum plus what we were
granted since. The bucket grants weight while the greater of both stays within limit - reserve.

- An answer settles its own request if it was surely counted in this window: sent after the
  window's certain start. It also settles what was lost before: a request of which nothing was
  heard has reached the exchange, or never will, `transit` seconds after it was sent.
- Around a window's turn it is not known in which window a request counts, nor of which one its
  answer tells the sum. So the sum is not used, and the request stays unsettled in the new window
  until an answer to a later request settles it.
- What an answer tells is trusted for a while, and for the window that it tells of. Without such
  trust - at a cold start, in a new window, after a pause - one request goes ahead of the rest,
  and the rest follow when its answer has said how much is left. If it stays silent, another goes.
- Windows turn by the exchange's clock alone, and when they *surely* have. Nobody has shown that
  its counter turns in the same instant as its `Date`, so in the first moments of a window a sum
  that could still be the old one's is not believed, and nothing is sent if it could be the
  request that overfills the old one. If no answer ever carries a date, a window's worth of
  silence stands in for the turn.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from msgspec import Struct, field

from .._headers import LONGEST_BAN, utc
from .clock import ExchangeClock

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._headers import Report

_TRUST_SHARE = 12  # an answer is trusted for a twelfth of a window: 5 s of a minute
# A sixtieth of a window, 1 s of a minute, is how much the counter may turn later than the date,
# and how long the rest waits for the answer to the request ahead before another goes.
_PAUSE_SHARE = 60
_LONGEST_TRANSIT = 10.0
_LOOK_AGAIN = 0.1
_SAME_TIME = 0.5  # two clocks tell one time this far apart at the most
_SILENT_ANSWERS = 3  # so many answers without a used weight in a row: this exchange tells none
_FIRST_BAN = 120.0  # the shortest ban that the exchange documents
_TOO_MANY_REQUESTS = 429
_BANNED = 418


class Lease(Struct, eq=False, gc=False):
    """Weight that was granted for one request. Settle it or give it back, once.

    Attributes:
        weight: the request weight that was charged.
        sent_at: local monotonic time of the grant; the request leaves no earlier. Who holds it
            back for long moves this on, or its loss would be taken for settled too early.
        epoch: the number of window turns before the grant.
        number: counts the grants of a budget.
        open: whether it was neither settled nor given back yet.
    """

    weight: int
    sent_at: float
    epoch: int
    number: int
    open: bool = True


class Ledger(Struct, omit_defaults=True):
    """All that a token bucket knows at one time; what processes share.

    Attributes:
        clock: the exchange's clock.
        start: of the window, by the exchange's clock; -inf before any date.
        turn_at: when the window has surely turned.
        epoch: the number of turns.
        granted: the number of grants.
        spent: of this window: what was told, and granted since.
        reported: the highest used weight that an answer of this window told.
        unsettled: weight that was granted and is not known to be within `reported`.
        doubts: what of it was lost: settled by an answer to a request sent from then on, weight.
        trusted_until: until when what is known is recent enough.
        ahead: the number of the grant that went ahead of the rest, 0 for none,
        ahead_at: and when it was sent.
        suspect_sum: told early in this window, but perhaps the old one's.
        suspect_at: what was sent before cannot clear the suspicion.
        old_sum: of the window before: the highest used weight that was told,
        old_bound: and what it may have come to.
        counter_turned_at: when the exchange's counter has turned as well as its clock.
        seen_date: the last date that was learned from,
        look_again_at: and when the same date may teach more.
        silent_answers: so many answers without a used weight in a row.
        frozen_until: the end of a freeze.
        ban_ends: the end of a ban,
        ban_end_utc: by the exchange's clock,
        bans: and how many there were in a row.
    """

    clock: ExchangeClock = field(default_factory=ExchangeClock)
    start: float = -inf
    turn_at: float = inf
    epoch: int = 0
    granted: int = 0
    spent: int = 0
    reported: int = 0
    unsettled: int = 0
    doubts: list[tuple[float, int]] = []
    trusted_until: float = -inf
    ahead: int = 0
    ahead_at: float = -inf
    suspect_sum: int = 0
    suspect_at: float = -inf
    old_sum: int = 0
    old_bound: int = 0
    counter_turned_at: float = -inf
    seen_date: float | None = None
    look_again_at: float = -inf
    silent_answers: int = 0
    frozen_until: float = -inf
    ban_ends: float = -inf
    ban_end_utc: float = 0.0
    bans: int = 0

    def shift(self, by: float) -> None:
        """Express all times by a clock that shows so many seconds more."""
        clock = self.clock
        clock.low, clock.high, clock.seen_at = clock.low - by, clock.high - by, clock.seen_at + by
        self.doubts = [(settled_from + by, weight) for settled_from, weight in self.doubts]
        self.turn_at += by
        self.trusted_until += by
        self.ahead_at += by
        self.suspect_at += by
        self.counter_turned_at += by
        self.look_again_at += by
        self.frozen_until += by
        self.ban_ends += by


class TokenBucket:
    """The weight of one IP in windows of the exchange's clock.

    Args:
        limit: weight that the exchange grants in one window.
        interval: seconds of a window; windows begin at multiples of it since 1970 UTC.
        reserve: the part of the limit that is left to the other clients on the IP.

    Raises:
        ValueError: unless 0 <= reserve < limit and interval is a whole number of seconds >= 1
            (the exchange's clock is read in whole seconds).

    All times are local monotonic seconds, unless they are named as the exchange's.
    """

    def __init__(self, limit: int, *, interval: float, reserve: int) -> None:
        if limit < 1:
            raise ValueError(f"limit must be at least 1, not {limit}")
        if not 0 <= reserve < limit:
            raise ValueError(f"reserve must be from 0 to below the limit of {limit}, not {reserve}")
        if not 1 <= interval < inf or interval != int(interval):
            raise ValueError(f"interval must be a whole number of seconds, not {interval}")
        self.limit = limit
        self.reserve = reserve
        self.capacity = limit - reserve
        self.interval = int(interval)
        self.ledger = Ledger()
        self._trust = interval / _TRUST_SHARE
        self._pause = interval / _PAUSE_SHARE
        self.transit = min(_LONGEST_TRANSIT, float(interval))

    @property
    def available(self) -> int:
        """Weight that this window still has for us, at the least."""
        return max(
            0, self.capacity - max(self.ledger.spent, self.ledger.reported + self.ledger.unsettled)
        )

    @property
    def unsettled(self) -> int:
        """Weight that was granted and is not known to be within the reported used weight."""
        return self.ledger.unsettled

    @property
    def used_weight(self) -> int | None:
        """The highest used weight that an answer of this window told, or None."""
        return self.ledger.reported or None

    def take(self, weight: int, now: float) -> Lease | None:
        """Grant `weight` now, or return None if it cannot be had now."""
        ledger = self.ledger
        if now >= ledger.turn_at:
            self._turn(now)
        if now < ledger.frozen_until or now < ledger.ban_ends:
            return None
        if max(ledger.spent, ledger.reported + ledger.unsettled) + weight > self.capacity:
            return None
        if now >= ledger.trusted_until and not self._may_go_ahead(weight, now):
            return None
        ledger.granted += 1
        if now >= ledger.trusted_until:
            ledger.ahead, ledger.ahead_at = ledger.granted, now
        ledger.spent += weight
        ledger.unsettled += weight
        if not ledger.clock.known:
            ledger.turn_at = now + self.transit + self.interval
        return Lease(weight, now, ledger.epoch, ledger.granted)

    def settle(
        self, lease: Lease, now: float, report: Report | None, *, doubt: float = 0.0
    ) -> None:
        """Note the end of a request that was sent.

        Args:
            lease: its weight.
            now: when its answer was here.
            report: what the answer reported; None if it was lost.
            doubt: by how many seconds at the most `now` may be too early.
        """
        ledger = self.ledger
        self._close(lease)
        if report is None:
            self._doubt(lease.weight, lease.sent_at + self.transit)
            return
        status, date, used = report.status, report.date, report.used_weight
        # Another answer of the same second teaches next to nothing about the clock.
        if date is None or (date == ledger.seen_date and now < ledger.look_again_at):
            self.refresh(now)
        else:
            self._observe(lease.sent_at, now, now + doubt, date)

        past = date is not None and date < ledger.start
        if status == _TOO_MANY_REQUESTS:
            self._freeze(now, report, past=past)
        elif status == _BANNED:
            self._ban(now, report)
        elif lease.sent_at >= ledger.ban_ends:
            ledger.bans = 0
        if past:
            return  # counted in a window that is over
        if used is None or not (
            (date is not None and lease.epoch == ledger.epoch)
            or self._surely_in_window(lease, now, date)
        ):
            self._doubt(lease.weight, min(now, lease.sent_at + self.transit))
            if used is None:
                ledger.silent_answers += 1
                if ledger.silent_answers >= _SILENT_ANSWERS:
                    ledger.trusted_until = now + self._trust
            return
        if lease.sent_at < ledger.counter_turned_at and self._may_be_old(used):
            self._doubt(lease.weight, now)
            ledger.suspect_sum = max(ledger.suspect_sum, used)
            ledger.suspect_at = now
            self._distrust()
            return
        ledger.silent_answers = 0
        if used > ledger.reported:
            ledger.reported = used
            if used > ledger.spent:
                ledger.spent = used
        if lease.sent_at >= ledger.suspect_at:
            ledger.suspect_sum = 0
            ledger.trusted_until = now + self._trust
        if ledger.doubts:
            self._drop_doubts(lambda settled_from: settled_from <= lease.sent_at)

    def give_back(self, lease: Lease) -> None:
        """Take back the weight of a request that was certainly never sent."""
        self._close(lease)
        if lease.epoch == self.ledger.epoch:
            self.ledger.spent -= lease.weight

    def correct(self, weight: int) -> None:
        """Count weight that was granted and not written down; negative, the other way round."""
        ledger = self.ledger
        ledger.unsettled += weight
        ledger.spent = max(ledger.reported, ledger.spent + weight)

    def disown(self, own: int, now: float) -> None:
        """Begin anew: `own` weight will be told again, and that of others counts as lost."""
        ledger = self.ledger
        ledger.unsettled -= own
        others = ledger.unsettled - sum(weight for _, weight in ledger.doubts)
        if others > 0:
            self.lose(others, now)
        ledger.spent = ledger.reported + ledger.unsettled
        self._distrust()

    def merge(self, other: Ledger, *, sums: bool) -> bool:
        """Learn what another ledger knows of refusals and, with `sums`, of windows.

        The weight that was granted there is not taken over. Returns whether anything was new.
        """
        mine, news = self.ledger, sums
        if other.ban_ends > mine.ban_ends + _SAME_TIME:
            mine.ban_ends, mine.ban_end_utc = other.ban_ends, other.ban_end_utc
            mine.bans, news = other.bans, True
        if other.frozen_until > mine.frozen_until + _SAME_TIME:
            mine.frozen_until, news = other.frozen_until, True
        if not sums:
            return news
        if other.start > mine.start:
            mine.clock, mine.start, mine.turn_at = other.clock, other.start, other.turn_at
            mine.epoch += 1
            mine.reported = mine.spent = 0
        if other.start == mine.start:
            mine.reported = max(mine.reported, other.reported)
            mine.spent = max(mine.spent, mine.reported)
        self._distrust()
        return news

    def may_grant(self, weight: int, now: float) -> bool:
        """Tell whether somebody who waits for `weight` should try now."""
        ledger = self.ledger
        trusted = now < ledger.trusted_until or not ledger.ahead
        free = now >= max(ledger.frozen_until, ledger.ban_ends)
        return trusted and free and self.available >= weight

    def lose(self, weight: int, sent_before: float) -> None:
        """Count granted weight as lost: what of it was sent was sent before a time."""
        self.ledger.doubts.append((sent_before + self.transit, weight))

    def ready_at(self, weight: int, now: float) -> float:
        """Return the earliest time at which `weight` in all may have been granted.

        A lower bound: other clients and lost answers can only make it later. Infinite if the
        weight of a single request never fits.
        """
        self.refresh(now)
        start = max(now, self.ledger.frozen_until)
        # What is in flight may yet come back unsent.
        left = self.capacity - max(self.ledger.spent - self.ledger.unsettled, self.ledger.reported)
        if weight <= left or not self.ledger.clock.known:
            return start
        windows = ceil((weight - max(left, 0)) / self.capacity)
        return max(start, self.ledger.turn_at + (windows - 1) * self.interval)

    def wake_at(self, weight: int, now: float) -> float:
        """Return when to try `weight` again, if no answer comes before that."""
        if now < self.ledger.frozen_until:
            return self.ledger.frozen_until
        if (
            weight > self.available
            or self.ledger.suspect_sum + self.ledger.unsettled + weight > self.limit
        ):
            return self.ledger.turn_at
        if now < self.ledger.counter_turned_at and not self._fits_old_window(weight):
            return self.ledger.counter_turned_at
        return self.ledger.ahead_at + self._pause if self.ledger.ahead else self.ledger.turn_at

    def banned_until(self, now: float) -> float | None:
        """Return the end of the ban in seconds since 1970 by the exchange's clock, or None."""
        return self.ledger.ban_end_utc if now < self.ledger.ban_ends else None

    def frozen_until(self, now: float) -> float | None:
        """Return the end of the freeze in seconds since 1970 by the exchange's clock, or None."""
        if now >= self.ledger.frozen_until or not self.ledger.clock.known:
            return None
        return self.ledger.clock.earliest(self.ledger.frozen_until)

    def resets_at(self, now: float) -> float | None:
        """Return the next turn of the window in seconds since 1970, None before any answer."""
        if not self.ledger.clock.known:
            return None
        return self._start_of(self.ledger.clock.earliest(now)) + self.interval

    def outlook(self, now: float) -> str:
        """Say in words when something may be sent again."""
        end = self.banned_until(now) or self.frozen_until(now)
        if end is None:
            return "nothing is sent for now"
        return f"nothing is sent until {utc(end):%Y-%m-%d %H:%M:%S} UTC"

    def refresh(self, now: float) -> None:
        """Turn the window if it is time."""
        if now >= self.ledger.turn_at:
            self._turn(now)

    def _start_of(self, exchange_time: float) -> float:
        return exchange_time // self.interval * self.interval

    def _observe(self, sent: float, now: float, received: float, date: float) -> None:
        ledger = self.ledger
        ledger.seen_date, ledger.look_again_at = date, now + _LOOK_AGAIN
        clock = ledger.clock
        clock.observe(sent, received, date)
        start = self._start_of(clock.earliest(now))
        if ledger.start == -inf:
            ledger.start = start  # what was sent before the first answer counts in this window
        elif start > ledger.start:
            self._turn(now)
        elif clock.latest(received) < ledger.start:
            # The exchange's clock was set back. What is known of its sum stays, but not the trust.
            ledger.start = start
            self._distrust()
        ledger.turn_at = clock.local(ledger.start + self.interval)

    def _turn(self, now: float) -> None:
        """Begin a new window: nothing is known of it, and what is unsettled may count in it."""
        clock = self.ledger.clock
        if clock.known:
            old, start = self.ledger.start, self._start_of(clock.earliest(now))
            self.ledger.start = start
            self.ledger.turn_at = clock.local(start + self.interval)
            follows = start == old + self.interval
            self.ledger.old_sum = self.ledger.reported if follows else 0
            self.ledger.counter_turned_at = clock.local(start) + self._pause
            self.ledger.old_bound = (
                max(self.ledger.spent, self.ledger.reported + self.ledger.unsettled)
                if follows
                else 0
            )
            self._drop_doubts(lambda settled_from: clock.latest(settled_from) < start)
        else:
            self.ledger.turn_at = now + self.transit + self.interval
            self._drop_doubts(lambda settled_from: settled_from <= now - self.interval)
        self.ledger.epoch += 1
        self.ledger.spent = 0
        self.ledger.reported = 0
        self.ledger.silent_answers = 0
        self.ledger.suspect_sum = 0
        self.ledger.suspect_at = -inf
        self._distrust()

    def _may_go_ahead(self, weight: int, now: float) -> bool:
        if self.ledger.ahead and now < self.ledger.ahead_at + self._pause:
            return False
        if now < self.ledger.counter_turned_at and not self._fits_old_window(weight):
            return False
        return self.ledger.suspect_sum + self.ledger.unsettled + weight <= self.limit

    def _fits_old_window(self, weight: int) -> bool:
        """Tell whether a request would do no harm if it still counted in the window before."""
        return (
            not self.ledger.suspect_sum
            and self.ledger.old_bound + self.ledger.spent + weight <= self.limit
        )

    def _may_be_old(self, used: int) -> bool:
        """Tell whether a sum told in a window's first moments may be that of the window before.

        To believe a small one would cost little, and a full one is believed in any case.
        """
        return self.limit > used >= self.ledger.old_sum > self.capacity // 2

    def _distrust(self) -> None:
        """Let one request go ahead of the rest again."""
        self.ledger.trusted_until = -inf
        self.ledger.ahead = 0

    def _surely_in_window(self, lease: Lease, now: float, date: float | None) -> bool:
        # What was granted in this epoch left after the window's start; later answers may show
        # that of more. Before the first window there was none that an answer could belong to.
        if (
            lease.epoch != self.ledger.epoch
            and self.ledger.clock.earliest(lease.sent_at) < self.ledger.start
        ):
            return False
        if date is not None or self.ledger.start == -inf:
            return True
        return self.ledger.clock.latest(now) < self.ledger.start + self.interval

    def _close(self, lease: Lease) -> None:
        self.ledger.unsettled -= lease.weight
        if self.ledger.ahead == lease.number:
            self.ledger.ahead = 0

    def _doubt(self, weight: int, settled_from: float) -> None:
        self.ledger.unsettled += weight
        self.ledger.doubts.append((settled_from, weight))

    def _drop_doubts(self, settled: Callable[[float], bool]) -> None:
        dropped = sum(weight for since, weight in self.ledger.doubts if settled(since))
        self.ledger.doubts = [doubt for doubt in self.ledger.doubts if not settled(doubt[0])]
        self.ledger.unsettled -= dropped
        # Now the reported sum has them, or they never came.
        self.ledger.spent = max(self.ledger.reported, self.ledger.spent - dropped)

    def _freeze(self, now: float, report: Report, *, past: bool) -> None:
        """429: the limit was passed. Silent until Retry-After, and for the rest of the window."""
        if report.retry_after is not None:
            self.ledger.frozen_until = max(self.ledger.frozen_until, now + report.retry_after)
        if not past:
            self.ledger.reported = max(self.ledger.reported, self.limit)
            self.ledger.frozen_until = max(
                self.ledger.frozen_until,
                self.ledger.turn_at if self.ledger.clock.known else now + self.interval,
            )

    def _ban(self, now: float, report: Report) -> None:
        """418: silent until the later of the ends that header and text name, or a careful guess."""
        clock = self.ledger.clock
        exchange_now = clock.latest(now) if clock.known else report.wall
        # Whole seconds, so that all who read one answer tell the same end.
        end = float(ceil(exchange_now + report.retry_after)) if report.retry_after else -inf
        if report.banned_until is not None:
            end = max(end, report.banned_until)
        if end <= exchange_now:
            if now < self.ledger.ban_ends:
                return  # the ban is known; this answer adds nothing to it
            end = exchange_now + _FIRST_BAN * 2**self.ledger.bans
        if now >= self.ledger.ban_ends:
            self.ledger.bans += 1
        end = min(end, exchange_now + LONGEST_BAN)
        ends = clock.local(end) if clock.known else now + end - exchange_now
        if ends > self.ledger.ban_ends:
            self.ledger.ban_ends, self.ledger.ban_end_utc = ends, end
        self._distrust()
