"""One timer for many equally long timeouts.

A timer for each request would cost as much as all the rest of the client. But all attempts may
take equally long, so they run out of time in the order in which they began, and one timer, set for
the oldest, serves them all.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import asyncio


class Timeouts:
    """Cancels tasks that take longer than a fixed time; each names itself at start and stop.

    Attributes:
        seconds: the fixed time.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self._ends: dict[asyncio.Task[object], float] = {}
        self._timer: asyncio.TimerHandle | None = None

    def start(self, task: asyncio.Task[object]) -> None:
        """Begin to count; a task may have one count at a time."""
        loop = task.get_loop()
        self._ends[task] = ends = loop.time() + self.seconds
        if self._timer is None:
            self._timer = loop.call_at(ends, self._expire, loop)

    def stop(self, task: asyncio.Task[object]) -> bool:
        """End the count. Return whether its time had passed, so that it was cancelled from here."""
        return self._ends.pop(task, None) is None

    def close(self) -> None:
        """Drop the timer and all counts: nothing needs them, or their loop has ended."""
        self._ends.clear()
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _expire(self, loop: asyncio.AbstractEventLoop) -> None:
        now = loop.time()
        self._timer = None
        while self._ends:
            task, ends = next(iter(self._ends.items()))
            if ends > now:
                self._timer = loop.call_at(ends, self._expire, loop)
                return
            del self._ends[task]
            task.cancel()
