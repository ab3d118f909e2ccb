"""A local exchange for code that runs event loops of its own, or none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager

from binance_insurance import InsurancePool
from binance_insurance.sandbox import Sandbox, Scenario


def offset_to_begin(interval: int = 60) -> float:
    """Return the clock offset with which a window of an exchange begins now."""
    return -time.time() % interval


@contextmanager
def exchange_in_a_thread(
    scenario: Scenario | Sequence[InsurancePool] | None = None,
    *,
    limit: int = 2400,
    interval: int = 60,
) -> Generator[Sandbox]:
    """Run a local exchange in its own thread and event loop, which a profile does not see.

    A window begins with it, so that none ends in the middle of a short test.
    """
    sandbox = Sandbox(
        scenario or "documented",
        limit=limit,
        interval=interval,
        clock_offset=offset_to_begin(interval),
    )
    loop = asyncio.new_event_loop()
    started, done = threading.Event(), asyncio.Event()

    async def serve() -> None:
        async with sandbox:
            started.set()
            await done.wait()
        await asyncio.sleep(0.01)  # for the sockets that were just told to close

    # A daemon: if it hangs, it must not keep the process from ending.
    thread = threading.Thread(target=loop.run_until_complete, args=(serve(),), daemon=True)
    thread.start()
    if not started.wait(30):
        raise TimeoutError("the local exchange does not start")
    try:
        yield sandbox
    finally:
        loop.call_soon_threadsafe(done.set)
        thread.join(30)
        loop.close()
