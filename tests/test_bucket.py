"""The token bucket against a reference exchange, in a simulation without any event loop.

The reference is written from the exchange's rules and knows nothing of the bucket: it counts
every arrival in windows of its own clock and refuses what passes the limit. A refusal is excused
only by other clients' weight that came after the last answer which the client could have read.
An answer can be read if it came back before the refused request left, tells a used weight, and
can be placed in the window: its request left when the window was known to have begun.
"""

from __future__ import annotations

import heapq
from collections import Counter
from itertools import count
from math import floor, inf
from random import Random

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import Struct

from binance_insurance._headers import Report
from binance_insurance.budget.bucket import Lease, TokenBucket

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
    seed: int


class ReferenceExchange:
    """Counts as the exchange does; its clock is `local + shift`."""

    def __init__(self, limit: int, interval: int, shift: float) -> None:
        self.limit, self.interval, self.shift = limit, interval, shift
        self.others: list[tuple[float, int]] = []  # (exchange time, weight)
        self.ours: Counter[int] = Counter()  # weight by window
        self._window, self._used = -1, 0

    def count(self, local: float, weight: int, *, ours: bool) -> int:
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


class Outcome(Struct):
    """What came of a run."""

    exchange: ReferenceExchange
    unexcused: list[str]
    refused: int
    first_window: int
    last_window: int
    most_unsettled: int


def simulate(schedule: Schedule) -> Outcome:
    """Run the bucket with work always waiting (but for pauses) against the reference."""
    chance = Random(schedule.seed)
    start_utc = 1_790_000_000 // schedule.interval * schedule.interval + schedule.phase
    shift = start_utc - LOCAL_START + schedule.offset
    exchange = ReferenceExchange(schedule.limit, schedule.interval, shift)
    bucket = TokenBucket(
        schedule.limit, interval=schedule.interval, reserve=schedule.reserve
    )
    length = schedule.windows * schedule.interval
    end = LOCAL_START + length
    order = count()
    events: list[tuple[float, int, str, tuple[object, ...]]] = []

    def at(time: float, kind: str, *data: object) -> None:
        heapq.heappush(events, (time, next(order), kind, data))

    time = LOCAL_START
    while schedule.other_rate > 0:
        time += chance.expovariate(schedule.other_rate)
        if time > end:
            break
        at(time, "other", 1)
    for share, weight in schedule.bursts:
        at(LOCAL_START + share * length, "other", weight)

    flying = 0
    refused = 0
    unexcused: list[str] = []
    # By window: when it was first known from a date, and when the newest answer was counted that
    # was read and can be placed in it.
    known_from: dict[int, float] = {}
    newest: dict[int, float] = {}
    most_unsettled = 0
    woken_at = inf
    next_weight = chance.choice(schedule.weights)
    resume = LOCAL_START

    def pump(now: float) -> None:
        nonlocal flying, next_weight, woken_at, most_unsettled, resume
        while flying < schedule.concurrency and now < end and now >= resume:
            lease = bucket.take(next_weight, now)
            if lease is None:
                wake = bucket.wake_at(next_weight, now)
                if wake < woken_at or woken_at <= now:
                    woken_at = max(wake, now)
                    at(woken_at, "wake")
                return
            flying += 1
            next_weight = chance.choice(schedule.weights)
            latency = chance.uniform(schedule.least_latency, schedule.most_latency)
            up = latency * chance.random()
            lost = chance.random() < schedule.lost
            if lost:
                at(now + schedule.given_up_after, "lost", lease)
            if not lost or chance.random() < 0.7:
                at(now + up, "arrive", lease, inf if lost else latency - up, newest.copy())
            most_unsettled = max(most_unsettled, bucket.unsettled)
            if chance.random() < schedule.idle:
                resume = now + chance.uniform(0, schedule.interval)
                at(resume, "wake")

    at(LOCAL_START, "wake")
    while events:
        now, _, kind, data = heapq.heappop(events)
        if kind == "other":
            (weight,) = data
            assert isinstance(weight, int)
            exchange.count(now, weight, ours=False)
        elif kind == "arrive":
            lease, down, read_by_then = data
            assert isinstance(lease, Lease)
            assert isinstance(down, float)
            assert isinstance(read_by_then, dict)
            used = exchange.count(now, lease.weight, ours=True)
            if used > schedule.limit:
                refused += 1
                window = floor((now + shift) / schedule.interval)
                unread = exchange.others_in(window, since=read_by_then.get(window, -inf) + shift)
                if used - unread > schedule.limit:
                    unexcused.append(f"at {now + shift}: {used}, of which unread {unread}")
            status = 429 if used > schedule.limit else 200
            if down < inf:
                # The sum is that of the arrival, the date may be later: the worse case for us.
                made = now + down * chance.random()
                told = None if chance.random() < schedule.mute else used
                report = Report(status, told, float(floor(made + shift)))
                at(now + down, "answer", lease, report, now)
        elif kind == "answer":
            lease, report, counted = data
            assert isinstance(lease, Lease)
            assert isinstance(report, Report)
            assert isinstance(counted, float)
            assert report.date is not None
            known_from.setdefault(floor(report.date / schedule.interval), now)
            window = floor((counted + shift) / schedule.interval)
            # The whole seconds of a date and the latency leave no doubt after this long.
            undoubted = window * schedule.interval - shift + 1.01 + schedule.most_latency
            if report.used_weight is not None and lease.sent_at >= min(
                known_from.get(window, inf), undoubted
            ):
                newest[window] = max(newest.get(window, -inf), counted)
            flying -= 1
            bucket.settle(lease, now, report)
        elif kind == "lost":
            (lease,) = data
            assert isinstance(lease, Lease)
            flying -= 1
            bucket.settle(lease, now, None)
        pump(now)
    first = floor((LOCAL_START + shift) / schedule.interval) + 1
    last = floor((end + shift) / schedule.interval) - 1
    return Outcome(exchange, unexcused, refused, first, last, most_unsettled)


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
        bursts=tuple(
            draw(st.lists(st.tuples(st.floats(0, 1), st.integers(1, limit)), max_size=4))
        ),
        lost=draw(st.sampled_from([0.0, 0.01, 0.3])),
        mute=draw(st.sampled_from([0.0, 0.0, 0.05, 1.0])),
        given_up_after=draw(st.floats(2.0, 10.0)),
        weights=draw(st.sampled_from([(1,), (1,), (1, 1, 5)])),
        idle=draw(st.sampled_from([0.0, 0.0, 0.01])),
        seed=draw(st.integers(0, 2**32)),
    )


