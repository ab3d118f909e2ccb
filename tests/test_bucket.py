"""The token bucket against a reference exchange, in a simulation without any event loop.

The reference is written from the exchange's rules and knows nothing of the bucket: it counts
every arrival in windows of its own clock and refuses what passes the limit. A refusal is excused
only by other clients' weight that came after the last answer which the client could have read.
An answer can be read if it came back before the refused request left, reports a used weight, and
can be placed in the window: its request left when the window was known to have begun.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from math import floor, inf
from random import Random
from typing import TYPE_CHECKING, Any, Self

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from binance_insurance.budget import Lease, Report
from binance_insurance.budget.ledger import Ledger
from binance_insurance.budget.settings import Settings
from binance_insurance.budget.window import TokenBucket

from .scale import sample

if TYPE_CHECKING:
    from collections.abc import Callable

LOCAL_START = 5_000.0


class Schedule(Struct, frozen=True, kw_only=True):
    """What the world does in one simulated run."""

    limit: int
    reserve: int
    interval: int
    offset: float  # the exchange's clock against the local one's reading of the time
    phase: float  # where in its window the exchange is at the start
    windows: int
    concurrency: int
    least_latency: float
    most_latency: float
    other_rate: float  # weight per second, as single arrivals at random times
    bursts: tuple[tuple[float, int], ...]  # (share of the run, weight) from other clients
    lost: float  # share of answers that never come back, or requests that never arrive
    mute: float  # share of answers without the used weight
    given_up_after: float
    weights: tuple[int, ...]
    idle: float  # share of requests that come only after a pause
    counter_lag: float  # by how much the counter's windows begin later than the date's
    seed: int


class ReferenceExchange:
    """Counts as the exchange does; its clock is `local + shift`."""

    def __init__(self, limit: int, interval: int, shift: float) -> None:
        self.limit, self.interval, self.shift = limit, interval, shift
        self.others: list[tuple[float, int]] = []  # (exchange time, weight)
        self.ours: Counter[int] = Counter()  # weight by window
        self._window, self._used = -1, 0

    def count(self, local: float, weight: int, *, ours: bool) -> int:
        """Count an arrival and return the sum of its window."""
        at = local + self.shift
        window = floor(at / self.interval)
        if window != self._window:
            self._window, self._used = window, 0
        self._used += weight
        if ours:
            self.ours[window] += weight
        else:
            self.others.append((at, weight))
        return self._used

    def others_in(self, window: int, *, since: float = -inf) -> int:
        """Weight of other clients in a window, from a time of the exchange's clock on."""
        return sum(
            weight
            for at, weight in self.others
            if at > since and floor(at / self.interval) == window
        )


