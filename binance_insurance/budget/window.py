"""The token bucket: what may be sent at a given time. Pure decisions; the caller has the time.

How the exchange counts
-----------------------
For each IP it adds up the weight of every request, whoever sent it and whatever came of it, in
windows of its own UTC clock (`:00` to `:60` for the minute), and refuses what passes the limit.
Each answer reports the sum so far. The sum of the next window starts from zero.

How the bucket keeps below
--------------------------
Of the weight that was granted, some is *settled*: a believed answer reports a sum that includes
it. The rest is *unsettled*: in flight, or lost. So the exchange's sum is never more than

    reported + unsettled        (reported = the highest sum that was believed in this window)

but for what other clients have spent since. Where nodes of the exchange report a little late,
`spent` is a second bound: each reported sum plus what was granted since. The bucket grants weight
while the greater of both stays within limit - reserve. Three rules keep that true:

Placing
    An answer is believed if its request was granted in the window on which it reports. Otherwise
    its weight stays unsettled until the answer to a later request is believed. (A request whose
    answer was lost has arrived, or never will, `transit` seconds after it was sent.)
Probing
    Without a recent believed answer - at a cold start, in a new window, after a pause - one request
    is sent ahead, the probe. The others wait for its answer, or for interval/60.
Rollover
    A window ends when the exchange's date has surely turned, plus interval/60, since nobody has
    shown that the counter turns in the same instant as the date. Until then the old window's
    account holds, so nobody waits while it has weight left. Unsettled weight moves on into the new
    window, unless it has surely arrived before. A sum reported around a rollover may be either
    window's: it bounds every grant until the answer to a later request is believed.

Without any date, a window's worth of silence stands in for the turn of the date.
"""

from __future__ import annotations

from math import ceil, inf
from typing import TYPE_CHECKING

from .ledger import Early, Lease
from .refusals import BANNED, TOO_MANY_REQUESTS

if TYPE_CHECKING:
    from collections.abc import Callable

    from .ledger import Ledger
    from .report import Report
    from .settings import Settings

_TRUST_SHARE = 12  # an answer is recent for a twelfth of a window: 5 s of a minute
_PAUSE_SHARE = 60  # how long a probe is waited for, and the delay of a rollover: 1 s of a minute
_SILENT_ANSWERS = 3  # so many answers without a used weight in a row: this exchange reports none