@given(schedules())
@settings(max_examples=300, deadline=None)
def test_it_is_never_refused_but_for_weight_that_nobody_could_have_told(
    schedule: Schedule,
) -> None:
    assert simulate(schedule).unexcused == []


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
        seed=draw(st.integers(0, 2**32)),
    )


@given(busy_schedules())
@settings(max_examples=50, deadline=None)
def test_under_load_it_uses_98_percent_of_what_others_leave(schedule: Schedule) -> None:
    outcome = simulate(schedule)
    assume(outcome.most_unsettled <= schedule.limit / 100)
    assert outcome.unexcused == []
    for window in range(outcome.first_window, outcome.last_window + 1):
        others = outcome.exchange.others_in(window)
        ours = outcome.exchange.ours[window]
        assert ours >= 0.98 * (schedule.limit - schedule.reserve - others), (
            f"window {window}: {ours} of {schedule.limit} - {schedule.reserve} - {others}"
        )


NOON = 1_790_000_040.0  # a full minute of the exchange's clock
SECOND_IN = 5_001.0  # the local time one second into that minute


def minute_bucket(limit: int = 100, reserve: int = 10) -> TokenBucket:
    """A bucket of one minute's windows that nobody has used yet."""
    return TokenBucket(limit, interval=60, reserve=reserve)


def take(bucket: TokenBucket, now: float, weight: int = 1) -> Lease:
    lease = bucket.take(weight, now)
    assert lease is not None
    return lease


def told(used: int | None, local: float, status: int = 200, **more: float) -> Report:
    """An answer made at a local time, where the exchange's clock is 5,000 s behind `NOON`."""
    return Report(status, used, float(floor(NOON + local - 5_000.0)), **more)


def opened(bucket: TokenBucket, used: int = 1, now: float = SECOND_IN) -> TokenBucket:
    """Make the first request of a window and read its answer at once."""
    bucket.settle(take(bucket, now), now, told(used, now))
    return bucket


def test_at_a_cold_start_one_request_goes_ahead_and_the_rest_when_it_is_answered() -> None:
    bucket = minute_bucket()
    ahead = take(bucket, SECOND_IN)
    assert bucket.take(1, SECOND_IN) is None
    bucket.settle(ahead, SECOND_IN + 0.1, told(40, SECOND_IN))
    assert bucket.available == 100 - 10 - 40
    leases = [bucket.take(1, SECOND_IN + 0.1) for _ in range(60)]
    assert sum(lease is not None for lease in leases) == 50


