"""What one process holds of a shared budget, and what of it is not written down yet."""

from __future__ import annotations

from typing import TYPE_CHECKING
from uuid import uuid4

from .change import Change, ClockBounds, Ended, Wanted, encode

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .change import Outcome
    from .ledger import Lease
    from .queue import Waiter
    from .settings import Settings


class Holding:
    """Leases from their grant until their end is written down. Pure.

    A process has one change under way at a time. What ends meanwhile goes into the next.

    Attributes:
        held: the leases that have not come back.
        ended: those that came back and are not in a change yet.
        bounds: the store's clock as of the last change; None before any.
        failing: whether the last change failed.
    """

    def __init__(self, settings: Settings) -> None:
        self.held: set[Lease] = set()
        self.ended: list[Ended] = []
        self.bounds: ClockBounds | None = None
        self.failing = False
        self._settings = settings
        self._under_way: Change | None = None
        self._known: bytes | None = None  # the ledger as it was after the last change
        self._name = ""  # made with the first change, for a process that is forked until then

    def end(self, ended: Ended) -> bool:
        """Take a lease back, unless it is none of these."""
        if ended.lease not in self.held:
            return False
        self.held.discard(ended.lease)
        self.ended.append(ended)
        return True

    def begin(self, waiters: Iterable[Waiter], *, apart: bool) -> Change:
        """Make a change of what has ended and what callers wait for."""
        self._name = self._name or uuid4().hex
        ended, self.ended = self.ended, []
        change = self._under_way = Change(
            self._settings,
            self._name,
            sum(lease.weight for lease in self.held) + sum(end.lease.weight for end in ended),
            self._known,
            self.bounds or ClockBounds(0.0, 0.0),
            ended,
            [Wanted(waiter.weight, waiter.reserve) for waiter in waiters],
            apart=apart,
        )
        return change

    def done(self, outcome: Outcome) -> None:
        """Know what the change under way came to."""
        self._under_way, self.failing = None, False
        self._known, self.bounds = encode(outcome.ledger), outcome.bounds
        self.held.update(outcome.leases)

    def undo(self, change: Change | None) -> None:
        """Let the next change do again what one that failed or was cancelled may not have done."""
        if change is not None and change is self._under_way:
            self._under_way, self.failing = None, True
            self.ended[:0] = change.ended
