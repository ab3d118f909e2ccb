"""What a budget needs of the place where processes share their ledger."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

    from .change import Change


class Store(Protocol):
    """Keeps one value for many processes, for each exchange and IP."""

    @property
    def polling(self) -> float:
        """Seconds after which callers that wait look again; infinite if the store wakes them."""
        ...

    @property
    def apart(self) -> bool:
        """Whether this process is on its own now, since the store is out of reach."""
        ...

    @property
    def least_reserve(self) -> int:
        """What each grant must leave of the limit; above 0 only while a process is apart."""
        ...

    @property
    def look_at(self) -> float:
        """When to look for a store that is out of reach, by the local clock; else infinite."""
        ...

    async def change(self, change: Change) -> None:
        """Replace the value at `change.place` by what `change` makes of it, atomically.

        `change` may be called several times, in any thread; the last call counts. It returns None
        to leave the value as it is.

        Raises:
            StoreError: the store is out of reach, or holds something else.
        """
        ...

    def watch(self, wake: Callable[[], None]) -> None:
        """Call `wake` in the event loop when another process asks to wake the others."""
        ...

    def restart(self) -> None:
        """Drop what belonged to an event loop that has ended."""
        ...

    async def aclose(self) -> None:
        """Let go of connections and files."""
        ...
