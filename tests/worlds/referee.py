"""What must hold in every world, and what excuses a refusal.

The referee sees each request leave, arrive and be answered. It knows the rules of the exchange and
nothing of how a budget works.

Silent after a refusal
    A process knows of a 429 or a 418 a tenth of a second after it has read the answer, the others
    on its budget `LAG` later. What leaves after that and arrives before the true end is a
    violation. After a freeze one request goes first: until it has ended, or for interval/60, no
    other leaves.

Never the cause of a 429
    A refusal is excused by the weight that nobody could know of when the request left: what other
    clients have spent since the newest report that its process could have read, and what a lost
    ledger alone had known. A report can be read if its answer has a used weight and a date, and can
    be placed in its window: its request left when that window was known to have begun. A node that
    reports late hides what it has not seen yet, our own weight included. An answer that names a
    false date takes away what was known before it, since windows follow the date.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from functools import partial
from math import floor, inf
from typing import TYPE_CHECKING

from msgspec import Struct

from .loop import Process

if TYPE_CHECKING:
    from .loop import WorldLoop
    from .plan import Plan

AT_ONCE = 0.1  # seconds until a process keeps what it has read
LAG = 0.3  # seconds until the other processes on a budget know it
_REWRITTEN = 1.0  # seconds between two writes of a ban that a lost ledger has forgotten
_SHARE = 60  # the rest waits interval/60 for the first after a freeze
_ROUNDING = 1e-3


class Sent:
    """A request that left."""

    def __init__(
        self,
        number: int,
        process: Process,
        client: object,
        endpoint: str,
        symbol: str | None,
        weight: int,
        left: float,
    ) -> None:
        self.number = number
        self.process = process
        self.client = client
        self.endpoint = endpoint
        self.symbol = symbol
        self.weight = weight
        self.left = left
        self.arrived: float | None = None
        self.window = -1
        self.counted = -inf  # when, by the exchange's clock
        self.used = 0
        self.reported: float | None = None  # the exchange's time of the sum that it can read
        self.status = 0
        self.ended: float | None = None
        self.good = False  # whether nothing is wrong with the answer
        self.known: dict[int, _Known] = {}  # by window

    def __repr__(self) -> str:
        asked = self.endpoint if self.symbol is None else f"{self.endpoint}?symbol={self.symbol}"
        return f"#{self.number} {self.process} {asked}"


class _Known(Struct, frozen=True):
    """What the process of a request knew of a window when it left.

    Attributes:
        since: the exchange's time of the newest sum that it surely knew.
        hidden: what the reports that it may have believed did not show yet: spans of that time.
    """

    since: float = -inf
    hidden: tuple[tuple[float, float], ...] = ()


class Refusal:
    """A 429 or 418, and until when it forbids."""

    def __init__(self, sent: Sent, end: float) -> None:
        self.sent = sent
        self.end = end
        self.read_by: dict[Process, float] = {}
        self.spread_at: float | None = None
        self.first: Sent | None = None  # that left after it,
        self.first_knows = False  # and whether its process knew of it

    @property
    def is_ban(self) -> bool:
        return self.sent.status == 418

    def known_since(self, process: Process) -> float:
        """Return from when on a process knows it; infinite if it does not."""
        known = self.read_by.get(process, inf) + AT_ONCE
        if self.spread_at is not None:
            known = min(known, max(self.spread_at, process.resumed_at + LAG))
        return known


class _Reading:
    """The used weight that a process has read."""

    def __init__(self, sent: Sent, reported: float, at: float) -> None:
        self.sent = sent
        self.reported = reported
        self.at = at
        self.spread_at: float | None = None

    def spread(self, at: float) -> None:
        self.spread_at = at


class Referee:
    """Watches one world."""

    def __init__(self, plan: Plan, loop: WorldLoop, epoch: float) -> None:
        self.violations: list[str] = []
        self.excused = 0
        self.refusals: list[Refusal] = []
        self.sent: list[Sent] = []
        self.trace: deque[str] = deque(maxlen=100_000)
        self._plan = plan
        self._loop = loop
        self._epoch = epoch  # the exchange's time at loop time 0
        self._others: list[tuple[float, int]] = []
        self._readings: list[_Reading] = []
        self._proved: dict[int, float] = {}
        self._any_date = False
        self._slack = (
            1.01 + plan.latency[1] + (0.5 * plan.attempt_timeout if plan.slow_bodies else 0)
        )
        self._losses: list[float] = []
        self._lies: list[float] = []

    def log(self, text: str) -> None:
        self.trace.append(f"{self._loop.time():9.3f} {text}")

    def blame(self, kind: str, text: str) -> None:
        """Record a violation."""
        self.log(f"VIOLATION {kind}: {text}")
        self.violations.append(f"{self._loop.time():.3f} {kind}: {text}")

    def story(self) -> str:
        """Tell the violations, and what happened just before the first."""
        lines = list(self.trace)
        first = next((n for n, line in enumerate(lines) if " VIOLATION " in line), 0)
        return "\n".join([*lines[max(0, first - 40) : first + 1], "", *self.violations])

    # What happens

    def left(self, sent: Sent) -> None:
        """A request leaves."""
        self.sent.append(sent)
        self.log(f"{sent!r} leaves")
        now = self._loop.time()
        window = floor((now + self._epoch) / self._plan.interval)
        sent.known = {each: self._known(sent, each) for each in (window, window + 1)}
        for refusal in self.refusals:
            if not refusal.is_ban and refusal.read_by and refusal.end <= now:
                self._follow(refusal, sent)

    def _follow(self, refusal: Refusal, sent: Sent) -> None:
        """After a freeze one request goes first; it may be one that knows nothing of it."""
        first, knows = refusal.first, refusal.known_since(sent.process) <= sent.left
        if first is None or (knows and not refusal.first_knows and first.ended is None):
            refusal.first, refusal.first_knows = sent, knows
        elif (
            knows
            and first.ended is None
            and sent.left < first.left + self._plan.interval / _SHARE - _ROUNDING
        ):
            self.blame(
                "not one first",
                f"{sent!r} leaves before {first!r} is answered, after the freeze by "
                f"{refusal.sent!r} that ended at {refusal.end:.3f}",
            )

    def arrived(self, sent: Sent, *, caused: bool) -> None:
        """The exchange has counted a request; `caused`: it refuses it for the weight."""
        now = self._loop.time()
        self.log(f"{sent!r} arrives: {sent.status}, used {sent.used}")
        for refusal in self.refusals:
            known = refusal.known_since(sent.process)
            if sent.left >= known and now < refusal.end:
                self.blame(
                    "not silent",
                    f"{sent!r} left at {sent.left:.3f}, in the "
                    f"{'ban' if refusal.is_ban else 'freeze'} by {refusal.sent!r} known since "
                    f"{known:.3f}, until {refusal.end:.3f}",
                )
        if caused:
            self._judge(sent)

    def others_spend(self, at: float, weight: int) -> None:
        """Other clients have spent weight, at a time of the exchange's clock."""
        self._others.append((at, weight))

    def refuses(self, sent: Sent, end: float) -> Refusal:
        """The exchange answers 429 or 418; `end`: of the freeze or ban."""
        refusal = Refusal(sent, end)
        self.refusals.append(refusal)
        return refusal

    def reads(self, sent: Sent, date: float | None, refusal: Refusal | None, *, lie: bool) -> None:
        """A process has an answer, whole; `date` is what it says, `lie` whether that is false."""
        now, process = self._loop.time(), sent.process
        sent.ended = now
        self.log(f"{sent!r} is read: {sent.status}")
        if lie:
            self._lies.append(now)
        elif date is not None:
            self._any_date = True
            self._proved.setdefault(floor(date / self._plan.interval), now)
            if sent.reported is not None and sent.left >= self._known_to_have_begun(sent):
                reading = _Reading(sent, sent.reported, now)
                self._readings.append(reading)
                if self._plan.shared:
                    self._when_written(process, reading.spread)
        if refusal is not None:
            refusal.read_by.setdefault(process, now)
            self.log(f"{process} knows: {sent.status} until {refusal.end:.3f}")
            if self._plan.shared:
                self._when_written(process, partial(self._spread, refusal))

    def ends(self, sent: Sent) -> None:
        """A request has ended without an answer that was read."""
        if sent.ended is None:
            sent.ended = self._loop.time()
            self.log(f"{sent!r} ends without an answer")

    def ledger_lost(self, alive: list[Process]) -> None:
        """What nobody but the ledger knew is forgotten."""
        now = self._loop.time()
        self._losses.append(now)
        for refusal in self.refusals:
            refusal.spread_at = None
        for reading in self._readings:
            reading.spread_at = None
        self.log(f"the ledger is lost; alive: {alive}")

    def told_banned(self, process: Process) -> None:
        """A call was refused since the IP is banned: its process knows, and writes it down."""
        for refusal in self.refusals:
            if refusal.is_ban and refusal.end > self._loop.time():
                if refusal.spread_at is not None:
                    refusal.read_by.setdefault(process, self._loop.time())
                elif process in refusal.read_by and self._plan.shared:
                    self._later(process, partial(self._spread, refusal), _REWRITTEN + LAG)

    # What excuses

    def _judge(self, sent: Sent) -> None:
        known = sent.known.get(sent.window, _Known())
        unread = sum(
            weight
            for at, weight in self._others
            if at > known.since and floor(at / self._plan.interval) == sent.window
        )
        ours = [each for each in self.sent if each.window == sent.window]
        forgotten = {
            each for each in ours if each.counted > known.since and self._forgot(sent, each)
        }
        hidden = [
            sum(
                each.weight for each in ours if low < each.counted <= high and each not in forgotten
            )
            for low, high in known.hidden
        ]
        unknown = sum(each.weight for each in forgotten) + max(hidden, default=0)
        if sent.used - unread - unknown > self._plan.limit:
            self.blame(
                "refused",
                f"{sent!r} (left {sent.left:.3f}): used {sent.used} of {self._plan.limit}; "
                f"unread of others {unread}, unknown of ours {unknown}",
            )
        else:
            self.excused += 1
            self.log(f"excused: unread of others {unread}, unknown of ours {unknown}")

    def _known(self, sent: Sent, window: int) -> _Known:
        """Return what a process knows of a window when a request leaves it."""
        readings = [each for each in self._readings if each.sent.window == window]
        known = [each for each in readings if self._knows(sent, each)]
        newest = max(known, key=lambda each: each.reported, default=None)
        believed = [each for each in readings if each is newest or each.at >= sent.left - LAG]
        return _Known(
            -inf if newest is None else newest.reported,
            tuple((each.reported, each.sent.counted) for each in believed),
        )

    def _knows(self, sent: Sent, reading: _Reading) -> bool:
        now, process = sent.left, sent.process
        if any(reading.sent.left < lie for lie in self._lies):
            return False
        if reading.sent.process is process:
            return reading.at + (AT_ONCE if self._plan.shared else 0.0) <= now
        return reading.spread_at is not None and process.resumed_at + LAG <= now

    def _forgot(self, sent: Sent, other: Sent) -> bool:
        """Return whether the process that sends cannot know of another request."""
        if any(other.left < lie <= sent.left for lie in self._lies):
            return True
        return other.process is not sent.process and any(
            other.left < loss + LAG and loss <= sent.left for loss in self._losses
        )

    def _known_to_have_begun(self, sent: Sent) -> float:
        certain = inf
        if self._any_date:
            start = sent.window * self._plan.interval - self._epoch
            certain = start + self._slack + sent.process.longest_pause
        return min(self._proved.get(sent.window, inf), certain)

    def _when_written(self, process: Process, act: Callable[[float], None]) -> None:
        """Act when what a process has read is in the ledger, unless that is lost before."""
        losses = len(self._losses)

        def written(at: float) -> None:
            if losses == len(self._losses):
                act(at)

        self._later(process, written)

    def _later(self, process: Process, act: Callable[[float], None], seconds: float = LAG) -> None:
        """Act when a process has lived so long, pauses not counted."""

        def live() -> None:
            if not process.retired:
                act(self._loop.time())

        self._loop.call_later(seconds, live, context=process.context)

    def _spread(self, refusal: Refusal, at: float) -> None:
        if refusal.spread_at is None:
            refusal.spread_at = at
            self.log(f"all know of {refusal.sent!r}: {refusal.sent.status}")
