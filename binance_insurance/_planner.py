"""The fewest requests for a set of symbols. Pure decisions: it sends nothing and reads no clock.

A pool's answer names every symbol that the pool covers, so one request answers for all of them;
the request without symbol answers for everything, at the weight of many. What earlier answers
showed of the grouping decides which is cheaper, and is checked by every answer that follows,
because the exchange moves symbols between pools.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING

from .errors import BadRequestError, DecodeError, ForbiddenError, IPBannedError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .errors import InsuranceError
    from .models import InsurancePool, InsuranceSnapshot

_MOST_SYMBOLS = 20_000  # the exchange lists about 900
_DISCOVERY_WIDTH = 8
_DOCUMENTED_WEIGHT = 40
_REMEMBERED_WEIGHTS = 3


class Group:
    """The symbols that one answer named together, and the newest answer that did."""

    __slots__ = ("observed_at", "pool", "symbols")

    def __init__(self, pool: InsurancePool, observed_at: float) -> None:
        self.symbols = pool.symbols
        self.pool = pool
        self.observed_at = observed_at


class Grouping:
    """Which symbols share a pool, as far as the answers have shown. Bounded memory."""

    def __init__(self) -> None:
        self._groups: dict[str, Group] = {}

    def learn(self, pool: InsurancePool, observed_at: float) -> None:
        """Take note of an answer; `observed_at` is local monotonic time."""
        group = self._groups.get(pool.symbols[0])
        if group is not None and group.symbols == pool.symbols:
            group.pool, group.observed_at = pool, observed_at
            return
        if len(self._groups) + len(pool.symbols) > _MOST_SYMBOLS:
            self._groups.clear()
        group = Group(pool, observed_at)
        for symbol in pool.symbols:
            self._groups[symbol] = group

    def group_of(self, symbol: str) -> Group | None:
        """Return the group that a symbol was last seen in."""
        return self._groups.get(symbol)

    def recall(self, symbol: str, since: float) -> InsurancePool | None:
        """Return the newest answer that names a symbol, if it is no older than `since`."""
        group = self._groups.get(symbol)
        return group.pool if group is not None and group.observed_at >= since else None


class SnapshotWeight:
    """What the request without symbol weighs, learned from the used weight around it.

    Documented as 1, measured as 40 by a third party: 40 is charged until our own answers show
    otherwise. Other clients can only make a difference look larger, so the lowest of the last
    few counts.

    Attributes:
        value: the request weight to charge.
    """

    def __init__(self) -> None:
        self.value = _DOCUMENTED_WEIGHT
        self._seen: deque[int] = deque(maxlen=_REMEMBERED_WEIGHTS)

    def learn(self, used_before: int, used_after: int) -> None:
        """Take note of a clean difference: one window, and nothing else of ours in flight."""
        if used_after > used_before:
            self._seen.append(used_after - used_before)
            self.value = min(self._seen)


class Plan:
    """Decides what to ask next for a set of symbols, from what has been answered so far.

    One request for each distinct known pool, concurrently; the one without symbol when that
    weighs less than what remains; symbols of unknown grouping a few at a time, so that an answer
    can cover others before they are asked for. A symbol that has left its group, or that no pool
    names, is asked for by itself, so that its error is the exchange's own.

    Args:
        symbols: what to ask for.
        grouping: what is known of it; it may learn while the plan runs.
        snapshot_weight: of the request without symbol; None if it cannot be afforded at all.
        width: requests at once.

    Attributes:
        pools: the pool of each symbol that was found.
        errors: the error of each symbol that was not.
    """

    def __init__(
        self, symbols: Iterable[str], grouping: Grouping, *, snapshot_weight: int | None, width: int
    ) -> None:
        self.pools: dict[str, InsurancePool] = {}
        self.errors: dict[str, InsuranceError] = {}
        self._grouping = grouping
        self._snapshot_weight = snapshot_weight
        self._width = width
        self._open = dict.fromkeys(symbols)  # in the order asked
        self._alone: set[str] = set()  # what is known of their groups was wrong
        self._flying: dict[str, list[str]] = {}  # asked for: it, and what its answer should cover
        self._discovering: set[str] = set()  # of these, those of unknown grouping
        self._behind_snapshot: list[str] | None = None
        self._snapshot_done = False
        self._spent = 0  # requests for single symbols

    def next(self) -> list[str | None]:
        """Return what to ask for now (None: without symbol), and take it as asked."""
        if self._behind_snapshot is not None or not self._open:
            return []
        known: dict[Group, list[str]] = {}
        unknown: list[str] = []
        for symbol in self._open:
            group = None if symbol in self._alone else self._grouping.group_of(symbol)
            if group is None:
                unknown.append(symbol)
            else:
                known.setdefault(group, []).append(symbol)
        # The largest first: if they have moved, it is better known early.
        asks = sorted(known.values(), key=len, reverse=True)
        if self._snapshot_is_lighter(asks, unknown):
            self._behind_snapshot = list(self._open)
            self._open.clear()
            return [None]
        room = max(0, self._width - len(self._flying))
        # After the snapshot nothing is left to be discovered, only errors to be fetched.
        narrow = room if self._snapshot_done else _DISCOVERY_WIDTH - len(self._discovering)
        discoveries = unknown[: max(0, min(room - len(asks), narrow))]
        chosen: list[str | None] = []
        for symbols in [*asks[:room], *([symbol] for symbol in discoveries)]:
            if not self._may_ask():
                break
            asked = symbols[0]
            if asked in discoveries:
                self._discovering.add(asked)
            self._flying[asked] = symbols
            self._spent += 1
            for symbol in symbols:
                del self._open[symbol]
            chosen.append(asked)
        return chosen

    def _snapshot_is_lighter(self, asks: list[list[str]], unknown: list[str]) -> bool:
        weight = None if self._snapshot_done else self._snapshot_weight
        if weight is None:
            return False
        if weight < len(asks) + len(unknown):
            return True
        if self._spent:
            return not self._may_ask() and not self._flying
        # More groups than go at once: the last ones must not hold too much to be asked again.
        late = [*asks, *([symbol] for symbol in unknown)][self._width :]
        return sum(map(len, late)) > weight

    def _may_ask(self) -> bool:
        """Tell whether another request keeps to the bound, whatever has moved.

        The bound is the snapshot's weight and what goes at once. So beyond the first `width`
        requests, even all that is still to be found must fit, one by one.
        """
        if self._snapshot_done or self._snapshot_weight is None or self._spent < self._width:
            return True
        behind = sum(len(symbols) - 1 for symbols in self._flying.values())
        return self._spent + len(self._open) + behind <= self._snapshot_weight + self._width

    def is_alone(self, symbol: str) -> bool:
        """Tell whether a symbol must be asked for by itself."""
        return symbol in self._alone

    def answered(self, asked: str, pool: InsurancePool) -> None:
        """Take note of the answer to a request for one symbol."""
        self._discovering.discard(asked)
        for symbol in self._flying.pop(asked):
            if symbol in pool.symbols:
                self.pools[symbol] = pool
            else:
                self._alone.add(symbol)
                self._reopen(symbol)
        covered = set(pool.symbols)
        for symbol in self._open.keys() & covered:
            del self._open[symbol]
            self.pools[symbol] = pool
        for other, behind in self._flying.items():
            for symbol in covered.intersection(behind) - {other}:
                behind.remove(symbol)
                self.pools[symbol] = pool

    def failed(self, asked: str, error: InsuranceError) -> None:
        """Take note of a request for one symbol that failed for good."""
        self._discovering.discard(asked)
        behind = self._flying.pop(asked)
        if isinstance(error, (BadRequestError, DecodeError)):
            self.errors[asked] = error  # it says nothing about the others of the group
            for symbol in behind:
                if symbol != asked:
                    self._reopen(symbol)
            return
        self._give_up(behind, error)

    def answered_all(self, snapshot: InsuranceSnapshot) -> None:
        """Take note of the answer to the request without symbol."""
        waited, self._behind_snapshot = self._behind_snapshot or [], None
        self._snapshot_done = True
        for asked, behind in self._flying.items():
            waited += [symbol for symbol in behind if symbol != asked]
            del behind[1:]
        for symbol in waited:
            pool = snapshot.get(symbol)
            if pool is not None:
                self.pools[symbol] = pool
            else:
                self._alone.add(symbol)
                self._open[symbol] = None

    def failed_all(self, error: InsuranceError) -> None:
        """Take note that the request without symbol failed for good."""
        behind, self._behind_snapshot = self._behind_snapshot or [], None
        self._give_up(behind, error)

    def _reopen(self, symbol: str) -> None:
        if self._behind_snapshot is None:
            self._open[symbol] = None
        else:
            self._behind_snapshot.append(symbol)  # it is under way and will tell

    def _give_up(self, symbols: list[str], error: InsuranceError) -> None:
        if isinstance(error, (ForbiddenError, IPBannedError)):
            symbols = [*symbols, *self._open]  # it concerns the IP: asking on does harm
            self._open.clear()
        for symbol in symbols:
            self.errors[symbol] = error.about(symbol)