class Simulation:
    """A discrete run of one schedule: the bucket, the exchange, and work always waiting."""

    def __init__(self, schedule: Schedule) -> None:
        self.schedule = schedule
        interval = schedule.interval
        start_utc = 1_790_000_000 // interval * interval + schedule.phase
        self.shift = start_utc - LOCAL_START + schedule.offset
        self.end = LOCAL_START + schedule.windows * interval
        # The counter runs on this clock, dates on the one above.
        self.count_shift = self.shift - schedule.counter_lag
        self.exchange = ReferenceExchange(schedule.limit, interval, self.count_shift)
        settings = Settings(schedule.limit, interval, schedule.reserve)
        self.bucket = TokenBucket(settings, Ledger())
        self.unexcused: list[str] = []
        self.most_in_flight = 0  # or lost; not what was answered out of order
        # Windows in whose first moments the sum of the one before came, as high as the limit.
        self.seem_used_up: set[int] = set()
        self._chance = Random(schedule.seed)
        self._events: list[tuple[float, int, Callable[[float], None]]] = []
        self._order = count()
        self._in_flight = 0
        self._woken_at = inf
        self._resume_at = LOCAL_START
        self._next_weight = self._chance.choice(schedule.weights)
        # By window: when a date first proved it, and when the newest answer was counted that was
        # read and can be placed in it.
        self._proved_at: dict[int, float] = {}
        self._newest: dict[int, float] = {}

    def run(self) -> Self:
        """Play until nothing is left to happen."""
        self._let_others_spend()
        self._at(LOCAL_START, lambda _: None)
        while self._events:
            now, _, happen = heapq.heappop(self._events)
            happen(now)
            self._send_what_may_be_sent(now)
        return self

    def full_windows(self) -> range:
        """The windows that lie whole within the run."""
        first = floor((LOCAL_START + self.count_shift) / self.schedule.interval) + 1
        return range(first, floor((self.end + self.count_shift) / self.schedule.interval))

    def _at(self, time: float, happen: Callable[[float], None]) -> None:
        heapq.heappush(self._events, (time, next(self._order), happen))

    def _let_others_spend(self) -> None:
        def spend(weight: int) -> Callable[[float], None]:
            return lambda now: void(self.exchange.count(now, weight, ours=False))

        others = int(self.schedule.other_rate * (self.end - LOCAL_START))
        for _ in range(others):
            self._at(self._chance.uniform(LOCAL_START, self.end), spend(1))
        for share, weight in self.schedule.bursts:
            self._at(LOCAL_START + share * (self.end - LOCAL_START), spend(weight))

    def _send_what_may_be_sent(self, now: float) -> None:
        while self._in_flight < self.schedule.concurrency and self._resume_at <= now < self.end:
            lease = self.bucket.take(self._next_weight, now, self.schedule.reserve)
            if lease is None:
                wake = self.bucket.wake_at(self._next_weight, now, self.schedule.reserve)
                if wake < self._woken_at or self._woken_at <= now:
                    self._woken_at = max(wake, now)
                    self._at(self._woken_at, lambda _: None)
                return
            self._send(lease, now)
            self._next_weight = self._chance.choice(self.schedule.weights)
            if self._chance.random() < self.schedule.idle:
                self._resume_at = now + self._chance.uniform(0, self.schedule.interval)
                self._at(self._resume_at, lambda _: None)

    def _send(self, lease: Lease, now: float) -> None:
        self._in_flight += 1
        self.most_in_flight = max(self.most_in_flight, self.bucket.ledger.in_flight)
        schedule, chance = self.schedule, self._chance
        latency = chance.uniform(schedule.least_latency, schedule.most_latency)
        up = latency * chance.random()
        read = self._newest.copy()
        lost = chance.random() < schedule.lost
        if lost:
            self._at(now + schedule.given_up_after, lambda at: self._end(lease, at, None))
        if not lost:
            self._at(now + up, lambda at: self._arrive(lease, at, read, down=latency - up))
        elif chance.random() < 0.7:
            self._at(now + up, lambda at: self._arrive(lease, at, read, down=None))

    def _arrive(
        self, lease: Lease, now: float, read: dict[int, float], *, down: float | None
    ) -> None:
        schedule, shift = self.schedule, self.count_shift
        used = self.exchange.count(now, lease.weight, ours=True)
        window = floor((now + shift) / schedule.interval)
        refused = used > schedule.limit
        if refused:
            unread = self.exchange.others_in(window, since=read.get(window, -inf) + shift)
            if used - unread > schedule.limit:
                self.unexcused.append(f"at {now + shift}: {used}, of which unread {unread}")
        if down is not None:
            # The sum is that of the arrival, the date may be later: the worse case for us.
            date = float(floor(now + down * self._chance.random() + self.shift))
            used_weight = None if self._chance.random() < schedule.mute else used
            report = Report(429 if refused else 200, used_weight, date)
            self._at(now + down, lambda at: self._read(lease, at, report, window, now))

    def _read(self, lease: Lease, now: float, report: Report, window: int, counted: float) -> None:
        assert report.date is not None
        interval = self.schedule.interval
        dated = floor(report.date / interval)
        self._proved_at.setdefault(dated, now)
        if dated > window and (report.used_weight or 0) >= self.schedule.limit:
            self.seem_used_up.add(dated)
        # Latency and the whole seconds of a date make the window certain after this long.
        certain = window * interval - self.count_shift + 1.01 + self.schedule.most_latency
        known_at = min(self._proved_at.get(window, inf), certain)
        if report.used_weight is not None and lease.sent_at >= known_at:
            self._newest[window] = max(self._newest.get(window, -inf), counted)
        self._end(lease, now, report)

    def _end(self, lease: Lease, now: float, report: Report | None) -> None:
        self._in_flight -= 1
        self.bucket.settle(lease, now, report)


def void(_: object) -> None:
    """Drop a value."""


