"""What one process holds of a shared budget, and what of it is not written down yet."""

from __future__ import annotations

import os
from math import inf
from typing import TYPE_CHECKING, Self
from uuid import uuid4

from ..errors import StoreError
from .change import Change, ClockBounds, Ended, Wanted
from .stored import encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .._runtime import Runtime
    from .change import Outcome
    from .ledger import Lease
    from .queue import Waiter
    from .settings import Settings


class Holding:
    """Leases from their grant until their end is written down.

    A process has one change under way at a time. What ends meanwhile goes into the next.

    Attributes:
        held: the leases that have not come back.
        ended: those that came back and are not in a change yet.
        bounds: the store's clock as of the last change.
        told_at: the local time at which the store last had this process's word, or before.
        failing: whether the last change failed.
        closed: whether nothing more is written down.
    """

    def __init__(self, settings: Settings, runtime: Runtime, group: str, process: int = 0) -> None:
        self.held: set[Lease] = set()
        self.ended: list[Ended] = []
        self.bounds: ClockBounds = ClockBounds(0.0, 0.0)
        self.told_at: float = -inf
        self.failing: bool = False
        self.closed: bool = False
        self._settings = settings
        self._runtime = runtime
        self._group = group
        self._process = process  # the one that it is used in, from the first change on
        self._name = ""  # of that process
        self._under_way: Change | None = None
        self._known: bytes | None = None  # the ledger as it was after the last change
        self._ahead = 0.0  # of the monotonic clock, the wall clock after the last change

    @property
    def forked(self) -> bool:
        """Whether this is a child of the process that used it."""
        return self._process not in {0, os.getpid()}

    def check(self) -> None:
        """Raise what a call in this process can know at once.

        Raises:
            StoreError: this is a child of the process that used it.
        """
        if self.forked:
            raise StoreError("a budget that was in use cannot be forked; make one in each process")

    def again(self) -> Self:
        """Return one for another exchange."""
        return type(self)(self._settings, self._runtime, self._group, self._process)

    def counts(self, lease: Lease, *, apart: bool) -> bool:
        """Whether a lease is surely still counted: by the other processes, or by this one, apart.

        They take this process for dead when they have not heard of it for `transit` seconds. The
        monotonic clock stands still while a machine sleeps, the wall clock does not.
        """
        if lease not in self.held or self.forked:
            return False
        monotonic, wall = self._runtime.monotonic(), self._runtime.wall()
        silent = monotonic - self.told_at + max(0.0, wall - monotonic - self._ahead)
        return apart or silent <= self._settings.transit / 2

    def end(self, ended: Ended) -> bool:
        """Take a lease back, unless it is none of these."""
        if ended.lease not in self.held or self.closed or self.forked:
            return False
        self.held.discard(ended.lease)
        self.ended.append(ended)
        return True

    def unwritten(self, lease: Lease) -> Ended | None:
        """Return the end of a lease that no finished change has written down."""
        under_way = [] if self._under_way is None else self._under_way.ended
        pending = (each for each in (*self.ended, *under_way) if each.lease is lease)
        return next(pending, None)

    def begin(self, exchange: str, waiters: Iterable[Waiter], *, apart: bool) -> Change:
        """Make a change of what has ended and what callers wait for."""
        self._process = os.getpid()
        self._name = self._name or uuid4().hex
        ended, self.ended = self.ended, []
        change = self._under_way = Change(
            self._settings,
            f"{exchange} {self._group}",
            self._name,
            sum(lease.weight for lease in self.held) + sum(end.lease.weight for end in ended),
            self._known,
            self.bounds,
            ended,
            [Wanted(waiter.weight, waiter.reserve) for waiter in waiters],
            apart=apart,
        )
        return change

    def done(self, outcome: Outcome) -> None:
        """Know what the change under way came to."""
        self._under_way, self.failing = None, False
        self._known, self.bounds = encode(outcome.ledger), outcome.bounds
        self.told_at = outcome.told_at
        self._ahead = self._runtime.wall() - self._runtime.monotonic()
        self.held.update(outcome.leases)

    def undo(self, change: Change | None = None) -> None:
        """Let the next change do again what the one under way may not have done.

        Args:
            change: the one that failed or was cancelled; None for any.
        """
        under_way = self._under_way
        if under_way is not None and (change is None or change is under_way):
            self._under_way, self.failing = None, True
            self.ended[:0] = under_way.ended
