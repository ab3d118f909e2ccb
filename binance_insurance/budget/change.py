"""One change of the value that processes share. Pure: it runs again where another was first.

Each process runs the same token bucket, and what the bucket knows is a value in a store. A change
takes what has happened in this process since its last one (answers, weight that came back, callers
that wait), applies it to the newest value, and says what to write.

Every process writes down how much weight it holds. A process silent for `transit` seconds counts
as dead, and its weight as lost. What a process writes down is right even if it does not know
whether an earlier change arrived.

Times in the value are the store's. Where a process knows the store's clock only within bounds, it
errs on the careful side.
"""

from __future__ import annotations

from itertools import chain
from math import inf
from typing import TYPE_CHECKING

from msgspec import Struct
from msgspec.structs import replace

from .ledger import Ledger
from .refusals import REPEATED
from .stored import Book, Process, SharedState, decode_ledger, new_state, pack, read
from .window import TokenBucket

if TYPE_CHECKING:
    from asyncio import Future

    from .ledger import Lease
    from .report import Report
    from .settings import Settings

HEARTBEATS = 4  # so many in the time after which a silent process counts as dead
_OLD = 0.75  # a process writes again from this part of the time between two heartbeats on
_LEAST_LIFETIME = 3600.0


class ClockBounds(Struct, frozen=True):
    """The store's clock: bounds on what to add to the local monotonic one.

    Attributes:
        low: the lower bound,
        high: and the upper bound.
        host: names the start of the machine from which the monotonic clock counts.
        slept: seconds of the machine's sleep since then, in which that clock stood still.
    """

    low: float
    high: float
    host: str = ""
    slept: float = 0.0

    def seen_by_host(self, local: float) -> tuple[str, float, float, float]:
        """Return host, time and bounds by a clock that does not stand still in its sleep."""
        return self.host, local + self.slept, self.low - self.slept, self.high - self.slept


class Ended(Struct):
    """An answer, or its loss, at a local time; a lease that came back unused has no answer.

    Attributes:
        lease: what came back.
        at: when, in local monotonic time.
        report: the answer.
        unused: whether nothing was sent.
        written: whom to tell when it is written down, or when that has failed.
    """

    lease: Lease
    at: float
    report: Report | None = None
    unused: bool = False
    written: Future[None] | None = None

    def apply(self, bucket: TokenBucket, bounds: ClockBounds) -> None:
        """Let a bucket know of it, whose time is the store's."""
        lease = replace(self.lease, sent_at=self.lease.sent_at + bounds.low)
        if self.unused:
            bucket.give_back(lease)
        else:
            spread = bounds.high - bounds.low
            bucket.settle(lease, self.at + bounds.low, self.report, spread=spread)


class Wanted(Struct, frozen=True):
    """What one caller waits for."""

    weight: int
    reserve: int


class Written(Struct):
    """What a change wants: the new value, how long it matters, and whether to wake others."""

    value: bytes
    lifetime: float
    wake: bool


class Outcome(Struct):
    """What a change came to.

    Attributes:
        ledger: the newest one.
        bounds: the store's clock.
        leases: what this process was granted.
        told_at: the local time at which the store last had this process's word, or before.
    """

    ledger: Ledger
    bounds: ClockBounds
    leases: list[Lease]
    told_at: float


