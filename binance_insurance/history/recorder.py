"""What a watch observes, into a store: one task asks, one writes."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from contextlib import suppress
from typing import TYPE_CHECKING

from .._outages import BEGUN, LOST, OVER
from ..errors import StoreError
from .facts import checked
from .reading import read_last
from .times import aware, microseconds
from .writing import write_observed

if TYPE_CHECKING:
    from datetime import datetime

    from ..models import InsuranceSnapshot
    from ..watch import Watch
    from .facts import Observed
    from .steps import Store

_MOST = 1000  # updates that wait in memory
_AGAIN = 2.0  # seconds after which a store that is away is tried again
_DATE_STEP = 1.0  # seconds; the exchange's dates are whole

_logger = logging.getLogger(__name__)


class Waiting:
    """Updates that wait to be written; the oldest is dropped for the newest."""

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._updates: deque[Observed] = deque()

    def __len__(self) -> int:
        return len(self._updates)

    def add(self, snapshot: InsuranceSnapshot, since: datetime | None) -> None:
        """Add the newest update."""
        self._updates.append((snapshot, since))
        self._drop()

    def take(self) -> list[Observed]:
        """Take them all."""
        taken = list(self._updates)
        self._updates.clear()
        return taken

    def give_back(self, taken: list[Observed]) -> None:
        """Let those that could not be written wait again, before all others."""
        self._updates.extendleft(reversed(taken))
        self._drop()

    def _drop(self) -> None:
        """Drop what is too much; the update after it shows a gap."""
        while len(self._updates) > self._most:
            self._updates.popleft()
            snapshot, _ = self._updates.popleft()
            self._updates.appendleft((snapshot, None))


class Recorder:
    """Records one watch into a store."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._waiting = Waiting()
        self._changed = asyncio.Event()  # an update has come, or the last one has
        self._ended = False  # whether there is nothing more to come
        self._cancelled = asyncio.Event()
        self._begun = False  # whether an update was written
        self._failing = False

    async def run(self, watch: Watch) -> None:
        """Record until the watch ends or this is cancelled, and then write what waits.

        Raises:
            ValueError: the watch is of some symbols only.
            StoreError: the store failed, and waiting cannot help.
        """
        if watch.symbols is not None:
            raise ValueError("a history takes whole snapshots: record a watch without symbols")
        asking = asyncio.create_task(self._ask(watch))
        writing = asyncio.create_task(self._write(watch.every))
        try:
            await asyncio.wait({asking, writing}, return_when=asyncio.FIRST_COMPLETED)
            self._end()
            await asyncio.wait({writing})
        finally:
            asking.cancel()
            self._cancelled.set()
            self._end()
            await _finish(asking, writing)
        writing.result()
        if not asking.cancelled():
            asking.result()

    def _end(self) -> None:
        self._ended = True
        self._changed.set()

    async def _ask(self, watch: Watch) -> None:
        async for update in watch:
            since = update.since
            if since is not None and since > update.observed_at:
                since = None  # the exchange's clock was set back, or another of its nodes answered
            self._waiting.add(update.snapshot, since)
            self._changed.set()

    async def _write(self, every: float) -> None:
        """Write what waits, until there is nothing more to come."""
        while True:
            if not self._waiting:
                if self._ended:
                    return
                await self._changed.wait()
                self._changed.clear()
                continue
            taken = self._waiting.take()
            try:
                await self._append(taken, every)
            except StoreError as error:
                self._waiting.give_back(taken)
                await self._put_up_with(error)
            else:
                if self._failing:
                    _logger.warning("the history %s can be used again", self._store, extra=OVER)
                self._failing = False

    async def _append(self, taken: list[Observed], every: float) -> None:
        """Write updates; the first of all follows what an earlier run observed a tick before."""
        (snapshot, since), *others = taken
        if not self._begun and since is None:
            since = await resumed(self._store, snapshot.observed_at, every)
        await self._store.write(write_observed(checked([(snapshot, since), *others])))
        self._begun = True

    async def _put_up_with(self, error: StoreError) -> None:
        """Wait until the store is worth another try.

        Raises:
            StoreError: the error, if waiting cannot help, or there is no time to wait.
        """
        count = len(self._waiting)
        if error.retry_after is None or self._cancelled.is_set():
            _logger.error("%s; %d updates are lost", error, count, extra=LOST)
            raise error
        if not self._failing:
            _logger.warning("%s; %d updates wait, and more will", error, count, extra=BEGUN)
        self._failing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(min(error.retry_after, _AGAIN)):
                await self._cancelled.wait()


async def resumed(store: Store, observed_at: datetime, every: float) -> datetime | None:
    """Return the last observation of a store by then; None if a tick was missed since.

    Args:
        store: where it is recorded.
        observed_at: when somebody looked again.
        every: seconds of a tick, of any length.
    """
    last = await store.read(read_last(microseconds(observed_at, "observed_at")))
    if last is None or (observed_at - aware(last)).total_seconds() >= every + _DATE_STEP:
        return None
    return aware(last)


async def _finish(asking: asyncio.Task[None], writing: asyncio.Task[None]) -> None:
    """Wait for both; a second cancellation does not wait for the store."""
    try:
        await asyncio.wait({asking, writing})
    except asyncio.CancelledError:
        writing.cancel()
        raise
    if not writing.cancelled():
        writing.exception()  # it is logged, even where a cancellation takes its place
