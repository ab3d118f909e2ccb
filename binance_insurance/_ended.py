"""Ends by hand what belonged to a loop that has ended.

asyncio ends a task or a connection in later steps of its loop. A loop that has ended may have none,
and `asyncio.run` alone sees to it that nothing is left. What is left by others would be complained
of when it is garbage collected, so it is ended here without the loop, as the loop would do it.

Not in a forked child: its copy of the parent's loop has the same selector, and what the child
closes through it is never heard of again in the parent. So there the loop is kept (`_forks.keep`),
with all that it holds.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator


def check_loop(loop: asyncio.AbstractEventLoop | None, what: str) -> None:
    """Raise if something cannot leave the loop that it belongs to.

    Raises:
        RuntimeError: that loop is running.
    """
    if loop is not None and loop.is_running():
        raise RuntimeError(
            f"this {what} is in use in another event loop that is running; "
            f"a {what} serves one loop at a time"
        )


def end_task(task: asyncio.Task[Any]) -> None:
    """End a task that its loop has left in the middle; of one that is done, look at its error."""
    if task.done():
        _ = task.cancelled() or task.exception()
        return
    # It would be logged as destroyed, or as failed if the loop should run once more.
    setattr(task, "_log_destroy_pending", False)  # noqa: B010
    task.add_done_callback(lambda task: task.cancelled() or task.exception())
    coroutine: Any = task.get_coro()  # None if it was eager and has ended
    if coroutine is not None:
        with suppress(Exception):  # of libraries that ask their loop to end something
            coroutine.close()


def end_connection(transport: asyncio.BaseTransport | None) -> None:
    """Close a connection that its loop has left open."""
    connection: Any = transport
    encrypted = getattr(connection, "_ssl_protocol", None)
    if encrypted is not None:
        connection._closed = True  # noqa: SLF001 - the outer one; it is not garbage any more
        connection = getattr(encrypted, "_transport", None)
    lost = getattr(connection, "_call_connection_lost", None)
    if lost is not None:
        with suppress(Exception):  # its protocol may ask the loop for another step
            connection.pause_reading()
            lost(None)


def end_generator(generator: AsyncGenerator[object]) -> None:
    """End an asynchronous generator that has nothing to wait for."""
    with suppress(StopIteration):
        generator.aclose().__await__().__next__()