class Change:
    """One change; a store calls it with the newest value, perhaps several times.

    Args:
        settings: of the budget.
        place: names the exchange and the IP; each has a value of its own.
        name: of this process.
        in_flight: the weight that this process holds.
        known: the ledger as it was after the last change, encoded; None before any,
        bounds: and the bounds that its times rest on.
        apart: whether that ledger is one that this process kept by itself.
        ended: what has ended here since.
        wanted: what the callers of this process wait for, in order.

    Attributes:
        outcome: what the last call came to; None before any.
    """

    def __init__(
        self,
        settings: Settings,
        place: str,
        name: str,
        in_flight: int,
        known: bytes | None,
        bounds: ClockBounds,
        ended: list[Ended],
        wanted: list[Wanted],
        *,
        apart: bool,
    ) -> None:
        self.outcome: Outcome | None = None
        self.place = place
        self.in_flight = in_flight
        self.bounds = bounds
        self._settings = settings
        self._length = int(settings.interval)
        self._name = name
        self.ended = ended
        self._known = known
        self.wanted = wanted
        self._apart = apart

    def tell(self) -> None:
        """Tell those that wait for it that the change was made, or has failed."""
        for each in self.ended:
            if each.written is not None and not each.written.done():
                each.written.set_result(None)

    def known(self) -> Ledger:
        """Return a copy of the ledger as it was after the last change."""
        return Ledger() if self._known is None else decode_ledger(self._known)

    def __call__(self, value: bytes | None, now: float, bounds: ClockBounds) -> Written | None:
        """Return what to write in place of `value` at local time `now`, None to leave it.

        Raises:
            StoreError: the value is no ledger.
        """
        own = self.known()
        own.shift(bounds.low - self.bounds.low)
        found = None if value is None else read(value)
        if isinstance(found, SharedState):
            state, news = found, found.follow(*bounds.seen_by_host(now))
            news |= state.refusals.merge(own.refusals)
        else:  # the value was lost, is not written yet, or is of another version
            state = new_state(own.refusals)
            if found is not None:
                state.refusals.merge(found)
            news = found is not None or state.refusals.forbid(now + bounds.low)
        news |= self._know(state, own, now + bounds.low)
        return self.apply(state, now, bounds, news=news)

    def alone(self, local: float) -> tuple[SharedState, Ledger]:
        """Return a state for this process alone, of what it knew, and the ledger in it."""
        own = self.known()
        state = new_state(own.refusals)
        self._know(state, own, local + self.bounds.low)
        return state, own

    def _know(self, state: SharedState, own: Ledger, now: float) -> bool:
        """Let a state know what this process was told; return whether any of it was new."""
        book = state.books.get(self._length)
        if book is None:
            if self._known is not None:
                TokenBucket(self._settings, own).restart(self.in_flight, now)
            state.books[self._length] = Book(own)
            return False
        TokenBucket(self._settings, book.ledger).refresh(now)
        news = book.ledger.merge(own)
        if self._apart:
            book.ledger.distrust()
        return news or self._apart

    def apply(
        self,
        state: SharedState,
        local: float,
        bounds: ClockBounds,
        *,
        news: bool = False,
        least_reserve: int = 0,
    ) -> Written | None:
        """Apply what happened here to a state, in place; see `__call__`.

        Args:
            state: what to change.
            local: local monotonic time.
            bounds: the store's clock.
            news: whether the state is already another than the store's.
            least_reserve: what each grant must leave, whatever its caller's reserve.
        """
        book, refusals = state.books[self._length], state.refusals
        ledger, processes, now = book.ledger, book.processes, local + bounds.low
        ledger.refusals = refusals
        bucket = TokenBucket(self._settings, ledger)
        me, known = processes.pop(self._name, None), replace(refusals)
        in_flight = self._settle(bucket, 0 if me is None else me.weight, bounds)
        self._bury(bucket, processes, now)
        bucket.refresh(now)
        if refusals != known:
            for other in state.books.values():
                other.ledger.trusted_until = -inf  # a probe that is out stays out
        banned = refusals.banned_until(now) is not None
        leases = [] if banned else self._grant(bucket, now, least_reserve)
        in_flight += sum(lease.weight for lease in leases)
        for lease in leases:
            lease.sent_at = local
        wanted = self.wanted[len(leases) :][:1] if not banned else []
        wake = _should_wake(state, book, bucket, now, banned=banned)
        mine = None
        if in_flight or wanted:
            first = wanted[0] if wanted else Wanted(0, 0)
            mine = processes[self._name] = Process(in_flight, now, first.weight, first.reserve)
        due = news or self.ended or leases or _is_due(me, mine, bucket.transit / HEARTBEATS)
        seen = now if due or me is None else me.seen
        self.outcome = Outcome(ledger, bounds, leases, seen - bounds.high)
        if not due:
            return None
        matters_until = max(refusals.frozen_until, refusals.ban_ends + REPEATED)
        state.witnesses.write(*bounds.seen_by_host(local))
        lifetime = max(_LEAST_LIFETIME, matters_until - now) + 2 * bucket.interval
        return Written(pack(state, ledger), lifetime, wake)

    def _settle(self, bucket: TokenBucket, noted: int, bounds: ClockBounds) -> int:
        """Apply what has ended; return the weight that this process still holds."""
        bucket.ledger.correct(self.in_flight - noted)
        in_flight = self.in_flight
        for end in self.ended:
            end.apply(bucket, bounds)
            in_flight -= end.lease.weight
        return in_flight

    @staticmethod
    def _bury(bucket: TokenBucket, processes: dict[str, Process], now: float) -> None:
        """Count the weight of dead processes as lost."""
        for name, process in list(processes.items()):
            if process.seen + bucket.transit < now:
                del processes[name]
                if process.weight:
                    bucket.lose(process.weight, process.seen)

    def _grant(self, bucket: TokenBucket, now: float, least_reserve: int) -> list[Lease]:
        """Grant what callers wait for, in order, as far as the weight goes."""
        leases: list[Lease] = []
        for wanted in self.wanted:
            lease = bucket.take(wanted.weight, now, max(wanted.reserve, least_reserve))
            if lease is None:
                break
            leases.append(lease)
        return leases


def _should_wake(
    state: SharedState, book: Book, bucket: TokenBucket, now: float, *, banned: bool
) -> bool:
    """Return whether a caller of another process can be served now, or must know of a ban."""
    if banned:
        everybody = chain.from_iterable(each.processes.values() for each in state.books.values())
        return any(other.wanted for other in everybody)
    return any(
        other.wanted and bucket.may_grant(other.wanted, now, other.reserve)
        for other in book.processes.values()
    )


def _is_due(before: Process | None, after: Process | None, heartbeat: float) -> bool:
    """Return whether what a process has written down of itself is no longer right, or old."""
    if before is None or after is None:
        return before is not after
    same = replace(before, seen=after.seen) == after
    return not same or after.seen - before.seen >= heartbeat * _OLD
