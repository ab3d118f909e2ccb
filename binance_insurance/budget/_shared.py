"""A budget whose ledger lies in a store that processes share.

Each process runs the same token bucket; what the bucket knows is a value in the store. One change
of it takes what has happened here since the last (answers, weight that came back) and who waits,
applies it to the newest value, and writes the result only if nobody else has written meanwhile.
While one change is under way, what happens is gathered for the next, so a process has at most one.

Every process writes down how much weight it holds. Who has not been heard of for as long as a
request may take to arrive is dead, and its weight is treated like that of a lost answer. What a
process writes down is the truth even if it does not know whether an earlier change arrived.

Times in the ledger are the store's. Where a process knows the store's clock only within bounds, it
errs on the careful side.
"""

from __future__ import annotations

import asyncio
import logging
from math import inf
from typing import TYPE_CHECKING, Protocol
from uuid import uuid4

import msgspec
from msgspec.structs import replace

from ..errors import StoreError
from ._queue import QueueingBudget, Waiter, ban_error
from .bucket import Ledger, TokenBucket

if TYPE_CHECKING:
    from collections.abc import Callable

    from .._headers import Report
    from .._runtime import Runtime
    from .bucket import Lease

_log = logging.getLogger("binance_insurance.budget")
_HEARTBEATS = 4  # so many in the time after which a silent process is taken for dead
_COME_BACK = 1.0  # seconds between two looks for a store that was out of reach
_TOGETHER = 0.005  # seconds that an answer may wait to be written down with the next decision
_OK = 200
_LONGEST_WAIT = 30.0  # seconds that waiters go without a look at what others have learned


class Owner(msgspec.Struct, omit_defaults=True):
    """One process: the weight that it holds, when it said so, and what its first caller wants."""

    weight: int
    seen: float
    wanted: int = 0


class SharedState(msgspec.Struct, omit_defaults=True):
    """The value in the store."""

    ledger: Ledger = msgspec.field(default_factory=Ledger)
    owners: dict[str, Owner] = {}


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode


def _copy(ledger: Ledger) -> Ledger:
    return _decode(_encode(SharedState(ledger))).ledger


class Written(msgspec.Struct):
    """What a change wants: the new value, how long it matters, and whether to wake others."""

    value: bytes
    lifetime: float
    wake: bool


class Times(msgspec.Struct, frozen=True):
    """The store's clock: what to add to the local monotonic one, at the least and at the most."""

    low: float
    high: float


