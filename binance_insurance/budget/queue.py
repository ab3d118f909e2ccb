"""The callers of one process that wait for weight: the smallest reserve first."""

from __future__ import annotations

import asyncio
from collections import Counter
from math import inf
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from .ledger import Lease


FIRST = -1  # the reserve of those that need no weight: they wait behind nobody


class Waiter:
    """One caller that waits for weight.

    Attributes:
        weight: how much it waits for.
        reserve: how much of the limit it leaves to others.
        deadline: the local monotonic time at which it gives up; infinite if never.
        granted: the future of its lease.
    """

    __slots__ = ("deadline", "granted", "reserve", "weight")

    def __init__(self, weight: int, reserve: int, deadline: float) -> None:
        self.weight: int = weight
        self.reserve: int = reserve
        self.deadline: float = deadline
        self.granted: asyncio.Future[Lease] = asyncio.get_running_loop().create_future()


class Queue:
    """The callers of one process: the smallest reserve first, then first come, first served.

    Attributes:
        length: how many callers wait.
        outlook: when the first of them could be served, as last checked.
    """

    def __init__(self) -> None:
        self.length: int = 0
        self.outlook: float = -inf
        self._lines: dict[int, dict[Waiter, None]] = {}
        self._weights: Counter[int] = Counter()  # of each line

    def __iter__(self) -> Iterator[Waiter]:
        for reserve in sorted(self._lines):
            yield from self._lines[reserve]

    def __contains__(self, waiter: Waiter) -> bool:
        return waiter in self._lines.get(waiter.reserve, ())

    @property
    def first(self) -> Waiter | None:
        """The caller that is served next, None if nobody waits."""
        return next(iter(self), None)

    def weight_before(self, reserve: int) -> int:
        """Return the weight that is served before a new caller with this reserve."""
        return sum(self._weights[line] for line in self._lines if line <= reserve)

    def add(self, waiter: Waiter) -> None:
        """Put a caller at the end of its line."""
        self._lines.setdefault(waiter.reserve, {})[waiter] = None
        self._weights[waiter.reserve] += waiter.weight
        self.length += 1

    def remove(self, waiter: Waiter) -> None:
        """Take a caller out, wherever it stands."""
        line = self._lines[waiter.reserve]
        del line[waiter]
        self._weights[waiter.reserve] -= waiter.weight
        if not line:
            del self._lines[waiter.reserve]
        self.length -= 1

    def fail(self, waiter: Waiter, error: Exception) -> None:
        """Take a caller out and give it an error."""
        self.remove(waiter)
        if not waiter.granted.done():
            waiter.granted.set_exception(error)

    def fail_all(self, error: Callable[[], Exception]) -> None:
        """Give every caller an error of its own."""
        for waiter in list(self):
            self.fail(waiter, error())
