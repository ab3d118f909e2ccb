"""Going on without the store: a share of the budget that one process keeps by itself."""

from __future__ import annotations

import logging
from math import inf
from typing import TYPE_CHECKING

from .._outages import BEGUN, OVER
from ..errors import StoreError
from .stored import copy

if TYPE_CHECKING:
    from collections.abc import Callable

    from .change import Change
    from .settings import Settings
    from .store import Store
    from .stored import SharedState

_log = logging.getLogger("binance_insurance.budget")
_LOOK_AGAIN = 1.0  # seconds between two looks for a store that was out of reach


class Fallback:
    """A store that stands in for another while that is out of reach.

    Args:
        store: the store that processes share.
        settings: of the budget.
        share: the part of limit - reserve up to which this process goes on by itself.
        monotonic: the local clock.

    Raises:
        ValueError: share is not above 0 and at most 1.
    """

    def __init__(
        self, store: Store, settings: Settings, share: float, monotonic: Callable[[], float]
    ) -> None:
        if not 0 < share <= 1:
            raise ValueError(f"share must be above 0 and at most 1, or None, not {share}")
        self.least_reserve: int = 0
        self.look_at: float = inf
        self._store = store
        self._settings = settings
        self._share = max(1, int(settings.capacity * share))
        self._monotonic = monotonic
        self._state: SharedState | None = None  # of this process alone, while it is apart
        self._place = ""

    def __str__(self) -> str:
        return str(self._store)

    @property
    def apart(self) -> bool:
        """Whether the store is out of reach, so that this process is on its own."""
        return self._state is not None

    @property
    def polling(self) -> float:
        """Seconds after which callers that wait look again; infinite while nobody else spends."""
        return self._store.polling if self._state is None else inf

    async def change(self, change: Change) -> None:
        """Apply a change to the store, or to this process's own ledger."""
        if change.place != self._place:  # a client has named another exchange
            self._place = change.place
            self._forget()
        if self._state is None or self._monotonic() >= self.look_at:
            try:
                await self._store.change(change)
            except StoreError as error:
                self.look_at = self._monotonic() + _LOOK_AGAIN
                if self._state is None:
                    self._begin(change, error)
            else:
                if self._state is not None:
                    self._forget()
                    _log.warning("the shared budget is back", extra=OVER)
                return
        if self._state is not None:
            change.apply(
                self._state, self._monotonic(), change.bounds, least_reserve=self.least_reserve
            )
            if change.outcome is not None:
                change.outcome.ledger = copy(change.outcome.ledger)

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` when another process asks for it, while the store can be reached."""
        if self._state is None:
            self._store.watch(wake)

    def restart(self) -> None:
        """Drop what belonged to an event loop that has ended, and ask the store again at once."""
        self._forget()
        self._store.restart()

    async def aclose(self) -> None:
        """Let go of the store."""
        await self._store.aclose()

    def _forget(self) -> None:
        self._state, self.least_reserve, self.look_at = None, 0, inf

    def _begin(self, change: Change, error: StoreError) -> None:
        _log.warning(
            "%s; this process goes on by itself, with %d of the %d weight of a window",
            error,
            self._share,
            self._settings.capacity,
            extra=BEGUN,
        )
        self.least_reserve = self._settings.limit - self._share
        now = self._monotonic()
        self._state, ledger = change.alone(now)
        now += change.bounds.low
        told = change.known()
        if told.window >= 0.0 and told.trusted_until <= now < told.ends_at:
            # Others may have spent all of this window since, and nobody says so any more.
            ledger.spent = self._settings.limit + ledger.unsettled