@st.composite
def schedules(draw: st.DrawFn) -> Schedule:
    """Anything that may happen, gentle or not."""
    limit = draw(st.sampled_from([20, 100, 400, 2400]))
    interval = draw(st.sampled_from([2, 5, 10, 60]))
    latency = draw(st.floats(0.001, 2.0))
    return Schedule(
        limit=limit,
        reserve=draw(st.integers(0, limit // 2)),
        interval=interval,
        offset=draw(st.floats(-60, 60)),
        phase=draw(st.floats(0, interval, exclude_max=True)),
        windows=draw(st.integers(2, 4)),
        concurrency=draw(st.sampled_from([1, 3, 10, 40])),
        least_latency=latency * draw(st.floats(0.1, 1.0)),
        most_latency=latency,
        other_rate=draw(st.sampled_from([0.0, 0.2, 1.0])) * limit / interval,
        bursts=tuple(draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, limit)), max_size=4))),
        lost=draw(st.sampled_from([0.0, 0.01, 0.3])),
        mute=draw(st.sampled_from([0.0, 0.0, 0.05, 1.0])),
        given_up_after=draw(st.floats(2.0, 10.0)),
        weights=draw(st.sampled_from([(1,), (1,), (1, 1, 5)])),
        idle=draw(st.sampled_from([0.0, 0.0, 0.01])),
        counter_lag=0.0,
        seed=draw(st.integers(0, 2**32)),
    )


def calm(limit: int, interval: int, **changes: Any) -> Schedule:
    """Nothing reserved, no faults, no other clients, but for the changes."""
    least, most = changes.pop("latency", (0.5, 0.5))
    quiet: dict[str, Any] = {
        "reserve": 0,
        "offset": 0.0,
        "phase": 0.0,
        "windows": 4,
        "concurrency": 10,
        "other_rate": 0.0,
        "bursts": (),
        "lost": 0.0,
        "mute": 0.0,
        "given_up_after": 5.0,
        "weights": (1,),
        "idle": 0.0,
        "counter_lag": 0.0,
        "seed": 0,
    }
    return Schedule(
        limit=limit,
        interval=interval,
        least_latency=least,
        most_latency=most,
        **(quiet | changes),
    )


@pytest.mark.campaign
# Each of the examples was a refusal by our own weight, with a bucket that lacked what stands beside
# it. The first window has no delay.
@example(calm(20, 2))
@example(calm(20, 2, mute=1.0))
# A sum reported around a rollover bounds every grant, not the probes alone.
@example(
    calm(
        100,
        10,
        offset=1.0,
        phase=9.0,
        latency=(0.04, 0.11),
        other_rate=10.0,
        bursts=((0.0, 62),),
        weights=(1, 1, 5),
    )
)
# The first believed answer does not clear it, since answers overtake each other.
@example(calm(100, 2, reserve=2, concurrency=40, latency=(0.001, 0.008), mute=0.05))
# Lost weight is dropped only when it was surely counted before the rollover.
@example(calm(100, 10, offset=-53.0, latency=(1.2, 1.5), other_rate=10.0, bursts=((0.19, 72),)))
# A probe that fails lets the next one go at once.
@example(calm(20, 5, phase=2.0, latency=(1.0, 1.0), bursts=((0.06, 5),)))
@given(schedules())
@settings(max_examples=sample(200, 5000), deadline=None)
def test_no_429_but_for_weight_of_other_clients_that_no_answer_had_reported(
    schedule: Schedule,
) -> None:
    assert Simulation(schedule).run().unexcused == []


