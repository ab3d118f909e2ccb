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

from math import inf
from typing import TYPE_CHECKING

import msgspec
from msgspec.structs import replace

from ..errors import StoreError
from .ledger import Ledger
from .refusals import Refusals
from .window import TokenBucket

if TYPE_CHECKING:
    from .ledger import Lease
    from .report import Report
    from .settings import Settings

HEARTBEATS = 4  # so many in the time after which a silent process counts as dead
_VERSION = 2
_LEAST_LIFETIME = 3600.0


class Process(msgspec.Struct, omit_defaults=True):
    """One process: the weight that it holds, when it said so, and what its first caller wants."""

    weight: int
    seen: float
    wanted: int = 0
    reserve: int = 0


class SharedState(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The value in the store."""

    version: int
    ledger: Ledger = msgspec.field(default_factory=Ledger)
    processes: dict[str, Process] = {}


class _Ban(msgspec.Struct):
    """What is read of a ledger of another version."""

    ban_ends: float = -inf
    ban_end_utc: float = 0.0
    bans: int = 0


class _OtherLedger(_Ban):
    """Version 1 has the ban in the ledger itself, later ones in a part of it."""

    refusals: _Ban | None = None


class _OtherState(msgspec.Struct):
    version: int = 1
    ledger: _OtherLedger = msgspec.field(default_factory=_OtherLedger)


encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(SharedState).decode
_decode_other = msgspec.msgpack.Decoder(_OtherState).decode
_decode_ledger = msgspec.msgpack.Decoder(Ledger).decode


def new_state(ledger: Ledger | None = None) -> SharedState:
    """Make a value for a store that holds none."""
    return SharedState(version=_VERSION, ledger=ledger or Ledger())


def copy(ledger: Ledger) -> Ledger:
    """Return a copy that shares nothing."""
    return _decode_ledger(encode(ledger))


def read(value: bytes) -> SharedState | Refusals:
    """Read a stored value; of another version, only the ban.

    Raises:
        StoreError: it is no ledger of any version.
    """
    try:
        other = _decode_other(value)
        if other.version == _VERSION:
            return _decode(value)
    except msgspec.MsgspecError as error:
        raise StoreError(f"what the shared budget holds is not a ledger: {error}") from error
    ban = other.ledger.refusals or other.ledger
    return Refusals(-inf, ban.ban_ends, ban.ban_end_utc, ban.bans)


class ClockBounds(msgspec.Struct, frozen=True):
    """The store's clock: bounds on what to add to the local monotonic one."""

    low: float
    high: float


class Ended(msgspec.Struct):
    """An answer, or its loss, at a local time; a lease that came back unused has no answer."""

    lease: Lease
    at: float
    report: Report | None = None
    unused: bool = False

    def apply(self, bucket: TokenBucket, bounds: ClockBounds) -> None:
        """Let a bucket know of it, whose time is the store's."""
        lease = replace(self.lease, sent_at=self.lease.sent_at + bounds.low)
        if self.unused:
            bucket.give_back(lease)
        else:
            spread = bounds.high - bounds.low
            bucket.settle(lease, self.at + bounds.low, self.report, spread=spread)


class Wanted(msgspec.Struct, frozen=True):
    """What one caller waits for."""

    weight: int
    reserve: int


class Written(msgspec.Struct):
    """What a change wants: the new value, how long it matters, and whether to wake others."""

    value: bytes
    lifetime: float
    wake: bool


class Outcome(msgspec.Struct):
    """What a change came to: the newest ledger, and what this process was granted."""

    ledger: Ledger
    bounds: ClockBounds
    leases: list[Lease]


class Change:
    """One change; a store calls it with the newest value, perhaps several times.

    Args:
        settings: of the budget.
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
        self.in_flight = in_flight
        self.bounds = bounds
        self._settings = settings
        self._name = name
        self.ended = ended
        self._known = known
        self._wanted = wanted
        self._apart = apart

    def known(self) -> Ledger:
        """Return a copy of the ledger as it was after the last change."""
        return Ledger() if self._known is None else _decode_ledger(self._known)

    def __call__(self, value: bytes | None, now: float, bounds: ClockBounds) -> Written | None:
        """Return what to write in place of `value` at local time `now`, None to leave it.

        Raises:
            StoreError: the value is no ledger.
        """
        own = self.known()
        own.shift(bounds.low - self.bounds.low)
        found = None if value is None else read(value)
        if isinstance(found, SharedState):
            state = found
            news = state.ledger.refusals.merge(own.refusals) or self._apart
            if self._apart:
                state.ledger.merge(own)
        else:  # the value was lost, is not written yet, or is of another version
            state, news = new_state(own), found is not None
            if self._known is not None:
                TokenBucket(self._settings, own).restart(self.in_flight, now + bounds.low)
            if found is not None:
                own.refusals.merge(found)
        return self.apply(state, now, bounds, news=news)

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
        bucket = TokenBucket(self._settings, state.ledger)
        processes, now = state.processes, local + bounds.low
        me = processes.pop(self._name, None)
        in_flight = self._settle(bucket, 0 if me is None else me.weight, bounds)
        self._bury(bucket, processes, now)
        bucket.refresh(now)
        banned = state.ledger.refusals.banned_until(now) is not None
        leases = [] if banned else self._grant(bucket, now, least_reserve)
        in_flight += sum(lease.weight for lease in leases)
        for lease in leases:
            lease.sent_at = local
        wanted = self._wanted[len(leases) :][:1] if not banned else []
        wake = any(
            other.wanted and (banned or bucket.may_grant(other.wanted, now, other.reserve))
            for other in processes.values()
        )
        mine = None
        if in_flight or wanted:
            first = wanted[0] if wanted else Wanted(0, 0)
            mine = processes[self._name] = Process(in_flight, now, first.weight, first.reserve)
        self.outcome = Outcome(state.ledger, bounds, leases)
        if not (news or self.ended or leases or _is_due(me, mine, bucket.transit / HEARTBEATS)):
            return None
        lifetime = max(_LEAST_LIFETIME, state.ledger.refusals.ban_ends - now) + 2 * bucket.interval
        return Written(encode(state), lifetime, wake)

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
        for wanted in self._wanted:
            lease = bucket.take(wanted.weight, now, max(wanted.reserve, least_reserve))
            if lease is None:
                break
            leases.append(lease)
        return leases


def _is_due(before: Process | None, after: Process | None, heartbeat: float) -> bool:
    """Return whether what a process has written down of itself is no longer right, or old."""
    if before is None or after is None:
        return before is not after
    same = replace(before, seen=after.seen) == after
    return not same or after.seen - before.seen >= heartbeat