class TokenBucket:
    """The three rules, applied to one ledger.

    Args:
        settings: limit and interval; the reserve is an argument of each grant.
        ledger: what is known; it is changed in place.
    """

    __slots__ = ("_pause", "interval", "ledger", "limit", "transit")

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.limit = settings.limit
        self.interval = settings.interval
        self.transit = settings.transit
        self.ledger = ledger
        self._pause = settings.interval / _PAUSE_SHARE

    def available(self, reserve: int) -> int:
        """Return the weight that this window still has for a caller with this reserve."""
        ledger = self.ledger
        used = max(ledger.spent, ledger.reported + ledger.unsettled) + reserve
        if ledger.early.used:
            used = max(used, ledger.early.used + ledger.unsettled)
        return max(0, self.limit - used)

    def take(self, weight: int, now: float, reserve: int) -> Lease | None:
        """Grant `weight` now, or return None if it cannot be had now."""
        ledger = self.ledger
        if now >= ledger.ends_at:
            self._roll_over(now)
        probing = now >= ledger.trusted_until
        if (
            weight > self.available(reserve)
            or (probing and now < ledger.probe_until)
            or ledger.refusals.forbid(now)
        ):
            return None
        ledger.spent += weight
        ledger.unsettled += weight
        lease = Lease(weight, now, ledger.window)
        if probing:
            ledger.probes += 1
            ledger.probe_until = now + self._pause
            lease.number = ledger.probes
        if not ledger.clock.known:
            ledger.ends_at = now + self.transit + self.interval
        return lease

    def settle(
        self, lease: Lease, now: float, report: Report | None, *, spread: float = 0.0
    ) -> None:
        """Record the end of a request that was sent.

        Args:
            lease: its weight.
            now: when its answer was here.
            report: what the answer reported; None if it was lost.
            spread: by how many seconds `now` may be too early.
        """
        ledger = self.ledger
        self._end_probe(lease)
        if report is None:
            self.lose(lease.weight, lease.sent_at)
            return
        date = report.date
        if date is not None:
            self._observe(lease, now, now + spread, date)
        self.refresh(now)
        if report.status == TOO_MANY_REQUESTS:
            self._freeze(now, report)
        elif report.status == BANNED:
            ledger.refusals.ban(now, report, ledger.clock)
            self._distrust()
        else:
            ledger.refusals.answered(lease.sent_at)
        if date is not None and date < ledger.window:
            ledger.unsettled -= lease.weight  # it was counted in a window that is over
        elif report.used_weight is None:
            ledger.lost.append((min(now, lease.sent_at + self.transit), lease.weight))
            ledger.silent += 1
            if ledger.silent >= _SILENT_ANSWERS:
                ledger.trusted_until = now + self.interval / _TRUST_SHARE
        elif self._is_placed(lease, now, date):
            self._believe(lease, now, report.used_weight)
        else:
            ledger.lost.append((now, lease.weight))
            ledger.early = Early(max(ledger.early.used, report.used_weight), now)

    def give_back(self, lease: Lease) -> None:
        """Take back the weight of a request that was certainly never sent."""
        self._end_probe(lease)
        self.ledger.unsettled -= lease.weight
        if lease.window == self.ledger.window:
            self.ledger.spent -= lease.weight

    def lose(self, weight: int, sent_before: float) -> None:
        """Count weight in flight as lost: what of it was sent was sent before a time."""
        self.ledger.lost.append((sent_before + self.transit, weight))

    def correct(self, weight: int) -> None:
        """Count weight that was granted and not written down; negative, the other way round."""
        ledger = self.ledger
        ledger.unsettled += weight
        ledger.spent = max(ledger.reported, ledger.spent + weight)

    def restart(self, own: int, now: float) -> None:
        """Go on from a copy: `own` weight will be counted again, that of others is lost."""
        ledger = self.ledger
        ledger.unsettled -= own
        others = ledger.unsettled - sum(weight for _, weight in ledger.lost)
        if others > 0:
            self.lose(others, now)
        ledger.spent = ledger.reported + ledger.unsettled
        self._distrust()

    def merge(self, other: Ledger) -> None:
        """Learn what another ledger knows of windows; its granted weight is not taken over."""
        mine = self.ledger
        if other.window > mine.window:
            mine.clock, mine.window, mine.ends_at = other.clock, other.window, other.ends_at
            mine.reported = mine.spent = 0
        if other.window == mine.window:
            mine.reported = max(mine.reported, other.reported)
            mine.spent = max(mine.spent, mine.reported)
        self._distrust()

    def may_grant(self, weight: int, now: float, reserve: int) -> bool:
        """Return whether a caller that waits for `weight` should try now."""
        ledger = self.ledger
        probe_is_out = now >= ledger.trusted_until and now < ledger.probe_until
        return (
            not probe_is_out
            and not ledger.refusals.forbid(now)
            and self.available(reserve) >= weight
        )

    def ready_at(self, weight: int, now: float, reserve: int) -> float:
        """Return the earliest time at which `weight` in all may have been granted.

        A lower bound: other clients and lost answers can only make it later.
        """
        self.refresh(now)
        ledger, capacity = self.ledger, self.limit - reserve
        start = max(now, ledger.refusals.frozen_until)
        # What is in flight may yet come back unsent.
        left = capacity - max(ledger.spent - ledger.unsettled, ledger.reported)
        if weight <= left or not ledger.clock.known:
            return start
        windows = ceil((weight - max(left, 0)) / capacity)
        return max(start, ledger.ends_at + (windows - 1) * self.interval)

    def wake_at(self, weight: int, now: float, reserve: int) -> float:
        """Return when to try `weight` again, if no answer comes before that."""
        ledger = self.ledger
        if now < ledger.refusals.frozen_until:
            return ledger.refusals.frozen_until
        if weight > self.available(reserve) or now >= ledger.probe_until:
            return ledger.ends_at
        return ledger.probe_until

    def resets_at(self, now: float) -> float | None:
        """Return the next window's start in seconds since 1970, None before any answer."""
        clock = self.ledger.clock
        return self._start_of(clock.earliest(now)) + self.interval if clock.known else None

    def refresh(self, now: float) -> None:
        """Roll the window over if it is time."""
        if now >= self.ledger.ends_at:
            self._roll_over(now)

    def _start_of(self, exchange_time: float) -> float:
        return exchange_time // self.interval * self.interval

    def _observe(self, lease: Lease, now: float, received: float, date: float) -> None:
        """Learn from a date, and when the window ends by what is known now."""
        ledger, clock = self.ledger, self.ledger.clock
        first = not clock.known
        if not clock.observe(lease.sent_at, received, date):
            return
        if first or clock.latest(received) < ledger.window:
            # The first answer opens the window that it names, and so does one after the exchange's
            # clock was set back. What is known of the sum stays, but not the trust.
            lease.window = ledger.window = self._start_of(date)
            self._distrust()
        ledger.ends_at = self._end_of(ledger.window)

    def _end_of(self, window: float) -> float:
        return self.ledger.clock.local(window + self.interval) + self._pause

    def _roll_over(self, now: float) -> None:
        """Begin a new window: nothing is known of it, and what is unsettled may count in it."""
        ledger, clock = self.ledger, self.ledger.clock
        if clock.known:
            start = max(
                ledger.window + self.interval, self._start_of(clock.earliest(now) - self._pause)
            )
            ledger.window, ledger.ends_at = start, self._end_of(start)
            self._settle_lost(lambda settled_from: clock.latest(settled_from) < start)
            if clock.latest(ledger.early.at) < start:
                ledger.early = Early()
        else:
            ledger.window += self.interval
            ledger.ends_at = now + self.transit + self.interval
            self._settle_lost(lambda settled_from: settled_from <= now - self.interval)
        ledger.spent = ledger.reported = ledger.silent = 0
        self._distrust()

    def _distrust(self) -> None:
        """Let one request be sent ahead of the rest again."""
        self.ledger.trusted_until = self.ledger.probe_until = -inf

    def _is_placed(self, lease: Lease, now: float, date: float | None) -> bool:
        """Return whether a request was granted in this window, and its answer reports on it."""
        ledger, clock = self.ledger, self.ledger.clock
        if lease.window != ledger.window:
            return False
        if date is not None:
            return date < ledger.window + self.interval
        return not clock.known or clock.latest(now) < ledger.window + self.interval

    def _believe(self, lease: Lease, now: float, used: int) -> None:
        ledger = self.ledger
        ledger.unsettled -= lease.weight
        ledger.silent = 0
        if used > ledger.reported:
            ledger.reported = used
            if used > ledger.spent:
                ledger.spent = used
        ledger.trusted_until = now + self.interval / _TRUST_SHARE
        if ledger.early.used and lease.sent_at >= ledger.early.at:
            ledger.early = Early()
        if ledger.lost:
            self._settle_lost(lambda settled_from: settled_from <= lease.sent_at)

    def _end_probe(self, lease: Lease) -> None:
        if lease.number and lease.number == self.ledger.probes:
            self.ledger.probe_until = -inf

    def _settle_lost(self, settled: Callable[[float], bool]) -> None:
        ledger = self.ledger
        kept = [entry for entry in ledger.lost if not settled(entry[0])]
        dropped = sum(weight for _, weight in ledger.lost) - sum(weight for _, weight in kept)
        ledger.lost = kept
        ledger.unsettled -= dropped
        # Now the reported sum has them, or they never came.
        ledger.spent = max(ledger.reported, ledger.spent - dropped)

    def _freeze(self, now: float, report: Report) -> None:
        """Be silent until Retry-After, and for the rest of the window that was passed."""
        ledger = self.ledger
        until = now + (report.retry_after or 0.0)
        if not ledger.clock.known:
            until = max(until, now + self.interval)
        elif report.date is None or report.date >= ledger.window:
            window = ledger.window if report.date is None else self._start_of(report.date)
            until = max(until, self._end_of(window))
        ledger.refusals.freeze(until)
