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
