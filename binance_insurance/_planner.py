"""The fewest requests for a set of symbols. Pure decisions: it sends nothing and reads no clock.

A pool's answer names every symbol that the pool covers, so one request answers for all of them;
the snapshot request answers for everything, at the weight of many. What earlier answers showed of
the grouping decides which is lighter, and is checked by every answer that follows, because the
exchange moves symbols between pools.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from .errors import BadRequestError, DecodeError, ForbiddenError, IPBannedError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from ._knowledge import Group, Knowledge
    from .errors import InsuranceError
    from .models import InsurancePool

_DISCOVERY_WIDTH = 8


def snapshot_is_lighter(snapshot_weight: int | None, requests: int) -> bool:
    """Return whether the snapshot request weighs less than so many requests for single symbols.

    Args:
        snapshot_weight: of the snapshot request; None if the budget can never afford it.
        requests: the requests that it would spare, each of weight 1.
    """
    return snapshot_weight is not None and snapshot_weight < requests


class Plan:
    """Decides what to ask next for a set of symbols, from what has been answered so far.

    One request for each distinct known pool, concurrently; the snapshot request when that weighs
    less than what remains; symbols of unknown grouping a few at a time, so that an answer
    can cover others before they are asked for. A symbol that has left its group, or that no pool
    names, is asked for by itself, so that its error is the exchange's own.

    Args:
        symbols: what to ask for.
        knowledge: which symbols share a pool; it may learn while the plan runs.
        snapshot_weight: of the snapshot request; None if the budget can never afford it.
        width: requests at once.

    Attributes:
        pools: the pool of each symbol that was found.
        errors: the error of each symbol that was not.
    """

    def __init__(
        self,
        symbols: Iterable[str],
        knowledge: Knowledge,
        *,
        snapshot_weight: int | None,
        width: int,
    ) -> None:
        self.pools: dict[str, InsurancePool] = {}
        self.errors: dict[str, InsuranceError] = {}
        self._knowledge = knowledge
        self._snapshot_weight = snapshot_weight
        self._width = width
        self._open = dict.fromkeys(symbols)  # in the order asked
        self._exclusive: set[str] = set()  # what is known of their groups was wrong
        self._in_flight: dict[str, list[str]] = {}  # asked for: it, and what it should cover
        self._discovering: set[str] = set()  # of these, those of unknown grouping
        self._behind_snapshot: list[str] | None = None
        self._snapshot_done = False
        self._spent = 0  # requests for single symbols

    def next(self) -> list[str | None]:
        """Return what to ask for now (None: the snapshot), and count it as asked."""
        if self._behind_snapshot is not None or not self._open:
            return []
        known: dict[Group, list[str]] = {}
        unknown: list[str] = []
        for symbol in self._open:
            group = None if symbol in self._exclusive else self._knowledge.groups.get(symbol)
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
        room = max(0, self._width - len(self._in_flight))
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
            self._in_flight[asked] = symbols
            self._spent += 1
            for symbol in symbols:
                del self._open[symbol]
            chosen.append(asked)
        return chosen

    def _snapshot_is_lighter(self, asks: list[list[str]], unknown: list[str]) -> bool:
        weight = None if self._snapshot_done else self._snapshot_weight
        if weight is None:
            return False
        if snapshot_is_lighter(weight, len(asks) + len(unknown)):
            return True
        if self._spent:
            return not self._may_ask() and not self._in_flight
        # More groups than go at once: the last ones must not hold too much to be asked again.
        late = [*asks, *([symbol] for symbol in unknown)][self._width :]
        return snapshot_is_lighter(weight, sum(map(len, late)))

    def _may_ask(self) -> bool:
        """Return whether another request keeps to the bound, whatever has moved.

        The bound is the snapshot's weight and what goes at once. So beyond the first `width`
        requests, even all that is still to be found must fit, one by one.
        """
        if self._snapshot_done or self._snapshot_weight is None or self._spent < self._width:
            return True
        behind = sum(len(symbols) - 1 for symbols in self._in_flight.values())
        return self._spent + len(self._open) + behind <= self._snapshot_weight + self._width

    def is_exclusive(self, symbol: str) -> bool:
        """Return whether a symbol must be asked for by itself."""
        return symbol in self._exclusive

    def answered(self, asked: str, pool: InsurancePool) -> None:
        """Record the answer to a request for one symbol."""
        self._discovering.discard(asked)
        for symbol in self._in_flight.pop(asked):
            if symbol in pool.symbols:
                self.pools[symbol] = pool
            else:
                self._exclusive.add(symbol)
                self._reopen(symbol)
        covered = set(pool.symbols)
        for symbol in self._open.keys() & covered:
            del self._open[symbol]
            self.pools[symbol] = pool
        for other, behind in self._in_flight.items():
            for symbol in covered.intersection(behind) - {other}:
                behind.remove(symbol)
                self.pools[symbol] = pool

    def failed(self, asked: str, error: InsuranceError) -> None:
        """Record that a request for one symbol failed for good."""
        self._discovering.discard(asked)
        behind = self._in_flight.pop(asked)
        if isinstance(error, (BadRequestError, DecodeError)):
            self.errors[asked] = error  # it says nothing about the rest of the group
            for symbol in behind:
                if symbol != asked:
                    self._reopen(symbol)
            return
        self._give_up(behind, error)

    def answered_snapshot(self, pool_of: Callable[[str], InsurancePool | None]) -> None:
        """Record the answer to the snapshot request, which has the pool of a symbol or not."""
        waited, self._behind_snapshot = self._behind_snapshot or [], None
        self._snapshot_done = True
        for asked, behind in self._in_flight.items():
            waited += [symbol for symbol in behind if symbol != asked]
            del behind[1:]
        for symbol in waited:
            pool = pool_of(symbol)
            if pool is not None:
                self.pools[symbol] = pool
            else:
                self._exclusive.add(symbol)
                self._open[symbol] = None

    def failed_snapshot(self, error: InsuranceError) -> None:
        """Record that the snapshot request failed for good; its good pools count."""
        if isinstance(error, DecodeError) and error.pools:
            self.answered_snapshot(error.pool_of)
            return
        behind, self._behind_snapshot = self._behind_snapshot or [], None
        self._give_up(behind, error)

    def give_up(self, error: InsuranceError) -> None:
        """Fail at once all that has not been asked for yet."""
        for symbol in self._open:
            self.errors[symbol] = error.about(symbol)
        self._open.clear()

    def _reopen(self, symbol: str) -> None:
        if self._behind_snapshot is None:
            self._open[symbol] = None
        else:
            self._behind_snapshot.append(symbol)  # its answer will show

    def _give_up(self, symbols: list[str], error: InsuranceError) -> None:
        if isinstance(error, (ForbiddenError, IPBannedError)):
            symbols = [*symbols, *self._open]  # it concerns the IP: asking on does harm
            self._open.clear()
        for symbol in symbols:
            self.errors[symbol] = error.about(symbol)
