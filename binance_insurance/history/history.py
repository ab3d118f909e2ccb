"""`History`: what was recorded, and what it says."""

from __future__ import annotations

import asyncio
from math import inf
from typing import TYPE_CHECKING, Self, TypeVar, cast

from ..errors import StoreError
from ..models import normalise_symbol
from .copying import copy_from
from .facts import checked
from .reading import read_drawdowns, read_info, read_latest, read_series
from .recorder import Recorder
from .times import FOREVER, bounds, microseconds
from .writing import write_observed

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from types import TracebackType

    from ..models import InsuranceSnapshot
    from ..watch import Watch
    from .facts import Observed
    from .steps import Steps, Store
    from .values import Drawdown, HistoryInfo, Series

T = TypeVar("T")


class History:
    """The history of the exchange's pools in a store; `open_history(url)` makes one.

    A store is a function of the set of what was appended: order, repetition, late arrivals, two
    recorders and merging do not matter. Nothing in it is ever changed or filled in.

    Every failure of the store is a `StoreError`; where waiting can help it has `retry_after`.
    Wrong arguments are a `ValueError`. Use it as an async context manager, or call `aclose()`.
    """

    def __init__(self, store: Store) -> None:
        self.store = store

    def __repr__(self) -> str:
        return f"<History {self.store}>"

    async def __aenter__(self) -> Self:
        await self.store.open()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        await self.aclose()

    async def aclose(self) -> None:
        """Let go of files and connections."""
        await self.store.aclose()

    async def append(self, snapshot: InsuranceSnapshot, *, since: datetime | None = None) -> int:
        """Add a snapshot, and return the number of values that are new.

        Args:
            snapshot: a whole one.
            since: the observation before it, if nothing was missed in between, such as
                `update.since`; None where that is not known, so that a gap shows.

        Raises:
            ValueError: the snapshot is not whole, or a time is naive or after its observation.
            StoreError: the store failed, and nothing was added.
        """
        return await self.extend([(snapshot, since)])

    async def extend(self, observed: Iterable[Observed]) -> int:
        """Add snapshots, each with its `since`, in one transaction; return as `append` does."""
        return await self.store.write(write_observed(checked(observed)))

    async def record(self, watch: Watch) -> None:
        """Append every update of a watch, until it ends or this is cancelled.

        It asks and writes in two tasks, so a slow or absent store makes no gap: up to 1,000 updates
        wait in memory, then the oldest is dropped and a gap shows. A store that is away is tried
        again every 2 seconds. A restart within one tick is no gap. When it is cancelled, what is
        being appended is finished.

        Raises:
            ValueError: the watch is of some symbols only.
            StoreError: the store failed, and waiting cannot help.
        """
        await Recorder(self.store).run(watch)

    async def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None:
        """Return the pools as they were known at a time, or now; None before the first of them.

        Its `observed_at` is that of the last observation by then.
        """
        when = FOREVER if at is None else microseconds(at, "at")
        return await self.store.read(read_latest(when))

    async def series(
        self,
        symbol: str | None,
        asset: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Series:
        """Return the balances that stood behind a symbol, with gaps and regroupings.

        Args:
            symbol: in upper or lower case; None for the whole fund.
            asset: such as `USDT`.
            start: points have `start <= update_time`, regroupings `start <= observed_at`.
            end: points have `update_time < end`, regroupings `observed_at < end`.

        A value belongs to it if it was updated while the symbol was in the pool that reported it.
        """
        between = bounds(start, end)
        return await self.store.read(read_series(_symbol(symbol), _asset(asset), between))

    async def drawdowns(
        self,
        symbol: str | None,
        asset: str,
        *,
        window: float | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = 10,
    ) -> tuple[Drawdown, ...]:
        """Return the falls of a series from its peaks, deepest first, then by time.

        Args:
            symbol: in upper or lower case; None for the whole fund.
            asset: such as `USDT`.
            window: seconds for which a peak counts; None: for all time.
            start: only points with `start <= update_time` count.
            end: only points with `update_time < end` count.
            limit: how many to return; None: all.

        A regrouping ends one series of peaks and begins another, so a move of symbols between pools
        is no fall. Across a gap a depth is a lower bound.
        """
        if window is not None and not (type(window) in {int, float} and 0 < window < inf):
            raise ValueError(f"window must be a positive number of seconds, not {window!r}")
        if limit is not None and (type(limit) is not int or limit < 1):
            raise ValueError(f"limit must be a whole number above 0, not {limit!r}")
        between = bounds(start, end)
        steps = read_drawdowns(_symbol(symbol), _asset(asset), between, window, limit)
        return await self.store.read(steps)

    async def merge(self, other: History) -> int:
        """Add all that another history has, and return the number of values that are new.

        So it also makes a backup, or moves a history to another kind of store. It is one
        transaction: until its end nobody sees anything of it, and other processes cannot append.
        """
        if not isinstance(cast("object", other), History):
            raise ValueError(f"merge takes a History of open_history(), not {type(other).__name__}")
        cancelled = False

        async def read(steps: Steps[T]) -> T:
            if cancelled:  # while a thread writes
                raise StoreError("the merge was cancelled")
            return await other.store.read(steps)

        try:
            return await self.store.write(copy_from(read))
        except asyncio.CancelledError:
            cancelled = True
            raise

    async def info(self) -> HistoryInfo:
        """Return how much it holds, from when to when, and how late the exchange updates."""
        size = await self.store.size()
        return await self.store.read(read_info(self.store.version, size))


def _symbol(symbol: str | None) -> str | None:
    """Return a symbol as the exchange spells it.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(cast("object", symbol), (str, type(None))):
        raise ValueError(f"a symbol is a str, or None for the whole fund, not {symbol!r}")
    return None if symbol is None else normalise_symbol(symbol)


def _asset(asset: str) -> str:
    """Return the name of an asset.

    Raises:
        ValueError: it is none.
    """
    if not isinstance(cast("object", asset), str) or not asset.strip():
        raise ValueError(f"an asset is a str such as 'USDT', not {asset!r}")
    return asset.strip()