def test_a_new_window_is_asked_about_by_one_request_when_it_has_surely_begun() -> None:
    bucket = opened(minute_bucket(), used=90, now=5_001.9)
    assert bucket.take(1, 5_002.0) is None
    # One date leaves a doubt of a second: the minute may already be over, or not yet.
    assert bucket.take(1, 5_060.5) is None
    wake = bucket.wake_at(1, 5_060.5)
    assert 5_060.9 <= wake <= 5_061.0
    ahead = take(bucket, wake)
    assert bucket.take(1, wake) is None
    bucket.settle(ahead, wake + 0.1, told(1, wake))
    assert bucket.available == 89


def test_an_answer_dated_in_the_new_window_proves_it_earlier() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    late = take(bucket, 5_059.99)
    bucket.settle(late, 5_060.1, told(80, 5_060.05))
    assert bucket.used_weight is None, "the sum may still be the old window's"
    ahead = take(bucket, 5_060.1)
    assert bucket.take(1, 5_060.1) is None
    bucket.settle(ahead, 5_060.2, told(1, 5_060.15))
    assert bucket.available == 89


def test_after_a_pause_one_request_goes_ahead_again() -> None:
    bucket = opened(minute_bucket())
    take(bucket, 5_030.0)
    assert bucket.take(1, 5_030.0) is None
    assert bucket.wake_at(1, 5_030.0) == pytest.approx(5_035.0), "silence is waited for, not forever"
    take(bucket, 5_035.0)


def test_a_lost_answer_stays_charged_on_top_of_what_others_use() -> None:
    bucket = opened(minute_bucket(), used=1)
    bucket.settle(take(bucket, SECOND_IN, 20), 5_002.0, None)
    bucket.settle(take(bucket, 5_003.0), 5_003.1, told(50, 5_003.05))
    assert bucket.available == 90 - 50 - 20, "the 20 may not be among the 50"
    bucket.settle(take(bucket, 5_020.0), 5_020.1, told(71, 5_020.05))
    assert bucket.available == 90 - 71, "by now they are, or never were"


def test_an_answer_of_a_window_that_is_over_says_nothing_of_this_one() -> None:
    bucket = opened(minute_bucket(), now=5_058.0)
    late = take(bucket, 5_059.0)
    bucket.settle(take(bucket, 5_059.5), 5_060.2, told(2, 5_060.1))
    bucket.settle(take(bucket, 5_060.2), 5_060.3, told(1, 5_060.25))
    bucket.settle(late, 5_060.4, told(85, 5_059.2))
    assert bucket.used_weight == 1
    assert bucket.available == 89


def test_a_lower_report_in_one_window_never_raises_the_budget() -> None:
    bucket = opened(minute_bucket(), used=50)
    first, second = take(bucket, 5_002.0), take(bucket, 5_002.0)
    bucket.settle(first, 5_002.1, told(47, 5_002.05))
    bucket.settle(second, 5_002.1, told(48, 5_002.05))
    assert bucket.used_weight == 50
    assert bucket.available == 90 - 52, "a node that lags does not hide our own two"


def test_weight_that_was_never_sent_comes_back_once() -> None:
    bucket = opened(minute_bucket())
    lease = take(bucket, SECOND_IN, 30)
    bucket.give_back(lease)
    bucket.give_back(lease)
    bucket.settle(lease, SECOND_IN, None)
    assert (bucket.available, bucket.unsettled) == (89, 0)


def test_answers_that_tell_no_used_weight_open_the_budget_only_after_three() -> None:
    bucket = minute_bucket()
    for number in range(3):
        lease = take(bucket, SECOND_IN + number)
        assert bucket.take(1, SECOND_IN + number) is None
        bucket.settle(lease, SECOND_IN + number, told(None, SECOND_IN + number))
    assert [bucket.take(1, 5_003.0) is not None for _ in range(100)].count(True) == 87


def test_without_any_date_a_window_of_silence_is_the_turn() -> None:
    bucket = TokenBucket(20, interval=60, reserve=10)
    bucket.settle(take(bucket, 5_000.0), 5_000.1, Report(200, 1))
    for _ in range(9):
        take(bucket, 5_000.2)
    assert bucket.take(1, 5_060.3) is None, "the exchange's window may have begun at 5000.1"
    take(bucket, bucket.wake_at(1, 5_060.3))
    assert bucket.resets_at(5_060.3) is None


