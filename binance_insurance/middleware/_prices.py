"""What each kind of request is charged, corrected by what answers report. Pure.

The used weight that an answer reports, less the used weight that was known when its request was
sent, is an upper bound of what the request weighs: others on the IP can only have added to it.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, NamedTuple

from ..budget.refusals import BANNED

if TYPE_CHECKING:
    from collections.abc import Callable

    from ..budget import Report
    from ..weights import Facts

_ENOUGH = 3  # so many measurements in a row, each with nothing else in flight, are believed
_MOST_PRICES = 1_000  # kinds of requests that are remembered


class Used(NamedTuple):
    """Used weight that an answer has reported, and the number of the window of its date."""

    weight: int
    window: float


class Price:
    """What one kind of request is charged.

    Attributes:
        weight: what it is charged now.
        open: whether bounds may lower it. Else only measurements change it.
    """

    __slots__ = ("_alone", "_at_first", "_least", "_lowest", "_waiting", "open", "weight")

    def __init__(self, facts: Facts) -> None:
        self.weight = self._at_first = facts.at_first
        self._least = facts.weight if facts.known else 1
        self.open = facts.at_first > self._least
        self._lowest: tuple[int, ...] = ()  # two at most
        self._alone: deque[int] = deque(maxlen=_ENOUGH)
        self._waiting: dict[Callable[[], None], None] = {}

    @property
    def raised(self) -> bool:
        """Whether answers have shown more than what it is charged at first."""
        return self.weight > self._at_first

    def charge(self, capacity: int) -> int:
        """Return what to charge where a window has room for `capacity`.

        What was learned may be too much, since others add to it. It is no reason never to send.
        """
        return max(self._at_first, min(self.weight, capacity)) if self.raised else self.weight

    def needs(self, bound: int) -> bool:
        """Return whether it matters that nothing else was in flight beside a request."""
        return bound > self._least

    def learn(self, bound: int, *, alone: bool) -> None:
        """Learn from one answer.

        Args:
            bound: upper bound of what its request weighs; below 0 if it is none.
            alone: whether it is a measurement: nothing else of the budget came in between.
        """
        if bound < 0:
            return
        if self.open:
            self._lowest = tuple(sorted((*self._lowest, bound)))[:2]
        if bound <= self._least:
            self._alone.clear()
        elif alone:
            self._alone.append(bound)
        self._change(max(self._least, self._bounded(), self._measured()))

    def _bounded(self) -> int:
        """Return what the bounds say: the higher of the two lowest."""
        return self._lowest[1] if len(self._lowest) == 2 else self._at_first

    def _measured(self) -> int:
        """Return what the last measurements say, once there are enough."""
        return min(self._alone) if len(self._alone) == _ENOUGH else 0

    def _change(self, weight: int) -> None:
        """Charge another weight, also those that wait."""
        if weight != self.weight:
            self.weight = weight
            for again in list(self._waiting):
                again()

    def tell(self, again: Callable[[], None]) -> None:
        """Call `again` whenever the weight changes, until `forget`."""
        self._waiting[again] = None

    def forget(self, again: Callable[[], None]) -> None:
        """Do not call it any more."""
        self._waiting.pop(again, None)


class Prices:
    """What the requests of one budget are charged.

    Args:
        interval: seconds of the budget's window.

    Attributes:
        sent: so many requests were sent.
        used: the highest used weight of the newest window that an answer was of.
    """

    def __init__(self, interval: int) -> None:
        self.sent = 0
        self._interval = interval
        self._prices: dict[tuple[str, int, int], Price] = {}
        self.used: Used | None = None

    def of(self, facts: Facts) -> Price:
        """Return the price of a request."""
        key = (facts.name, facts.weight, facts.at_first)  # it weighs more or less by its query
        price = self._prices.get(key)
        if price is None:
            if len(self._prices) >= _MOST_PRICES:
                del self._prices[next(iter(self._prices))]
            price = self._prices[key] = Price(facts)
        return price

    def note(self, report: Report) -> Used | None:
        """Note the used weight that an answer reports; None if it cannot be compared."""
        weight, date, last = report.used_weight, report.date, self.used
        if weight is None or date is None or report.status == BANNED:
            return None
        used = Used(weight, date // self._interval)
        if (
            last is None
            or used.window > last.window
            or (used.window == last.window and weight > last.weight)
        ):
            self.used = used
        return used
