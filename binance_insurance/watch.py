"""What moved, on a fixed schedule: ask for the pools, and compare them with the last ones.

There is no task of its own: a step runs in its consumer, so nothing is left behind when that ends.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from math import floor, inf
from typing import TYPE_CHECKING, Protocol, Self

from msgspec import Struct

from .changes import Change, diff
from .errors import ClientClosedError, InsuranceError, InvalidSymbolError
from .models import InsurancePool, InsuranceSnapshot, normalise_symbol

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from types import TracebackType

    from ._runtime import Runtime

__all__ = ["Update", "Watch", "WatchStatus"]

_LONGEST_PAUSE = 60.0  # seconds after which a tick that failed is asked again
_EARLY = 1e-9  # part of a tick by which a clock may round
_DATE_STEP = 1.0  # seconds; the exchange's dates are whole


class Update(Struct, frozen=True):
    """One observation.

    Attributes:
        snapshot: the pools; with `symbols` only theirs, and `complete` is False.
        changes: what moved since the last update; of the first, since the snapshot `since`.
        observed_at: when, by the exchange's clock.
        missed: ticks since the last update that brought no observation: asking failed, nobody
            pulled, or the machine slept.
        since: `observed_at` of the last update if none was missed, else None.
    """

    snapshot: InsuranceSnapshot
    changes: tuple[Change, ...]
    observed_at: datetime
    missed: int
    since: datetime | None


class WatchStatus(Struct, frozen=True):
    """Whether a watch observes, and if not, since when and why.

    Attributes:
        observed_at: that of the last update; None before the first.
        missed: ticks since then that have brought no observation so far.
        blind_since: when the first of them was due, as far as the exchange's clock is known; None
            while observations go on.
        error: why the last of them failed.
    """

    observed_at: datetime | None
    missed: int
    blind_since: datetime | None
    error: InsuranceError | None


class _Client(Protocol):
    async def fetch_snapshot(
        self, *, timeout: float | None = None, max_age: float | None = None
    ) -> InsuranceSnapshot: ...

    async def fetch_pools(
        self,
        symbols: Iterable[str],
        *,
        timeout: float | None = None,
        max_age: float | None = None,
        return_exceptions: bool,
    ) -> Mapping[str, InsurancePool | InsuranceError]: ...


class _Asked(Struct, frozen=True):
    """The last update, and the tick that brought it."""

    tick: int
    asked_at: float  # local monotonic time
    at: float  # that of the answer
    update: Update


class _Failed(Struct, frozen=True):
    """The last tick that failed, and when it is asked again."""

    tick: int
    again_at: float
    error: InsuranceError


class Watch:
    """An iterator of updates: `async with client.watch(60) as updates: async for …`.

    Ticks are at start + k * every, the first at once. One consumer at a time: a second step at the
    same time is a `RuntimeError`. A step can be cancelled without loss. After the block a step
    ends the iteration. No `InsuranceError` ends it, but `ClientClosedError`, and
    `InvalidSymbolError` for a symbol that the exchange did not know at its first answer.
    """

    def __init__(
        self,
        client: _Client,
        runtime: Runtime,
        every: float,
        symbols: Iterable[str] | None,
        since: InsuranceSnapshot | None,
    ) -> None:
        if type(every) not in {int, float} or not 0 < every < inf:
            raise ValueError(f"every must be a positive number of seconds, not {every!r}")
        if not isinstance(since, (InsuranceSnapshot, type(None))):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise ValueError(f"since must be an InsuranceSnapshot, not {type(since).__name__}")
        self._symbols = None if symbols is None else _normalised(symbols)
        self._client = client
        self._runtime = runtime
        self._every = every
        self._before = since
        self._known: set[str] = set()  # of the symbols
        self._start: float | None = None
        self._last: _Asked | None = None
        self._failed: _Failed | None = None
        self._scope: asyncio.Timeout | None = None  # of the step under way
        self._closed = False

    @property
    def every(self) -> float:
        """Seconds of a tick."""
        return self._every

    @property
    def symbols(self) -> tuple[str, ...] | None:
        """The symbols whose pools it watches; None where it watches all."""
        return None if self._symbols is None else tuple(self._symbols)

    @property
    def status(self) -> WatchStatus:
        """Whether it observes, and if not, since when and why."""
        last, failed, newest = self._last, self._failed, self._newest()
        first = 0 if last is None else last.tick + 1  # that has brought nothing yet
        # The newest tick may still bring something, unless it has failed.
        missed = newest - first + (failed is not None and failed.tick == newest)
        return WatchStatus(
            observed_at=None if last is None else last.update.observed_at,
            missed=max(0, missed),
            blind_since=self._due(first) if missed > 0 else None,
            error=None if failed is None else failed.error,
        )

    async def __aenter__(self) -> Self:
        if self._closed:
            raise RuntimeError("this watch has ended; make another")
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._closed = True
        if self._scope is not None:  # a step of another task
            self._scope.reschedule(asyncio.get_running_loop().time())

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Update:
        if self._closed:
            raise StopAsyncIteration
        if self._scope is not None:
            raise RuntimeError("one consumer at a time: another step of this watch is under way")
        try:
            async with asyncio.timeout(None) as self._scope:
                return await self._step()
        except (TimeoutError, ClientClosedError):
            if not self._closed:
                raise
            raise StopAsyncIteration from None  # the block was left meanwhile
        finally:
            self._scope = None

    async def _step(self) -> Update:
        if self._start is None:
            self._start = self._runtime.monotonic()
        while True:
            await self._wait()
            tick, asked_at = self._newest(), self._runtime.monotonic()
            try:
                snapshot = await self._ask()
            except InsuranceError as error:
                if isinstance(error, (ClientClosedError, InvalidSymbolError)):
                    raise
                again_at = self._runtime.monotonic() + min(self._every, _LONGEST_PAUSE)
                self._failed = _Failed(tick, again_at, error)
            else:
                return self._observe(tick, asked_at, snapshot)

    def _newest(self) -> int:
        """Return the number of the newest tick that is due; -1 before the first."""
        if self._start is None:
            return -1
        return floor((self._runtime.monotonic() - self._start) / self._every + _EARLY)

    async def _wait(self) -> None:
        """Wait until a tick is due that has brought no update and may be asked now."""
        start, every = self._start or 0.0, self._every
        while True:
            now, tick = self._runtime.monotonic(), self._newest()
            done = -1 if self._last is None else self._last.tick
            if tick <= done:
                until = start + (done + 1) * every
            elif self._failed is not None and self._failed.tick == tick:
                until = min(self._failed.again_at, start + (tick + 1) * every)
                if until - now <= _EARLY * every:
                    return
            else:
                return
            await self._runtime.sleep(max(until - now, 0.0))

    async def _ask(self) -> InsuranceSnapshot:
        # An answer may take longer than a tick, but what waits for a freeze says why sooner.
        timeout = max(self._every, _LONGEST_PAUSE)
        if self._symbols is None:
            return await self._client.fetch_snapshot(timeout=timeout, max_age=0)
        found = await self._client.fetch_pools(
            self._symbols, timeout=timeout, max_age=0, return_exceptions=True
        )
        pools: dict[InsurancePool, None] = {}
        for symbol, pool in found.items():
            if isinstance(pool, InsurancePool):
                pools[pool] = None
            elif not isinstance(pool, InvalidSymbolError) or symbol not in self._known:
                raise pool
        self._known.update(symbol for pool in pools for symbol in pool.symbols)
        times = [pool.observed_at for pool in pools if pool.observed_at is not None]
        now = self._exchange_time(self._runtime.monotonic())
        seen = min(times, default=now.replace(microsecond=0))
        return InsuranceSnapshot(tuple(pools), seen, complete=False)

    def _observe(self, tick: int, asked_at: float, snapshot: InsuranceSnapshot) -> Update:
        now, last = self._runtime.monotonic(), self._last
        missed = tick - 1 - (-1 if last is None else last.tick)
        since = None
        if last is not None:
            since = last.update.observed_at
            # The exchange answered at some time between question and answer.
            missed += self._hidden_ticks(snapshot.observed_at - since, now - last.asked_at)
        changes = () if self._before is None else diff(self._before, snapshot)
        seen = snapshot.observed_at
        update = Update(snapshot, changes, seen, missed, None if missed else since)
        self._last, self._before = _Asked(tick, asked_at, now, update), snapshot
        self._failed = None
        return update

    def _hidden_ticks(self, passed: timedelta, locally: float) -> int:
        """Return the ticks that the exchange's clock counts and the local one does not."""
        hidden = passed.total_seconds() - locally
        return floor(hidden / self._every + 0.5) if hidden > _DATE_STEP else 0

    def _due(self, tick: int) -> datetime:
        """Return when a tick was due, by the exchange's clock as far as it is known."""
        return self._exchange_time((self._start or 0.0) + tick * self._every)

    def _exchange_time(self, at: float) -> datetime:
        """Return the time by the exchange's clock, as far as it is known, at a local time."""
        if self._last is None:
            known_at, known = self._runtime.monotonic(), self._runtime.wall()
            return datetime.fromtimestamp(known + at - known_at, UTC)
        return self._last.update.observed_at + timedelta(seconds=at - self._last.at)


def _normalised(symbols: Iterable[str]) -> Sequence[str]:
    if isinstance(symbols, str):
        raise ValueError("symbols must be several symbols, not a str")
    try:
        names = list(dict.fromkeys(map(normalise_symbol, symbols)))
    except TypeError as error:
        raise ValueError(f"symbols must be strings: {error}") from error
    if not names:
        raise ValueError("symbols must name at least one symbol; None watches all pools")
    return names