def test_429_freezes_until_retry_after_and_for_the_rest_of_the_window() -> None:
    bucket = opened(minute_bucket())
    bucket.settle(take(bucket, 5_002.0), 5_002.1, told(None, 5_002.0, 429, retry_after=5.0))
    assert bucket.take(1, 5_008.0) is None, "the window's weight is gone whatever the header says"
    assert bucket.wake_at(1, 5_008.0) >= 5_060.0
    bucket.settle(
        take(bucket, 5_061.5), 5_061.6, told(None, 5_061.5, 429, retry_after=100.0)
    )
    assert bucket.take(1, 5_161.0) is None
    assert bucket.wake_at(1, 5_161.0) >= 5_161.6
    assert bucket.frozen_until(5_161.0) == pytest.approx(NOON + 161.6, abs=1.1)


@pytest.mark.parametrize(
    ("header", "text", "ends"),
    [
        (300.0, None, 300.0),
        (None, 400.0, 400.0),
        (300.0, 400.0, 400.0),
        (400.0, 300.0, 400.0),
        (None, None, 120.0),
        (None, -5.0, 120.0),
        (1e9, None, 3 * 86_400.0),
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
    assert end == pytest.approx(NOON + 1.0 + ends, abs=1.1)
    assert bucket.take(1, SECOND_IN + ends - 0.1) is None
    assert bucket.banned_until(SECOND_IN + ends + 1.1 + ends * 3e-4) is None
    take(bucket, SECOND_IN + ends + 1.1 + ends * 3e-4)


def test_a_ban_of_unknown_length_is_taken_for_twice_as_long_if_it_comes_again() -> None:
    bucket = minute_bucket()
    now, lengths = SECOND_IN, list[float]()
    for _ in range(3):
        first, second = take(bucket, now), None
        bucket.settle(first, now, told(None, now, 418))
        assert second is None
        end = bucket.banned_until(now)
        assert end is not None
        lengths.append(end - (NOON + now - 5_000.0))
        now += lengths[-1] + 2.0
    assert lengths == pytest.approx([120.0, 240.0, 480.0], abs=1.1)


def test_a_second_418_during_a_ban_does_not_count_as_a_repeat() -> None:
    bucket = opened(minute_bucket())
    leases = [take(bucket, SECOND_IN) for _ in range(5)]
    for lease in leases:
        bucket.settle(lease, SECOND_IN, told(None, SECOND_IN, 418))
    assert bucket.banned_until(SECOND_IN) == pytest.approx(NOON + 121.0, abs=1.1)


def test_a_ban_without_a_date_is_measured_by_the_local_clock() -> None:
    bucket = minute_bucket()
    lease = take(bucket, SECOND_IN)
    bucket.settle(lease, SECOND_IN, Report(418, banned_until=NOON + 301.0, wall=NOON + 1.0))
    assert bucket.take(1, SECOND_IN + 299.9) is None
    take(bucket, SECOND_IN + 300.1)


def test_the_clock_of_the_exchange_can_be_stepped_either_way() -> None:
    bucket = opened(minute_bucket(), used=30)
    bucket.settle(take(bucket, 5_002.0), 5_002.1, Report(200, 2, NOON + 600.0))
    assert bucket.resets_at(5_002.1) == NOON + 660.0
    bucket.settle(take(bucket, 5_003.0), 5_003.1, Report(200, 40, NOON - 600.0))
    assert bucket.resets_at(5_003.1) == NOON - 540.0
    assert bucket.available == 90 - 40


def test_ready_at_tells_the_least_wait() -> None:
    bucket = opened(minute_bucket(), used=80)
    assert bucket.ready_at(10, SECOND_IN) == SECOND_IN
    assert bucket.ready_at(11, SECOND_IN) == pytest.approx(5_061.0, abs=1.1)
    assert bucket.ready_at(10 + 90 + 1, SECOND_IN) == pytest.approx(5_121.0, abs=1.1)


@pytest.mark.parametrize(
    ("limit", "interval", "reserve"),
    [(0, 60, 0), (10, 60, 10), (10, 60, -1), (10, 0, 0), (10, 0.5, 0), (10, 1.5, 0)],
)
def test_numbers_that_mean_nothing_are_refused(limit: int, interval: float, reserve: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        TokenBucket(limit, interval=interval, reserve=reserve)
