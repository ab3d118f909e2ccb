"""What has to be done before an event loop ends."""

from __future__ import annotations

import asyncio
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Awaitable, Callable, Generator


class Ending:
    """Closes something when its event loop ends, after the tasks that use it.

    Before a loop ends, it closes all asynchronous generators, and this is one.

    Args:
        close: lets go of it.

    Attributes:
        begun: whether it belongs to a loop yet.
        came: whether that loop is about to end, or has ended after this.
    """

    def __init__(self, close: Callable[[], Awaitable[object]]) -> None:
        self.begun: bool = False
        self.came: bool = False
        self._close = close
        self._tasks: set[asyncio.Task[Any]] = set()
        self._waiting = self._wait()

    async def begin(self) -> None:
        """Belong to the loop that runs."""
        self.begun = True
        await anext(self._waiting)

    async def aclose(self) -> None:
        """Close it now."""
        await self._waiting.aclose()

    @contextmanager
    def used(self) -> Generator[None]:
        """Know that the current task uses it."""
        task = asyncio.current_task()
        if task is None:
            raise RuntimeError("it is used by tasks only")
        self._tasks.add(task)
        try:
            yield
        finally:
            self._tasks.discard(task)

    async def _wait(self) -> AsyncGenerator[None]:
        try:
            yield
        finally:
            self.came = True
            for task in self._tasks:
                task.cancel()
            if self._tasks:
                await asyncio.wait(self._tasks)
            await self._close()
            await asyncio.sleep(0)  # in which transports that were closed let go of their sockets
