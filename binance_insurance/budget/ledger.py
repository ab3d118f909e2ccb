"""What a token bucket knows at one time: the value that is stored and that processes share."""

from __future__ import annotations

from math import inf

from msgspec import Struct, field

from .clock import ExchangeClock
from .refusals import Refusals


class Lease(Struct, eq=False, gc=False):
    """Weight that was granted for one request. Settle it or give it back, once.

    Attributes:
        weight: the request weight that was charged.
        sent_at: local monotonic time of the grant; the request leaves no earlier. Code that holds
            the request back moves this on, or its loss would count as settled too early.
        window: the start of the window whose account was charged.
        number: the number of the probe; 0 for any other request.
        open: whether it was neither settled nor given back yet.
    """

    weight: int
    sent_at: float
    window: float
    number: int = 0
    open: bool = True


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
        reported: the highest used weight that an answer of this window has reported.
        unsettled: weight that was granted and is not known to be within `reported`.
        lost: the part of it that is no longer in flight: an answer to a request sent from this
            time on settles that weight. The last item is whether it was answered, so it has
            arrived.
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
    unsettled: int = 0
    lost: list[tuple[float, int, bool]] = []
    trusted_until: float = -inf
    probes: int = 0
    probe_until: float = -inf
    early: Early = field(default_factory=Early)
    silent: int = 0

    def shift(self, by: float) -> None:
        """Express all times by a local clock that shows so many seconds more."""
        self.clock.shift(by)
        self.refusals.shift(by)
        self.lost = [(since + by, weight, answered) for since, weight, answered in self.lost]
        self.ends_at += by
        self.trusted_until += by
        self.probe_until += by
        self.early.at += by

    def distrust(self) -> None:
        """Let one request be sent ahead of the rest again."""
        self.trusted_until = self.probe_until = -inf

    def correct(self, weight: int) -> None:
        """Count weight that was granted and not written down; negative, the other way round."""
        self.unsettled += weight
        self.spent = max(self.reported, self.spent + weight)

    def merge(self, other: Ledger) -> None:
        """Learn what another ledger knows of windows; its granted weight is not taken over."""
        if other.window > self.window:
            self.clock, self.window, self.ends_at = other.clock, other.window, other.ends_at
            self.reported = self.spent = 0
        if other.window == self.window:
            self.reported = max(self.reported, other.reported)
            self.spent = max(self.spent, self.reported)
        self.distrust()
