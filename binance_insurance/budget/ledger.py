"""What a token bucket knows at one time: the value that is stored and that processes share."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING, Literal, NamedTuple

from msgspec import Struct, field

from .clock import ExchangeClock
from .refusals import Refusals

if TYPE_CHECKING:
    from collections.abc import Callable


class Lease(Struct, eq=False, gc=False):
    """Weight that was granted for one request. Settle it or give it back, once.

    Attributes:
        weight: the request weight that was charged.
        sent_at: local monotonic time of the grant; the request leaves no earlier. Code that holds
            the request back moves this on, or its loss would count as settled too early.
        window: the start of the window whose account was charged.
        number: the number of the probe; 0 for any other request.
        reserve: the part of the limit that the grant left to others.
        open: whether it was neither settled nor given back yet.
    """

    weight: int
    sent_at: float
    window: float
    number: int = 0
    open: bool = True
    reserve: int = 0


Kind = Literal["lost", "answered", "early", "lagging", "overtaken"]
COUNTED = ("lagging", "overtaken")  # in the window that was open, so not in the next


class Lost(NamedTuple):
    """Weight that is no longer in flight, and that the highest reported sum may lack.

    Attributes:
        settled_from: an answer to a request sent from this time on settles it.
        weight: the weight.
        kind: `lost`, or how it was answered, so it has arrived. `lagging` and `overtaken`: the
            answer reported less than the highest sum of its window, after that was known or while
            both were in flight; unless a node lags, the highest sum has what was overtaken.
            `early`: it reported a sum of `Early`; so the highest of these, if it is this window's.
    """

    settled_from: float
    weight: int
    kind: Kind = "lost"


class Early(Struct, omit_defaults=True):
    """The highest used weight that was reported around a rollover: of the old or the new window.

    Attributes:
        used: the used weight; 0 if there is none.
        at: when the last such answer arrived.
    """

    used: int = 0
    at: float = -inf


class Ledger(Struct, omit_defaults=True):
    """All that a token bucket knows. Times are local monotonic seconds.

    Attributes:
        clock: bounds on the exchange's clock.
        refusals: the freeze and the ban.
        window: the start of the window by the exchange's clock. Before any date, windows are
            numbered by negative multiples of `interval`.
        ends_at: when it rolls over.
        spent: weight of this window: what was reported, and what was granted since.
        reported: the highest used weight that an answer of this window has reported,
        reported_at: and when that was.
        unsettled: weight that was granted and is not known to be within `reported`.
        lost: the part of it that is no longer in flight.
        trusted_until: until when the newest believed answer is recent enough.
        probes: the number of probes that were sent,
        probe_until: and until when the others wait for the newest one.
        early: used weight that may be that of either window around a rollover.
        silent: so many answers without a used weight in a row.
    """

    clock: ExchangeClock = field(default_factory=ExchangeClock)
    refusals: Refusals = field(default_factory=Refusals)
    window: float = -1e9
    ends_at: float = inf
    spent: int = 0
    reported: int = 0
    reported_at: float = -inf
    unsettled: int = 0
    lost: list[Lost] = []
    trusted_until: float = -inf
    probes: int = 0
    probe_until: float = -inf
    early: Early = field(default_factory=Early)
    silent: int = 0

    @property
    def in_flight(self) -> int:
        """The unsettled weight of requests without an answer."""
        return self.unsettled - sum(each.weight for each in self.lost if each.kind != "lost")

    def answered(self, kind: Kind) -> int:
        """Return the unsettled weight that was answered so."""
        return sum(each.weight for each in self.lost if each.kind == kind)

    def shift(self, by: float) -> None:
        """Express all times by a local clock that shows so many seconds more."""
        self.clock.shift(by)
        self.refusals.shift(by)
        self.lost = [each._replace(settled_from=each.settled_from + by) for each in self.lost]
        self.ends_at += by
        self.reported_at += by
        self.trusted_until += by
        self.probe_until += by
        self.early.at += by

    def lose(self, weight: int, settled_from: float, kind: Kind = "lost") -> None:
        """Keep weight that the highest reported sum may lack; see `Lost`."""
        if weight:
            self.lost.append(Lost(settled_from, weight, kind))

    def settle_lost(self, settled: Callable[[Lost], bool]) -> None:
        """Settle what is settled; of what was answered, `spent` stays."""
        kept: list[Lost] = []
        for each in self.lost:
            if not settled(each):
                kept.append(each)
                continue
            self.unsettled -= each.weight
            if each.kind == "lost":  # now the reported sum has it, or it never came
                self.spent = max(self.reported, self.spent - each.weight)
        self.lost = kept

    def distrust(self) -> None:
        """Let one request be sent ahead of the rest again."""
        self.trusted_until = self.probe_until = -inf

    def correct(self, weight: int) -> None:
        """Count weight that was granted and not written down; negative, the other way round."""
        self.unsettled += weight
        self.spent = max(self.reported, self.spent + weight)

    def merge(self, other: Ledger) -> bool:
        """Learn what another ledger was told of windows; its granted weight is not taken over.

        Returns whether any of it was new.
        """
        if other.window > self.window:
            self.clock, self.window, self.ends_at = other.clock, other.window, other.ends_at
            self.reported, self.spent, self.early = 0, 0, Early()
        elif other.window < self.window or not self._lacks(other):
            return False
        if other.early.used > self.early.used:
            self.early = Early(other.early.used, max(self.early.at, other.early.at))
        self.reported = max(self.reported, other.reported)
        self.spent = max(self.reported, self.spent)
        self.distrust()
        return True

    def _lacks(self, other: Ledger) -> bool:
        """Return whether a ledger of the same window was told more than this one.

        A sum reported around a rollover is gone where an answer has been believed since.
        """
        return other.reported > self.reported or (
            other.early.used > self.early.used and other.trusted_until >= self.trusted_until
        )
