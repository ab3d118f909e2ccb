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
    answer was lost has arrived, or never will, `transit` seconds after it was sent.) So it is with
    a sum below the highest. Where such answers alone stand in the way, requests go one at a time.
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

from .ledger import COUNTED, Early, Lease
from .refusals import BANNED

if TYPE_CHECKING:
    from .ledger import Kind, Ledger
    from .report import Report
    from .settings import Settings

_TRUST_SHARE = 12  # an answer is recent for a twelfth of a window: 5 s of a minute
_PAUSE_SHARE = 60  # how long a probe is waited for, and the delay of a rollover: 1 s of a minute
_OK = 200
_SILENT_ANSWERS = 3  # so many answers without a used weight in a row: this exchange reports none


class TokenBucket:
    """The three rules, applied to one ledger.

    Args:
        settings: limit and interval; the reserve is an argument of each grant.
        ledger: what is known; it is changed in place.
    """

    __slots__ = ("_pause", "_trust", "interval", "ledger", "limit", "transit")

    def __init__(self, settings: Settings, ledger: Ledger) -> None:
        self.limit: int = settings.limit
        self.interval: float = settings.interval
        self.transit: float = settings.transit
        self.ledger: Ledger = ledger
        self._pause = settings.interval / _PAUSE_SHARE
        self._trust = settings.interval / _TRUST_SHARE

    def refresh(self, now: float) -> None:
        """Roll the window over if it is time."""
        if now >= self.ledger.ends_at:
            self._roll_over(now)

    def room(self, reserve: int, overtaken: int = 0, early: int = 0) -> int:
        """Return the weight left, maybe below 0, if so much that was answered is in the sums."""
        ledger = self.ledger
        spent, counted = ledger.spent, ledger.reported + ledger.unsettled - overtaken
        # max() would take a tenth of an acquire.
        left = self.limit - reserve - (spent if spent > counted else counted)  # noqa: FURB136
        if ledger.early.used:
            left = min(left, self.limit - ledger.early.used - ledger.unsettled + early)
        return left

    def take(self, weight: int, now: float, reserve: int) -> Lease | None:
        """Grant `weight` now, or return None if it cannot be had now."""
        ledger = self.ledger
        if now >= ledger.ends_at:
            self._roll_over(now)
        free = not weight
        fits, trusted = free or weight <= self.room(reserve), free or now < ledger.trusted_until
        ahead, refusals = not (fits and trusted), ledger.refusals
        if (
            (ahead and now < ledger.probe_until)
            or not (fits or self._only_overtaken(weight, reserve))
            or now < refusals.frozen_until
            or now < refusals.ban_ends
        ):
            return None
        ledger.spent += weight
        ledger.unsettled += weight
        lease = Lease(weight, now, ledger.window, reserve=reserve)
        if ahead:
            ledger.probe_until = now + self._pause
        if not trusted:
            ledger.probes += 1
            lease.number = ledger.probes
        if ledger.window < 0.0:  # no date is known
            ledger.ends_at = now + self.transit + self.interval
        return lease

    def confirm(self, lease: Lease, now: float) -> bool:
        """Return whether a request that was granted may be sent now.

        Not if a refusal came, if others took the weight, or without trust unless it is the probe.
        """
        ledger, free, reserve = self.ledger, not lease.weight, lease.reserve
        if now >= ledger.ends_at:
            self._roll_over(now)
        return (
            (free or now < ledger.trusted_until or 0 < lease.number == ledger.probes)
            and not ledger.refusals.forbid(now)
            and (free or self.room(reserve) >= 0 or self._only_overtaken(0, reserve))
        )

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
        if lease.number:
            self._end_probe(lease)
        if report is None:
            self.lose(lease.weight, lease.sent_at)
            return
        self.observe(lease, now, report, spread=spread)
        date, used, free = report.date, report.used_weight, not lease.weight
        if date is not None and date < ledger.window:
            ledger.unsettled -= lease.weight  # it was counted in a window that is over
        elif used is None:
            settled_from = min(now, lease.sent_at + self.transit)
            ledger.lose(lease.weight, settled_from, "answered")
            ledger.silent += report.counts and not free
            if ledger.silent >= _SILENT_ANSWERS and lease.sent_at >= ledger.refusals.frozen_until:
                ledger.trusted_until = now + self._trust
        elif lease.window == ledger.window and self._is_of_this_window(date, now):
            self._believe(lease, now, used)
        else:
            ledger.lose(lease.weight, now, "early")
            ledger.early = Early(max(ledger.early.used, used), max(ledger.early.at, now))

    def observe(self, lease: Lease, now: float, report: Report, *, spread: float) -> None:
        """Learn from an answer all but what became of its weight: the time, and refusals."""
        ledger, date, refused = self.ledger, report.date, report.status != _OK
        if refused and report.status == BANNED and ledger.clock.known:
            date = None  # it may be anything; the clock that other answers showed stands
        if date is not None and ledger.clock.observe(lease.sent_at, now + spread, date):
            self._adjust(lease, now + spread, date)
        if now >= ledger.ends_at:
            self._roll_over(now)
        if refused:
            self._react(lease.sent_at + spread, now + spread, report)

    def give_back(self, lease: Lease) -> None:
        """Take back the weight of a request that was certainly never sent."""
        if lease.number:
            self._end_probe(lease)
        self.ledger.unsettled -= lease.weight
        if lease.window == self.ledger.window:
            self.ledger.spent -= lease.weight

    def lose(self, weight: int, sent_before: float) -> None:
        """Count weight in flight as lost: what of it was sent was sent before a time."""
        self.ledger.lose(weight, sent_before + self.transit)

    def restart(self, own: int, now: float) -> None:
        """Go on from a copy: `own` weight will be counted again, that of others is lost."""
        ledger = self.ledger
        ledger.unsettled -= own
        others = ledger.unsettled - sum(each.weight for each in ledger.lost)
        if others > 0:
            self.lose(others, now)
        ledger.spent = ledger.reported + ledger.unsettled
        ledger.distrust()

    def may_grant(self, weight: int, now: float, reserve: int) -> bool:
        """Return whether a caller that waits for `weight` should try now."""
        ledger, fits = self.ledger, weight <= self.room(reserve)
        if (not fits or now >= ledger.trusted_until) and now < ledger.probe_until:
            return False
        return not ledger.refusals.forbid(now) and (fits or self._only_overtaken(weight, reserve))

    def ready_at(self, weight: int, now: float, reserve: int) -> float:
        """Return the earliest time at which `weight` in all may have been granted.

        A lower bound: other clients and lost answers can only make it later.
        """
        self.refresh(now)
        ledger, capacity = self.ledger, self.limit - reserve
        start = max(now, ledger.refusals.frozen_until)
        # What is in flight may yet come back unsent.
        left = capacity - max(ledger.spent - ledger.unsettled, ledger.reported)
        if weight <= left or ledger.window < 0.0:
            return start
        windows = ceil((weight - max(left, 0)) / capacity)
        return max(start, ledger.ends_at + (windows - 1) * self.interval)

    def wake_at(self, weight: int, now: float, reserve: int) -> float:
        """Return when to try `weight` again, if no answer comes before that."""
        ledger = self.ledger
        if now < ledger.refusals.frozen_until:
            return ledger.refusals.frozen_until
        fits = weight <= self.room(reserve) or self._only_overtaken(weight, reserve)
        return ledger.probe_until if fits and now < ledger.probe_until else ledger.ends_at

    def resets_at(self, now: float) -> float | None:
        """Return the next window's start in seconds since 1970, None before any answer."""
        clock = self.ledger.clock
        start = max(self.ledger.window, self._start_of(clock.earliest(now)))
        return start + self.interval if clock.known else None

    def _only_overtaken(self, weight: int, reserve: int) -> bool:
        """Return whether one request may go: only overtaken or early answers are in its way."""
        overtaken, early = self.ledger.answered("overtaken"), self.ledger.answered("early")
        return overtaken + early > 0 and weight <= self.room(reserve, overtaken, early)

    def _start_of(self, exchange_time: float) -> float:
        return exchange_time // self.interval * self.interval

    def _adjust(self, lease: Lease, received: float, date: float) -> None:
        """Know from a date that taught something when the window ends."""
        ledger = self.ledger
        if ledger.window < 0.0 or ledger.clock.latest(received) < ledger.window:
            # The first answer opens the window that it names, and so does one after the exchange's
            # clock was set back. What is known of the sum stays, but not the trust.
            lease.window = ledger.window = self._start_of(date)
            ledger.distrust()
        ledger.ends_at = self._end_of(ledger.window)

    def _end_of(self, window: float) -> float:
        return self.ledger.clock.local(window + self.interval) + self._pause

    def _roll_over(self, now: float) -> None:
        """Begin a new window: nothing is known of it, and what is unsettled may count in it."""
        ledger, clock = self.ledger, self.ledger.clock
        if ledger.window >= 0.0:
            start = max(
                ledger.window + self.interval, self._start_of(clock.earliest(now) - self._pause)
            )
            ledger.window, ledger.ends_at = start, self._end_of(start)
            ledger.settle_lost(
                lambda each: each.kind in COUNTED or clock.latest(each.settled_from) < start
            )
            if clock.latest(ledger.early.at) < start:
                ledger.early = Early()
        else:
            ledger.window += self.interval
            ledger.ends_at = now + self.transit + self.interval
            ledger.settle_lost(lambda each: each.settled_from <= now - self.interval)
        ledger.spent = ledger.reported = ledger.silent = 0
        ledger.trusted_until = -inf  # a probe that is out stays the one that the rest waits for

    def _is_of_this_window(self, date: float | None, now: float) -> bool:
        """Return whether an answer that came at `now` reports on this window, not a later one."""
        ledger, end = self.ledger, self.ledger.window + self.interval
        if date is not None:
            return date < end
        return ledger.window < 0.0 or ledger.clock.latest(now) < end

    def _believe(self, lease: Lease, now: float, used: int) -> None:
        ledger = self.ledger
        ledger.silent = 0
        if lease.sent_at >= ledger.refusals.frozen_until:  # else a refusal came since
            ledger.trusted_until = now + self._trust
        if used < ledger.reported:
            kind: Kind = "overtaken" if lease.sent_at < ledger.reported_at else "lagging"
            ledger.lose(lease.weight, now, kind)
            return
        ledger.unsettled -= lease.weight
        if used > ledger.reported:
            ledger.reported, ledger.reported_at = used, now
            if used > ledger.spent:
                ledger.spent = used
        if ledger.early.used and lease.sent_at >= ledger.early.at:
            ledger.early = Early()
        if ledger.lost:
            ledger.settle_lost(lambda each: each.settled_from <= lease.sent_at)

    def _end_probe(self, lease: Lease) -> None:
        if lease.number == self.ledger.probes:
            self.ledger.probe_until = -inf

    def _react(self, sent_at: float, now: float, report: Report) -> None:
        """React to a refusal: one request goes first when it is over."""
        ledger, date = self.ledger, report.date
        if report.freezes:
            ends = now + self.interval
            if ledger.window >= 0.0:
                ends = self._end_of(
                    self._start_of(ledger.clock.latest(now) if date is None else date)
                )
            ledger.refusals.freeze(
                sent_at, now, report.retry_after or 0.0, ends - self.interval, ends
            )
            ledger.trusted_until = -inf
        elif report.status == BANNED:
            ledger.refusals.ban(now, report, ledger.clock)
            ledger.trusted_until = -inf
