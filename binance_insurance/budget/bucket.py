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

from msgspec import Struct

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
        open: whether it was neither settled nor given back yet.
    """

    weight: int
    sent_at: float
    epoch: int
    open: bool = True


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
        self.clock = ExchangeClock()
        self._trust = interval / _TRUST_SHARE
        self._pause = interval / _PAUSE_SHARE
        self._transit = min(_LONGEST_TRANSIT, float(interval))

        self._start = -inf  # of the window, by the exchange's clock; -inf before any date
        self._seen_date: float | None = None
        self._look_again_at = -inf
        self._turn_at = inf  # when the window has surely turned
        self._epoch = 0  # counts turns
        self._spent = 0
        self._reported = 0
        self._unsettled = 0
        self._doubts: list[tuple[float, int]] = []  # lost: (settled by an answer sent from, weight)
        self._trusted_until = -inf
        self._ahead: Lease | None = None
        self._suspect_sum = 0  # told early in this window, but perhaps the old one's
        self._suspect_at = -inf  # what was sent before cannot clear the suspicion
        self._old_sum = 0  # of the window before: the highest that was told,
        self._old_bound = 0  # and what it may have come to
        self._counter_turned_at = -inf
        self._silent_answers = 0
        self._frozen_until = -inf
        self._ban_ends = -inf
        self._ban_end_utc = 0.0
        self._bans = 0

    @property
    def available(self) -> int:
        """Weight that this window still has for us, at the least."""
        return max(0, self.capacity - max(self._spent, self._reported + self._unsettled))

    @property
    def unsettled(self) -> int:
        """Weight that was granted and is not known to be within the reported used weight."""
        return self._unsettled

    @property
    def used_weight(self) -> int | None:
        """The highest used weight that an answer of this window told, or None."""
        return self._reported or None

    def take(self, weight: int, now: float) -> Lease | None:
        """Grant `weight` now, or return None if it cannot be had now."""
        self.refresh(now)
        if now < self._frozen_until or now < self._ban_ends:
            return None
        if max(self._spent, self._reported + self._unsettled) + weight > self.capacity:
            return None
        lease = Lease(weight, now, self._epoch)
        if now >= self._trusted_until:
            if not self._may_go_ahead(weight, now):
                return None
            self._ahead = lease
        self._spent += weight
        self._unsettled += weight
        if not self.clock.known:
            self._turn_at = now + self._transit + self.interval
        return lease

    def settle(self, lease: Lease, now: float, report: Report | None) -> None:
        """Note the end of a request that was sent: what its answer reported, None if it was lost.

        A second call for a lease does nothing.
        """
        if not lease.open:
            return
        self._close(lease)
        if report is None:
            self._doubt(lease.weight, lease.sent_at + self._transit)
            return
        status, date, used = report.status, report.date, report.used_weight
        # Another answer of the same second teaches next to nothing about the clock.
        if date is None or (date == self._seen_date and now < self._look_again_at):
            self.refresh(now)
        else:
            self._observe(lease.sent_at, now, date)

        past = date is not None and date < self._start
        if status == _TOO_MANY_REQUESTS:
            self._freeze(now, report, past=past)
        elif status == _BANNED:
            self._ban(now, report)
        elif lease.sent_at >= self._ban_ends:
            self._bans = 0
        if past:
            return  # counted in a window that is over
        if used is None or not (
            (date is not None and lease.epoch == self._epoch)
            or self._surely_in_window(lease, now, date)
        ):
            self._doubt(lease.weight, min(now, lease.sent_at + self._transit))
            if used is None:
                self._silent_answers += 1
                if self._silent_answers >= _SILENT_ANSWERS:
                    self._trusted_until = now + self._trust
            return
        if lease.sent_at < self._counter_turned_at and self._may_be_old(used):
            self._doubt(lease.weight, now)
            self._suspect_sum = max(self._suspect_sum, used)
            self._suspect_at = now
            self._distrust()
            return
        self._silent_answers = 0
        if used > self._reported:
            self._reported = used
            if used > self._spent:
                self._spent = used
        if lease.sent_at >= self._suspect_at:
            self._suspect_sum = 0
            self._trusted_until = now + self._trust
        if self._doubts:
            self._drop_doubts(lambda settled_from: settled_from <= lease.sent_at)

    def give_back(self, lease: Lease) -> None:
        """Take back the weight of a request that was certainly never sent."""
        if lease.open:
            self._close(lease)
            if lease.epoch == self._epoch:
                self._spent -= lease.weight

    def ready_at(self, weight: int, now: float) -> float:
        """Return the earliest time at which `weight` in all may have been granted.

        A lower bound: other clients and lost answers can only make it later. Infinite if the
        weight of a single request never fits.
        """
        self.refresh(now)
        start = max(now, self._frozen_until)
        # What is in flight may yet come back unsent.
        left = self.capacity - max(self._spent - self._unsettled, self._reported)
        if weight <= left or not self.clock.known:
            return start
        windows = ceil((weight - max(left, 0)) / self.capacity)
        return max(start, self._turn_at + (windows - 1) * self.interval)

    def wake_at(self, weight: int, now: float) -> float:
        """Return when to try `weight` again, if no answer comes before that."""
        if now < self._frozen_until:
            return self._frozen_until
        if weight > self.available or self._suspect_sum + self._unsettled + weight > self.limit:
            return self._turn_at
        if now < self._counter_turned_at and not self._fits_old_window(weight):
            return self._counter_turned_at
        return self._turn_at if self._ahead is None else self._ahead.sent_at + self._pause

    def banned_until(self, now: float) -> float | None:
        """Return the end of the ban in seconds since 1970 by the exchange's clock, or None."""
        return self._ban_end_utc if now < self._ban_ends else None

    def frozen_until(self, now: float) -> float | None:
        """Return the end of the freeze in seconds since 1970 by the exchange's clock, or None."""
        if now >= self._frozen_until or not self.clock.known:
            return None
        return self.clock.earliest(self._frozen_until)

    def resets_at(self, now: float) -> float | None:
        """Return the next turn of the window in seconds since 1970, None before any answer."""
        if not self.clock.known:
            return None
        return self._start_of(self.clock.earliest(now)) + self.interval

    def outlook(self, now: float) -> str:
        """Say in words when something may be sent again."""
        end = self.banned_until(now) or self.frozen_until(now)
        if end is None:
            return "nothing is sent for now"
        return f"nothing is sent until {utc(end):%Y-%m-%d %H:%M:%S} UTC"

    def refresh(self, now: float) -> None:
        """Turn the window if it is time."""
        if now >= self._turn_at:
            self._turn(now)

    def _start_of(self, exchange_time: float) -> float:
        return exchange_time // self.interval * self.interval

    def _observe(self, sent: float, received: float, date: float) -> None:
        self._seen_date, self._look_again_at = date, received + _LOOK_AGAIN
        clock = self.clock
        clock.observe(sent, received, date)
        start = self._start_of(clock.earliest(received))
        if self._start == -inf:
            self._start = start  # what was sent before the first answer counts in this window
        elif start > self._start:
            self._turn(received)
        elif clock.latest(received) < self._start:
            # The exchange's clock was set back. What is known of its sum stays, but not the trust.
            self._start = start
            self._distrust()
        self._turn_at = clock.local(self._start + self.interval)

    def _turn(self, now: float) -> None:
        """Begin a new window: nothing is known of it, and what is unsettled may count in it."""
        clock = self.clock
        if clock.known:
            old, start = self._start, self._start_of(clock.earliest(now))
            self._start = start
            self._turn_at = clock.local(start + self.interval)
            follows = start == old + self.interval
            self._old_sum = self._reported if follows else 0
            self._counter_turned_at = clock.local(start) + self._pause
            self._old_bound = max(self._spent, self._reported + self._unsettled) if follows else 0
            self._drop_doubts(lambda settled_from: clock.latest(settled_from) < start)
        else:
            self._turn_at = now + self._transit + self.interval
            self._drop_doubts(lambda settled_from: settled_from <= now - self.interval)
        self._epoch += 1
        self._spent = 0
        self._reported = 0
        self._silent_answers = 0
        self._suspect_sum = 0
        self._suspect_at = -inf
        self._distrust()

    def _may_go_ahead(self, weight: int, now: float) -> bool:
        if self._ahead is not None and now < self._ahead.sent_at + self._pause:
            return False
        if now < self._counter_turned_at and not self._fits_old_window(weight):
            return False
        return self._suspect_sum + self._unsettled + weight <= self.limit

    def _fits_old_window(self, weight: int) -> bool:
        """Tell whether a request would do no harm if it still counted in the window before."""
        return not self._suspect_sum and self._old_bound + self._spent + weight <= self.limit

    def _may_be_old(self, used: int) -> bool:
        """Tell whether a sum told in a window's first moments may be that of the window before.

        To believe a small one would cost little, and a full one is believed in any case.
        """
        return self.limit > used >= self._old_sum > self.capacity // 2

    def _distrust(self) -> None:
        """Let one request go ahead of the rest again."""
        self._trusted_until = -inf
        self._ahead = None

    def _surely_in_window(self, lease: Lease, now: float, date: float | None) -> bool:
        # What was granted in this epoch left after the window's start; later answers may show
        # that of more. Before the first window there was none that an answer could belong to.
        if lease.epoch != self._epoch and self.clock.earliest(lease.sent_at) < self._start:
            return False
        if date is not None or self._start == -inf:
            return True
        return self.clock.latest(now) < self._start + self.interval

    def _close(self, lease: Lease) -> None:
        lease.open = False
        self._unsettled -= lease.weight
        if self._ahead is lease:
            self._ahead = None

    def _doubt(self, weight: int, settled_from: float) -> None:
        self._unsettled += weight
        self._doubts.append((settled_from, weight))

    def _drop_doubts(self, settled: Callable[[float], bool]) -> None:
        dropped = sum(weight for since, weight in self._doubts if settled(since))
        self._doubts = [doubt for doubt in self._doubts if not settled(doubt[0])]
        self._unsettled -= dropped
        # Now the reported sum has them, or they never came.
        self._spent = max(self._reported, self._spent - dropped)

    def _freeze(self, now: float, report: Report, *, past: bool) -> None:
        """429: the limit was passed. Silent until Retry-After, and for the rest of the window."""
        if report.retry_after is not None:
            self._frozen_until = max(self._frozen_until, now + report.retry_after)
        if not past:
            self._reported = max(self._reported, self.limit)
            self._frozen_until = max(
                self._frozen_until, self._turn_at if self.clock.known else now + self.interval
            )

    def _ban(self, now: float, report: Report) -> None:
        """418: silent until the later of the ends that header and text name, or a careful guess."""
        clock = self.clock
        exchange_now = clock.latest(now) if clock.known else report.wall
        end = exchange_now + (report.retry_after or 0.0)
        if report.banned_until is not None:
            end = max(end, report.banned_until)
        if end <= exchange_now:
            if now < self._ban_ends:
                return  # the ban is known; this answer adds nothing to it
            end = exchange_now + _FIRST_BAN * 2**self._bans
        if now >= self._ban_ends:
            self._bans += 1
        end = min(end, exchange_now + LONGEST_BAN)
        ends = clock.local(end) if clock.known else now + end - exchange_now
        if ends > self._ban_ends:
            self._ban_ends, self._ban_end_utc = ends, end
        self._distrust()
