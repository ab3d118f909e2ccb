"""The pools into a history: until a signal, or once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, suppress
from typing import TYPE_CHECKING, Annotated

import typer

from .._retry import RetryPolicy
from ..errors import StoreError
from ..history import open_history
from ..history.reading import read_extent
from ..history.recorder import resumed
from ..history.times import aware
from ._options import (
    DEFAULT_URL,
    BaseUrl,
    Budget,
    Every,
    HistoryUrl,
    UseSandbox,
    WatchedScenario,
    base_url_of,
    watched,
)
from ._running import run_command, with_client
from ._streams import say
from ._waiting import long_waits_shown

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..client import InsuranceClient
    from ..watch import Watch

_LOOK = 0.5  # seconds between two looks whether observations go on
_TIMEOUT = 60.0  # seconds for one snapshot
# With --once nothing looks again before the next run of cron, so an outage of some seconds is
# waited for: nine retries, about 18 s.
_PATIENT = RetryPolicy(max_attempts=10)


def record(
    context: typer.Context,
    url: HistoryUrl,
    *,
    every: Every = None,
    once: Annotated[
        bool,
        typer.Option(
            "--once",
            help="Look once and end, for cron. --every says after how many seconds a gap shows.",
        ),
    ] = False,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    scenario: WatchedScenario = None,
) -> None:
    """Record every pool into a history until Ctrl-C, or once."""
    seconds, local = watched(every, scenario, sandbox=sandbox)

    async def work(client: InsuranceClient) -> None:
        await (_once if once else _record)(client, url, seconds)

    retry = _PATIENT if once else RetryPolicy()
    run_command(
        with_client(work, base_url_of(context, base_url), budget, local, retry),
        ends_with_signals=not once,
    )


async def _record(client: InsuranceClient, url: str, every: float) -> None:
    history, watch = open_history(url), client.watch(every)
    try:
        try:
            await history.store.open()
        except StoreError as error:
            if error.retry_after is None:
                raise  # else what is observed waits for the store, and that is said
        say(f"recording into {history.store}, every {every:g} s; Ctrl-C ends it")
        async with _outages_said(watch):
            await history.record(watch)
    finally:
        await history.aclose()


async def _once(client: InsuranceClient, url: str, every: float) -> None:
    longest = client.watch(every).every
    async with open_history(url) as history, long_waits_shown(client):
        snapshot = await client.fetch_snapshot(timeout=_TIMEOUT)
        since = await resumed(history.store, snapshot.observed_at, longest)
        new = await history.append(snapshot, since=since)
        extent = await history.store.read(read_extent())
    first = extent is None or aware(extent[0]) == snapshot.observed_at
    gap = "" if since is not None or first else "; a gap lies before"
    print(
        f"{snapshot.observed_at:%Y-%m-%d %H:%M:%S} UTC: "
        f"{len(snapshot)} pools, {new:,} new values{gap}"
    )


@asynccontextmanager
async def _outages_said(watch: Watch) -> AsyncGenerator[None]:
    """Say on standard error when observations stop and when they go on."""
    looking = asyncio.create_task(_look(watch))
    try:
        yield
    finally:
        looking.cancel()
        with suppress(asyncio.CancelledError):
            await looking


async def _look(watch: Watch) -> None:
    stopped = False
    while True:
        await asyncio.sleep(_LOOK)
        error = watch.status.error
        if stopped != (error is not None):
            stopped = not stopped
            say(f"observations have stopped: {error}" if stopped else "observations go on")
