"""What a command waits for, on a terminal: what it is, and how long it takes."""

from __future__ import annotations

import asyncio
import sys
import time
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING

from rich.console import Console

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..budget import BudgetState
    from ..client import InsuranceClient

_PATIENCE = 1.0  # seconds after which a wait is long
_REFRESH = 0.25
_SNAPSHOT_WEIGHT = 40  # so much is left where the answer to a probe is awaited, not weight


@asynccontextmanager
async def long_waits_shown(client: InsuranceClient) -> AsyncGenerator[None]:
    """Show on standard error what the calls of a client wait for, if that is a terminal."""
    if sys.stderr is None or not sys.stderr.isatty():  # pyright: ignore[reportUnnecessaryComparison]
        yield
        return
    showing = asyncio.create_task(_show(client))
    try:
        yield
    finally:
        showing.cancel()
        with suppress(asyncio.CancelledError):
            await showing


async def _show(client: InsuranceClient) -> None:
    began = time.monotonic()
    await asyncio.sleep(_PATIENCE)
    # Of ASCII, since not every terminal has the usual dots.
    with Console(stderr=True).status("", spinner="line") as status:
        while True:
            seconds = time.monotonic() - began
            status.update(f"waiting for {awaited(client.budget.state())}, {seconds:.0f} s")
            await asyncio.sleep(_REFRESH)


def awaited(state: BudgetState) -> str:
    """Say what a call waits for: the exchange, or weight until a time."""
    free = not state.frozen_until and state.available >= _SNAPSHOT_WEIGHT
    if not state.waiting or (free and state.in_flight):
        return "the exchange"
    until = state.frozen_until or state.resets_at
    return "weight" if until is None else f"weight until {until:%H:%M:%S} UTC"
