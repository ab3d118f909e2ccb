"""The reference in a history's place."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from binance_insurance import InsuranceSnapshot

from .reference import Drawdown, Observation, Reference, Series


class Remembered:
    """Keeps what is appended, and answers as a history does."""

    def __init__(self, observations: Iterable[Observation] = ()) -> None:
        self._observations = list(observations)

    @property
    def _reference(self) -> Reference:
        return Reference(self._observations)

    async def append(self, snapshot: InsuranceSnapshot, *, since: datetime | None = None) -> int:
        return await self.extend([(snapshot, since)])

    async def extend(
        self, observations: Iterable[tuple[InsuranceSnapshot, datetime | None]]
    ) -> int:
        before = len(self._reference.first_reported)
        self._observations += [Observation(*each) for each in observations]
        return len(self._reference.first_reported) - before

    async def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None:
        return self._reference.latest(at)

    async def series(
        self,
        symbol: str | None,
        asset: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Series:
        return self._reference.series(symbol, asset, start=start, end=end)

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
        return self._reference.drawdowns(
            symbol, asset, window=window, start=start, end=end, limit=limit
        )

    async def aclose(self) -> None:
        """Keep nothing open."""
