"""Ends by hand what belonged to a loop that has ended, or leaves it to the parent process.

asyncio ends a task or a connection in later turns of its loop. A loop that has ended may have none,
and `asyncio.run` alone sees to it that nothing is left. What is left by others would be complained
of when it is garbage collected, so it is ended here without the loop, as the loop would do it.

In a forked child nothing may be ended: its loops and sockets are the parent's too, and to remove a
socket from the loop's selector removes it from the parent's. So references are kept, that the
garbage collector does not do it either.
"""

from __future__ import annotations

from contextlib import suppress
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import asyncio
    from collections.abc import AsyncGenerator

_of_the_parent: list[object] = []


def leave_to_the_parent(*things: object) -> None:
    """Keep what a forked child must not touch."""
    _of_the_parent.extend(things)


def end_task(task: asyncio.Task[Any]) -> None:
    """End a task that its loop has left in the middle."""
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
        with suppress(Exception):  # its protocol may ask the loop for a turn
            connection.pause_reading()
            lost(None)


def end_generator(generator: AsyncGenerator[object]) -> None:
    """End an asynchronous generator that has nothing to wait for."""
    with suppress(StopIteration):
        generator.aclose().__await__().__next__()