@st.composite
def busy_schedules(draw: st.DrawFn) -> Schedule:
    """Work always waiting, connections enough, and at most 1 % of the limit in flight."""
    limit = draw(st.sampled_from([1200, 2400]))
    interval = draw(st.sampled_from([20, 60]))
    concurrency = limit // 200
    # 1 % of the limit, the other half of it for answers that were lost and not settled yet
    latency = draw(st.floats(0.002, 0.6 * interval * concurrency / limit))
    requests_in_transit = 10.0 * limit / interval
    return Schedule(
        limit=limit,
        reserve=draw(st.integers(0, limit // 2)),
        interval=interval,
        offset=draw(st.floats(-60, 60)),
        phase=draw(st.floats(0, interval, exclude_max=True)),
        windows=3,
        concurrency=concurrency,
        least_latency=latency * draw(st.floats(0.1, 1.0)),
        most_latency=latency,
        other_rate=draw(st.floats(0.0, 0.3)) * limit / interval,
        bursts=(),
        lost=draw(st.sampled_from([0.0, 0.5])) * 0.25 * concurrency / requests_in_transit,
        mute=0.0,
        given_up_after=5.0,
        weights=(1,),
        idle=0.0,
        counter_lag=0.0,
        seed=draw(st.integers(0, 2**32)),
    )


@pytest.mark.campaign
# A window in which nothing went, since what was answered around its begin was counted twice.
@example(
    calm(
        2400,
        20,
        offset=-28.75,
        windows=3,
        concurrency=12,
        latency=(0.03252410888671875, 0.056640625),
        other_rate=9.375,
        seed=1,
    )
)
@given(busy_schedules())
@settings(max_examples=sample(30, 500), deadline=None)
def test_under_load_it_uses_98_percent_of_what_others_leave(schedule: Schedule) -> None:
    run = Simulation(schedule).run()
    assume(run.most_in_flight <= schedule.limit / 100)
    assert run.unexcused == []
    for window in set(run.full_windows()) - run.seem_used_up:
        ours, others = run.exchange.ours[window], run.exchange.others_in(window)
        left = schedule.limit - schedule.reserve - others
        assert ours >= 0.98 * left, f"window {window}: {ours} of {left}"


@pytest.mark.parametrize("lag", [0.001, 0.05, 0.1, 0.5, 0.9])
def test_a_counter_that_lags_behind_its_date_costs_no_window(lag: float) -> None:
    schedule = Schedule(
        limit=2400,
        reserve=480,
        interval=60,
        offset=-43.0,
        phase=30.0,
        windows=6,
        concurrency=12,
        least_latency=0.005,
        most_latency=0.02,
        other_rate=0.0,
        bursts=(),
        lost=0.0,
        mute=0.0,
        given_up_after=5.0,
        weights=(1,),
        idle=0.0,
        counter_lag=lag,
        seed=1,
    )
    run = Simulation(schedule).run()
    assert run.unexcused == []
    assert min(run.exchange.ours[window] for window in run.full_windows()) >= 0.98 * 1920


NOON = 1_790_000_040.0  # a full minute of the exchange's clock
SECOND_IN = 5_001.0  # the local time one second into that minute


class Minute(TokenBucket):
    """A bucket of one minute's windows, asked with one reserve."""

    def __init__(self, limit: int, reserve: int) -> None:
        super().__init__(Settings(limit, 60, reserve), Ledger())
        self.reserve = reserve

    @property
    def left(self) -> int:
        return max(0, self.room(self.reserve))

    @property
    def used_weight(self) -> int | None:
        return self.ledger.reported or None

    def grant(self, weight: int, now: float) -> Lease | None:
        return self.take(weight, now, self.reserve)

    def wakes_at(self, weight: int, now: float) -> float:
        return self.wake_at(weight, now, self.reserve)

    def ready(self, weight: int, now: float) -> float:
        return self.ready_at(weight, now, self.reserve)

    def banned_until(self, now: float) -> float | None:
        return self.ledger.refusals.banned_until(now)

    def frozen_until(self, now: float) -> float | None:
        return self.ledger.refusals.freeze_ends(now, self.ledger.clock)


def minute_bucket(limit: int = 100, reserve: int = 10) -> Minute:
    """A bucket of one minute's windows that no client has used yet."""
    return Minute(limit, reserve)


def take(bucket: Minute, now: float, weight: int = 1) -> Lease:
    lease = bucket.grant(weight, now)
    assert lease is not None
    return lease


def reported(used: int | None, local: float, status: int = 200, **more: Any) -> Report:
    """An answer made at a local time, where the exchange's clock is 5,000 s behind `NOON`."""
    return Report(status, used, float(floor(NOON + local - 5_000.0)), **more)


def opened(bucket: Minute, used: int = 1, now: float = SECOND_IN) -> Minute:
    """Make the first request of a window and read its answer at once."""
    bucket.settle(take(bucket, now), now, reported(used, now))
    return bucket


def test_at_a_cold_start_one_probe_is_sent_and_the_rest_when_it_is_answered() -> None:
    bucket = minute_bucket()
    probe = take(bucket, SECOND_IN)
    assert bucket.grant(1, SECOND_IN) is None
    bucket.settle(probe, SECOND_IN + 0.1, reported(40, SECOND_IN))
    assert bucket.left == 100 - 10 - 40
    leases = [bucket.grant(1, SECOND_IN + 0.1) for _ in range(60)]
    assert sum(lease is not None for lease in leases) == 50


def test_a_used_up_window_is_waited_for_until_it_is_surely_over_and_a_sixtieth_more() -> None:
    bucket = opened(minute_bucket(), used=90, now=5_001.9)
    assert bucket.grant(1, 5_002.0) is None
    # After one date the exchange's clock is known to a second: it may not be the next minute yet.
    assert bucket.grant(1, 5_060.9) is None
    wake = bucket.wakes_at(1, 5_060.9)
    assert 5_060.9 < wake <= 5_062.0
    probe = take(bucket, wake)
    assert bucket.grant(1, wake) is None
    bucket.settle(probe, wake + 0.1, reported(1, wake))
    assert bucket.left == 89


def test_a_date_in_the_new_window_lets_it_open_earlier() -> None:
    opens: list[float] = []
    for dated in (5_060.05, 5_059.9):
        bucket = opened(minute_bucket(), used=89, now=5_001.9)
        bucket.settle(take(bucket, 5_059.9), 5_060.1, reported(90, dated))
        assert bucket.grant(1, 5_060.9) is None
        opens.append(bucket.wakes_at(1, 5_060.9))
        take(bucket, opens[-1])
    shown, not_shown = opens
    assert shown < not_shown - 0.5


def test_while_the_old_window_has_weight_left_no_caller_waits_for_the_new_one() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    for now in (5_059.5, 5_060.0, 5_060.5, 5_061.0, 5_061.5):
        bucket.settle(take(bucket, now), now + 0.01, reported(None, now))
    bucket.refresh(5_062.0)
    assert 90 - 5 <= bucket.left <= 90 - 4, "what was granted since 5060 may count in it"


def test_a_sum_reported_around_a_rollover_bounds_both_windows_until_a_later_answer() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    bucket.settle(take(bucket, 5_059.99), 5_060.1, reported(80, 5_060.05))
    assert bucket.left == 100 - 80 - 1, "it may be the old window's sum, or the new one's"
    bucket.refresh(5_061.2)
    assert bucket.used_weight is None, "the date has shown the new window, a second before"
    assert bucket.left == 100 - 80 - 1
    bucket.settle(take(bucket, 5_061.2), 5_061.3, reported(2, 5_061.25))
    assert bucket.left == 90 - 2


def test_a_sum_of_the_old_window_that_arrives_late_does_not_cost_the_new_one() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    late = take(bucket, 5_059.9)
    bucket.settle(take(bucket, 5_059.95), 5_060.2, reported(88, 5_060.1))
    bucket.settle(late, 5_062.0, reported(90, 5_060.0))
    bucket.settle(take(bucket, 5_062.1), 5_062.2, reported(1, 5_062.15))
    assert (bucket.used_weight, bucket.left) == (1, 89)


def test_an_early_sum_is_not_forgotten_for_an_answer_that_it_has_overtaken() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    straggler = take(bucket, 5_060.9)
    bucket.settle(take(bucket, 5_059.95), 5_060.0, reported(2, 5_060.0))
    overtaken = take(bucket, 5_061.1)
    bucket.settle(straggler, 5_061.2, reported(95, 5_061.15))
    bucket.settle(overtaken, 5_061.3, reported(3, 5_061.1))
    assert bucket.left <= 100 - 95, "what others had spent by then is known"


@pytest.mark.parametrize(("highest", "goes"), [(99, True), (100, False)])
def test_one_request_goes_past_a_sum_around_a_rollover_that_has_all_that_was_answered(
    highest: int, *, goes: bool
) -> None:
    bucket = opened(minute_bucket(reserve=0), used=90, now=5_058.0)
    for used, lease in enumerate([take(bucket, 5_059.9) for _ in range(6)]):
        bucket.settle(lease, 5_060.1, reported(highest - used, 5_060.0))
    assert bucket.room(0) == 100 - highest - 6, "they may be within the sum, or not"
    ahead = bucket.grant(1, 5_061.5)
    assert (ahead is not None) == goes, "if it is of this window, this is what is left"
    if ahead is not None:
        assert bucket.confirm(ahead, 5_061.5)
        assert bucket.grant(1, 5_061.6) is None, "one at a time"
        bucket.settle(ahead, 5_061.6, reported(1, 5_061.5))
        assert bucket.left == 99


def test_an_early_sum_is_as_old_as_the_newest_answer_that_reported_one() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    first, second = take(bucket, 5_059.9), take(bucket, 5_059.9)
    bucket.settle(take(bucket, 5_059.95), 5_060.1, reported(3, 5_060.0))
    overtaken = take(bucket, 5_061.3)
    bucket.settle(first, 5_061.5, reported(95, 5_061.4))
    bucket.settle(second, 5_061.2, reported(4, 5_061.2))  # answers are applied in any order
    bucket.settle(overtaken, 5_061.6, reported(5, 5_061.35))
    assert bucket.left <= 100 - 95


def test_a_probe_that_fails_lets_the_next_one_go_at_once() -> None:
    bucket = minute_bucket()
    bucket.give_back(take(bucket, SECOND_IN))
    bucket.settle(take(bucket, SECOND_IN), SECOND_IN + 0.1, None)
    take(bucket, SECOND_IN + 0.1)
    assert bucket.grant(1, SECOND_IN + 0.1) is None


def test_after_a_pause_one_probe_is_sent_again() -> None:
    bucket = opened(minute_bucket())
    take(bucket, 5_030.0)
    assert bucket.grant(1, 5_030.0) is None
    assert bucket.wakes_at(1, 5_030.0) == pytest.approx(5_031.0), (
        "silence is waited for, but not without end"
    )


def test_a_lost_answer_stays_charged_on_top_of_what_others_use() -> None:
    bucket = opened(minute_bucket(), used=1)
    bucket.settle(take(bucket, SECOND_IN, 20), 5_002.0, None)
    bucket.settle(take(bucket, 5_003.0), 5_003.1, reported(50, 5_003.05))
    assert bucket.left == 90 - 50 - 20, "the 20 may not be among the 50"
    bucket.settle(take(bucket, 5_020.0), 5_020.1, reported(71, 5_020.05))
    assert bucket.left == 90 - 71, "by now they are, or never were"


def test_weight_that_never_reached_the_exchange_comes_back_when_an_answer_shows_it() -> None:
    bucket = opened(minute_bucket(), used=1)
    bucket.settle(take(bucket, SECOND_IN, 60), 5_002.0, None)
    assert bucket.left == 90 - 61
    bucket.settle(take(bucket, 5_020.0), 5_020.1, reported(2, 5_020.05))
    assert bucket.left == 90 - 2


def test_an_answer_of_a_window_that_is_over_says_nothing_of_this_one() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    late = take(bucket, 5_059.0)
    bucket.settle(take(bucket, 5_059.5), 5_060.2, reported(2, 5_060.1))
    bucket.settle(take(bucket, 5_061.3), 5_061.4, reported(2, 5_061.35))
    bucket.settle(late, 5_061.5, reported(85, 5_059.2))
    assert bucket.used_weight == 2
    assert bucket.left == 88


def test_a_lower_report_in_one_window_never_raises_the_budget() -> None:
    bucket = opened(minute_bucket(), used=50)
    first, second = take(bucket, 5_002.0), take(bucket, 5_002.0)
    bucket.settle(first, 5_002.1, reported(47, 5_002.05))
    bucket.settle(second, 5_002.1, reported(48, 5_002.05))
    assert bucket.used_weight == 50
    assert bucket.left == 90 - 52, "a node that lags does not hide our own two"


def test_weight_that_was_never_sent_comes_back() -> None:
    bucket = opened(minute_bucket())
    bucket.give_back(take(bucket, SECOND_IN, 30))
    assert (bucket.left, bucket.ledger.unsettled) == (89, 0)


def test_answers_without_a_used_weight_open_the_budget_only_after_three() -> None:
    bucket = minute_bucket()
    for number in range(3):
        lease = take(bucket, SECOND_IN + number)
        assert bucket.grant(1, SECOND_IN + number) is None
        bucket.settle(lease, SECOND_IN + number, reported(None, SECOND_IN + number))
    assert [bucket.grant(1, 5_003.0) is not None for _ in range(100)].count(True) == 87


def test_without_any_date_a_window_of_silence_is_the_rollover() -> None:
    bucket = Minute(20, 10)
    bucket.settle(take(bucket, 5_000.0), 5_000.1, Report(200, 1))
    for _ in range(9):
        take(bucket, 5_000.2)
    assert bucket.grant(1, 5_060.3) is None, "the exchange's window may have begun at 5000.1"
    take(bucket, bucket.wakes_at(1, 5_060.3))
    assert bucket.resets_at(5_060.3) is None


def test_429_freezes_for_its_retry_after_and_one_request_goes_first() -> None:
    bucket = opened(minute_bucket())
    overtaken = take(bucket, 5_002.0)
    bucket.settle(take(bucket, 5_002.0), 5_002.1, reported(5, 5_002.0, 429, retry_after=5.0))
    bucket.settle(overtaken, 5_006.0, reported(6, 5_002.0))
    assert bucket.grant(1, 5_007.0) is None
    assert bucket.wakes_at(1, 5_007.0) == pytest.approx(5_007.1, abs=0.01)
    assert bucket.frozen_until(5_007.0) == pytest.approx(NOON + 7.1, abs=1.1)
    first = take(bucket, 5_007.2)
    assert bucket.grant(1, 5_007.3) is None, "nothing that was reported before it is over counts"
    bucket.settle(first, 5_007.4, reported(7, 5_007.3))
    take(bucket, 5_007.5)


def test_a_second_429_in_a_window_lasts_until_its_end() -> None:
    bucket = opened(minute_bucket())
    bucket.settle(take(bucket, 5_002.0), 5_002.1, reported(None, 5_002.0, 429, retry_after=1.0))
    bucket.settle(take(bucket, 5_003.2), 5_003.3, reported(None, 5_003.2, 429, retry_after=1.0))
    assert bucket.grant(1, 5_059.0) is None
    assert bucket.wakes_at(1, 5_059.0) >= 5_060.0


def test_429_without_retry_after_freezes_until_the_next_window() -> None:
    bucket = opened(minute_bucket())
    bucket.settle(take(bucket, 5_002.0), 5_002.1, reported(None, 5_002.0, 429))
    assert bucket.grant(1, 5_059.0) is None
    take(bucket, 5_062.2)


@pytest.mark.parametrize(
    ("header", "text", "ends"),
    [
        (300.0, None, 300.0),
        (None, 400.0, 400.0),
        (300.0, 400.0, 400.0),
        (400.0, 300.0, 400.0),
        (None, None, 120.0),
        (None, -5.0, 120.0),
        (5 * 86_400.0, None, 5 * 86_400.0),
        (4 * 86_400.0, 5 * 86_400.0, 5 * 86_400.0),
        (1e9, None, 3 * 86_400.0),  # absurd
    ],
)
def test_418_bans_until_the_later_of_header_and_text(
    header: float | None, text: float | None, ends: float
) -> None:
    bucket = minute_bucket()
    named = None if text is None else NOON + 1.0 + text
    report = Report(418, None, NOON + 1.0, retry_after=header, banned_until=named)
    bucket.settle(take(bucket, SECOND_IN), SECOND_IN, report)
    end = bucket.banned_until(SECOND_IN)
    assert end == pytest.approx(NOON + 1.0 + ends, abs=1.1 + ends * 3e-4)
    assert bucket.grant(1, SECOND_IN + ends - 0.1) is None
    assert bucket.banned_until(SECOND_IN + ends + 1.1 + ends * 3e-4) is None
    take(bucket, SECOND_IN + ends + 1.1 + ends * 3e-4)


def test_a_ban_without_an_end_lasts_twice_as_long_if_it_comes_again_within_a_day() -> None:
    bucket = minute_bucket()
    now, lengths = SECOND_IN, list[float]()
    for pause in (3_600.0, 40_000.0, 90_000.0, 0.0):
        bucket.settle(take(bucket, now), now, reported(None, now, 418))
        end = bucket.banned_until(now)
        assert end is not None
        lengths.append(end - (NOON + now - 5_000.0))
        now += lengths[-1] + pause
        opened(bucket, now=now)  # a good answer in between changes nothing
        now += 10.0
    assert lengths == pytest.approx([120.0, 240.0, 480.0, 120.0], abs=2.1)


def test_a_second_418_during_a_ban_does_not_count_as_a_repeat() -> None:
    bucket = opened(minute_bucket())
    leases = [take(bucket, SECOND_IN) for _ in range(5)]
    for lease in leases:
        bucket.settle(lease, SECOND_IN, reported(None, SECOND_IN, 418))
    assert bucket.banned_until(SECOND_IN) == pytest.approx(NOON + 121.0, abs=1.1)


def test_a_ban_without_a_date_is_measured_by_the_local_clock() -> None:
    bucket = minute_bucket()
    lease = take(bucket, SECOND_IN)
    bucket.settle(lease, SECOND_IN, Report(418, banned_until=NOON + 301.0, wall=NOON + 1.0))
    assert bucket.grant(1, SECOND_IN + 299.9) is None
    take(bucket, SECOND_IN + 300.1)


@pytest.mark.parametrize("ahead", [-7_200.0, 7_200.0, 86_400.0])
def test_the_date_of_a_418_does_not_shorten_its_ban(ahead: float) -> None:
    bucket = opened(minute_bucket())
    named = NOON + 602.0
    report = Report(418, None, NOON + 2.0 + ahead, banned_until=named, wall=NOON)
    bucket.settle(take(bucket, 5_002.0), 5_002.1, report)
    assert bucket.grant(1, 5_601.9) is None
    assert bucket.banned_until(5_601.9) is not None
    if ahead > 0.0:
        take(bucket, 5_603.5)
        assert bucket.banned_until(5_002.1) == named


@pytest.mark.parametrize(("local_clock_ahead", "ends"), [(-5.0, 605.0), (7_200.0, 3 * 86_400.0)])
def test_a_ban_without_any_date_whose_end_is_past_by_the_local_clock_lasts_three_days(
    local_clock_ahead: float, ends: float
) -> None:
    bucket = minute_bucket()
    wall = NOON + 1.0 + local_clock_ahead
    bucket.settle(take(bucket, SECOND_IN), SECOND_IN, Report(200, 1, wall=wall))
    again = SECOND_IN + 1.0
    report = Report(418, banned_until=NOON + 602.0, wall=wall + 1.0)
    bucket.settle(take(bucket, again), again, report)
    assert bucket.grant(1, again + ends - 0.1) is None
    take(bucket, again + ends * 1.0003 + 0.1)


def test_the_clock_of_the_exchange_can_be_stepped_either_way() -> None:
    bucket = opened(minute_bucket(), used=30)
    bucket.settle(take(bucket, 5_002.0), 5_002.1, Report(200, 2, NOON + 600.0))
    assert bucket.resets_at(5_002.1) == NOON + 660.0
    bucket.settle(take(bucket, 5_003.0), 5_003.1, Report(200, 40, NOON - 600.0))
    assert bucket.resets_at(5_003.1) == NOON - 540.0
    assert bucket.left == 90 - 40


def test_what_was_overtaken_does_not_count_in_the_next_window() -> None:
    bucket = opened(minute_bucket(), used=80, now=5_050.0)
    leases = [take(bucket, 5_050.0) for _ in range(10)]
    bucket.settle(leases[9], 5_050.5, reported(90, 5_050.0))
    for number, lease in enumerate(leases[:9]):
        bucket.settle(lease, 5_050.6, reported(81 + number, 5_050.0))
    ahead = take(bucket, 5_062.0)
    assert bucket.grant(1, 5_062.0) is None
    bucket.settle(ahead, 5_062.1, reported(1, 5_062.0))
    assert len([take(bucket, 5_062.2) for _ in range(89)]) == 89


def test_ready_at_is_a_lower_bound_of_the_wait() -> None:
    bucket = opened(minute_bucket(), used=80)
    assert bucket.ready(10, SECOND_IN) == SECOND_IN
    assert bucket.ready(11, SECOND_IN) == pytest.approx(5_061.0, abs=1.1)
    assert bucket.ready(10 + 90 + 1, SECOND_IN) == pytest.approx(5_121.0, abs=1.1)


@pytest.mark.parametrize(
    ("limit", "interval", "reserve"),
    [(0, 60, 0), (10, 60, 10), (10, 60, -1), (10, 0, 0), (10, 0.5, 0), (10, 1.5, 0)],
)
def test_numbers_that_mean_nothing_are_refused(limit: int, interval: float, reserve: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        Settings(limit, interval, reserve)


def test_a_caller_behind_overtaken_answers_is_told_to_try() -> None:
    bucket = opened(minute_bucket(), used=70)
    leases = [take(bucket, SECOND_IN) for _ in range(10)]
    bucket.settle(leases[9], SECOND_IN + 0.1, reported(80, SECOND_IN))
    for number, lease in enumerate(leases[:9]):
        bucket.settle(lease, SECOND_IN + 0.2, reported(71 + number, SECOND_IN))
    assert bucket.left == 90 - 80 - 9
    assert bucket.may_grant(2, SECOND_IN + 0.3, 10)
    take_two = bucket.grant(2, SECOND_IN + 0.3)
    assert take_two is not None
    assert not bucket.may_grant(2, SECOND_IN + 0.3, 10), "one request goes"


def test_one_request_goes_past_overtaken_answers_while_others_are_in_flight() -> None:
    bucket = opened(minute_bucket(), used=70)
    leases = [take(bucket, SECOND_IN) for _ in range(12)]  # the last two: of a process that died
    bucket.settle(leases[9], SECOND_IN + 0.1, reported(80, SECOND_IN))
    for number, lease in enumerate(leases[:9]):
        bucket.settle(lease, SECOND_IN + 0.2, reported(71 + number, SECOND_IN))
    assert bucket.left == 0
    ahead = take(bucket, SECOND_IN + 0.3, 2)
    assert bucket.grant(1, SECOND_IN + 0.3) is None, "one at a time"
    assert not bucket.may_grant(1, SECOND_IN + 0.3, 10)
    assert bucket.wakes_at(1, SECOND_IN + 0.3) == pytest.approx(SECOND_IN + 1.3)
    bucket.settle(ahead, SECOND_IN + 0.4, reported(82, SECOND_IN + 0.3))
    assert bucket.left == 90 - 82 - 2, "its answer settles them; two are still in flight"