class Store(Protocol):
    """Keeps one value for many processes."""

    polling: float
    """Seconds after which waiters look for themselves; infinite if the store wakes them."""

    async def change(self, change: Callable[[bytes | None, Times], Written | None]) -> None:
        """Replace the value by what `change` makes of it, atomically.

        `change` may be called several times, in any thread; the last call counts. It returns None
        to leave the value as it is.

        Raises:
            StoreError: the store is out of reach.
        """
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` in the event loop when somebody asks to wake the others."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and files."""
        ...


class _Settled(msgspec.Struct):
    """An answer, or its loss, at a local time; a lease that came back unused has no answer."""

    lease: Lease
    at: float
    report: Report | None = None
    unused: bool = False


class _Outcome(msgspec.Struct):
    """What a change came to."""

    ledger: Ledger
    times: Times
    leases: list[Lease]
    banned_until: float | None


class SharedBudget(QueueingBudget):
    """The queue of one process in front of a shared ledger."""

    def __init__(
        self,
        store: Store,
        limit: int,
        *,
        interval: float,
        reserve: int,
        share: float | None,
        runtime: Runtime,
    ) -> None:
        super().__init__(limit, interval=interval, reserve=reserve, runtime=runtime)
        if share is not None and not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, or None, not {share}")
        self._store = store
        self._me = ""  # made with the first change, for a process that is forked until then
        self._shared: TokenBucket = self._bucket
        self._worker = TokenBucket(limit, interval=interval, reserve=reserve)  # in its own thread
        own = max(1, int(self.capacity * share)) if share else 0
        self._alone = TokenBucket(limit, interval=interval, reserve=limit - own) if own else None
        self._alone_state = SharedState()
        self._offline = False
        self._look_at = -inf  # when to look for the store again
        self._failing = False
        self._times = Times(0.0, 0.0)
        self._known = False
        self._held = 0  # weight of this process's leases, those of a change under way included
        self._settled: list[_Settled] = []
        self._changing: asyncio.Task[None] | None = None
        self._again = False
        self._closing = False
        self._closed = False

    async def acquire(self, weight: int = 1, *, timeout: float | None = None) -> Lease:
        """Wait until `weight` may be sent by this process, and take it.

        First come, first served among the callers of this process; processes take turns as they
        come. Each lease must come back once: to `settle` when its request was sent, to `release`
        when it certainly was not. A cancelled call leaves no trace.

        Raises:
            IPBannedError: at once, while the IP is banned, whichever process met the ban.
            BudgetTimeoutError: at once, if the wait would surely outlast `timeout` seconds; or
                when they have passed. Also if `weight` is more than a window ever holds.
            StoreError: the store is out of reach, and no share was configured for that case.
        """
        if self._closing:
            raise StoreError("this budget is closed")
        self.check(weight, timeout=timeout)
        return await self._wait(weight, timeout)

    def settle(self, lease: Lease, report: Report | None) -> None:
        """Tell the budget what the answer reported; None if the request was sent without one."""
        if lease.open and report is not None and report.status != _OK:
            # Until the change is made, this is what is known here of a ban or a freeze.
            self._bucket.ledger = _copy(self._bucket.ledger)
            low, high = self._times.low, self._times.high
            ended = replace(lease, sent_at=lease.sent_at + low)
            self._bucket.settle(ended, self._now(), report, doubt=high - low)
        self._end(lease, _Settled(lease, self._monotonic(), report))

    def release(self, lease: Lease) -> None:
        """Give back the weight of a request that was certainly never sent."""
        self._end(lease, _Settled(lease, self._monotonic(), unused=True))

    async def aclose(self) -> None:
        """Write down what has ended, fail who waits, and let go of the store."""
        self._closing = True
        self._fail_all(lambda: StoreError("this budget was closed"))
        while self._changing is not None or self._settled:
            if self._changing is None:
                self._serve()
            if self._changing is not None:
                await asyncio.wait([self._changing])
            if self._offline or self._failing:
                break  # it counts as lost, like the answers of a process that died
        self._closed = True
        self._set_timer(inf)
        await self._store.aclose()

    def _end(self, lease: Lease, settled: _Settled) -> None:
        if lease.open:
            lease.open = False
            if self._closed:
                return  # it is as if this process were dead
            self._settled.append(settled)
            ordinary = settled.report is not None and settled.report.status == _OK
            if ordinary and not self._waiters and not self._bucket.ledger.ahead:
                # Nobody is waiting for this to be known, so it may go with the next decision.
                if len(self._settled) == 1 and self._changing is None:
                    self._set_timer(_TOGETHER)
            else:
                self._serve()

    def _now(self) -> float:
        return self._monotonic() + self._times.low

    def _serve(self) -> None:
        """Start a change, or have the one under way be followed by another."""
        if self._changing is not None:
            self._again = True
            return
        self._changing = asyncio.get_running_loop().create_task(self._change())

    async def _change(self) -> None:
        try:
            while True:
                self._again = False
                await self._change_once()
                if not self._again:
                    return
        except Exception as error:  # a defect of ours: nobody may wait for ever
            defect = error
            self._fail_all(lambda: defect)
            raise
        finally:
            self._changing = None
            self._rest()

    async def _change_once(self) -> None:
        settled, self._settled = self._settled, []
        wanted = [waiter for waiter in self._waiters if not waiter.granted.done()]
        weights = [waiter.weight for waiter in wanted]
        if not self._offline or self._monotonic() >= self._look_at:
            try:
                outcome = await self._change_store(settled, weights)
            except StoreError as error:
                if self._alone is None:
                    self._settled = settled + self._settled
                    self._failing = True
                    self._fail_all(error.copy)
                    return
                self._look_at = self._monotonic() + _COME_BACK
                if not self._offline:
                    self._go_offline(self._alone, error)
            except BaseException:
                self._settled = settled + self._settled
                raise
            else:
                self._failing = False
                if self._offline:
                    self._offline, self._bucket = False, self._shared
                    _log.warning("the shared budget is back")
                self._take_over(outcome, settled, wanted)
                return
        self._bucket.ledger = self._alone_state.ledger
        now = self._monotonic()
        outcome, _ = self._apply(
            self._bucket, self._alone_state, now, self._times, self._held, settled, weights
        )
        self._take_over(outcome, settled, wanted)

    async def _change_store(self, settled: list[_Settled], weights: list[int]) -> _Outcome:
        """Change the value in the store.

        Raises:
            StoreError: the store is out of reach, or holds something else.
        """
        self._me = self._me or uuid4().hex
        held, times_before, offline = self._held, self._times, self._offline
        known = _encode(SharedState(self._bucket.ledger)) if self._known else None
        outcome: _Outcome | None = None

        def change(value: bytes | None, times: Times) -> Written | None:
            nonlocal outcome
            bucket, local = self._worker, self._monotonic()
            try:
                state = SharedState() if value is None else _decode(value)
            except msgspec.MsgspecError as error:
                raise StoreError(
                    f"what the shared budget holds is not a ledger: {error}"
                ) from error
            bucket.ledger = state.ledger
            news = False
            if known is not None:
                own = _decode(known).ledger
                own.shift(times.low - times_before.low)
                if value is None:  # it was lost, or is not written yet
                    bucket.ledger = state.ledger = own
                    bucket.disown(held, local + times.low)
                else:
                    news = bucket.merge(own, sums=offline)
            outcome, written = self._apply(
                bucket, state, local, times, held, settled, weights, news=news
            )
            return written

        await self._store.change(change)
        if outcome is None:
            raise StoreError("the store did not apply the change")
        return outcome

    def _go_offline(self, alone: TokenBucket, error: StoreError) -> None:
        _log.warning(
            "%s; this process goes on by itself, with %d of the %d weight of a window",
            error,
            alone.capacity,
            self._bucket.capacity,
        )
        self._offline = True
        alone.ledger = _copy(self._bucket.ledger)
        alone.disown(self._held, self._now())
        self._bucket, self._alone_state = alone, SharedState(alone.ledger)

    def _apply(
        self,
        bucket: TokenBucket,
        state: SharedState,
        local: float,
        times: Times,
        held: int,
        settled: list[_Settled],
        weights: list[int],
        *,
        news: bool = False,
    ) -> tuple[_Outcome, Written | None]:
        """Apply what happened here to the newest state, which is the bucket's ledger."""
        ledger, owners, low = state.ledger, state.owners, times.low
        now = local + low
        me = owners.pop(self._me, None)
        was = None if me is None else (me.weight, me.wanted)
        bucket.correct(held - (0 if me is None else me.weight))
        for end in settled:
            ended = replace(end.lease, sent_at=end.lease.sent_at + low)
            if end.unused:
                bucket.give_back(ended)
            else:
                bucket.settle(ended, end.at + low, end.report, doubt=times.high - low)
            held -= ended.weight
        for name, owner in list(owners.items()):
            if owner.seen + bucket.transit < now:
                del owners[name]
                if owner.weight:
                    bucket.lose(owner.weight, owner.seen)
        bucket.refresh(now)
        banned = bucket.banned_until(now)
        leases: list[Lease] = []
        for weight in weights if banned is None else ():
            lease = bucket.take(weight, now)
            if lease is None:
                break
            lease.sent_at = local
            leases.append(lease)
            held += weight
        wanted = weights[len(leases)] if banned is None and len(leases) < len(weights) else 0
        wake = any(
            owner.wanted and (banned is not None or bucket.may_grant(owner.wanted, now))
            for owner in owners.values()
        )
        is_news = (
            news or bool(settled or leases) or was != ((held, wanted) if held or wanted else None)
        )
        due = me is not None and now - me.seen >= bucket.transit / _HEARTBEATS
        if held or wanted:
            owners[self._me] = Owner(held, now, wanted)
        outcome = _Outcome(ledger, times, leases, banned)
        if not is_news and not due:
            return outcome, None
        lifetime = max(3600.0, ledger.ban_ends - now) + 2.0 * bucket.interval
        return outcome, Written(_encode(state), lifetime, wake)

    def _take_over(self, outcome: _Outcome, settled: list[_Settled], wanted: list[Waiter]) -> None:
        """Let this process know what a change came to, and hand out what it granted."""
        self._bucket.ledger, self._times, self._known = outcome.ledger, outcome.times, True
        self._held += sum(lease.weight for lease in outcome.leases)
        self._held -= sum(end.lease.weight for end in settled)
        for end in settled:
            self._warn(end.report)
        for waiter, lease in zip(wanted, outcome.leases, strict=False):
            if waiter in self._waiters:
                self._remove(waiter)
            if waiter.granted.done():
                self.release(lease)
            else:
                waiter.granted.set_result(lease)
        if outcome.banned_until is not None:
            end_of_ban = outcome.banned_until
            self._fail_all(lambda: ban_error(end_of_ban))
        elif self._waiters:
            first = next(iter(self._waiters))
            self._fail_hopeless()
            if self._waiters and first not in self._waiters:
                self._again = True  # the next may be lighter

    def _joined(self) -> None:
        # Who joins while a change is under way was not asked for in it.
        if len(self._waiters) == 1 or self._changing is not None:
            self._serve()

    def _woken(self) -> None:
        if self._waiters:
            self._serve()

    def _rest(self) -> None:
        """Set the timer for what comes next by itself."""
        seconds = inf
        first = next(iter(self._waiters), None)
        if first is not None:
            now, ledger = self._now(), self._bucket.ledger
            seconds = min(self._bucket.wake_at(first.weight, now) - now, _LONGEST_WAIT)
            if not self._offline:
                # Others may learn what this process waits for, soonest who went ahead.
                seconds = min(seconds, self._store.polling * (1 if ledger.ahead else 10))
                self._store.watch(self._woken)
        if self._held or first is not None:
            seconds = min(seconds, self._bucket.transit / _HEARTBEATS)
        if self._settled:
            seconds = min(seconds, _COME_BACK if self._failing else _TOGETHER)
        if self._offline:
            seconds = min(seconds, self._look_at - self._monotonic())
        if not self._closed:
            self._set_timer(max(seconds, 0.001))
