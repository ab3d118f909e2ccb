"""The metrics of a client that watches, served until a signal."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from ._options import (
    DEFAULT_URL,
    BaseUrl,
    Budget,
    Scenario,
    UseSandbox,
    base_url_of,
    local_scenario,
)
from ._running import authority, fail_to_listen, run_command, with_client
from ._streams import say
from ._watching import next_update

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

    from ..client import InsuranceClient
    from ..metrics import InsuranceCollector
    from ..watch import WatchStatus


def exporter(
    context: typer.Context,
    *,
    every: Annotated[float, typer.Option(help="Seconds between two looks.", metavar="S")] = 60.0,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 9101,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    scenario: Annotated[
        Scenario | None,
        typer.Option(help="Pools of the local exchange.", show_default="market"),
    ] = None,
) -> None:
    """Watch every pool, and serve its metrics until Ctrl-C. Needs the extra metrics."""
    local = local_scenario(scenario, Scenario.MARKET, sandbox=sandbox)

    async def show(client: InsuranceClient) -> None:
        await _export(client, every, host, port)

    work = with_client(show, base_url_of(context, base_url), budget, local)
    run_command(work, ends_with_signals=True)


async def _export(client: InsuranceClient, every: float, host: str, port: int) -> None:
    from ..metrics import InsuranceCollector

    collector, watch = InsuranceCollector(client), client.watch(every)
    async with _served(collector, host, port) as url, watch as updates:
        print(f"{url} serves the metrics; Ctrl-C ends it", flush=True)
        while True:
            stopped, update = await next_update(updates, _Said())
            collector.observe(update.snapshot)
            if stopped:
                say("observations go on")


@asynccontextmanager
async def _served(collector: InsuranceCollector, host: str, port: int) -> AsyncGenerator[str]:
    """Serve a collector's metrics from threads; yields the URL."""
    from prometheus_client import CollectorRegistry, start_http_server

    registry = CollectorRegistry()
    registry.register(collector)
    try:
        server, _ = start_http_server(port, host, registry)
    except OSError as error:
        fail_to_listen(host, port, error)
    try:
        yield f"http://{authority(host, server.server_port)}/metrics"
    finally:
        # In a thread, because a scrape may wait for this loop meanwhile.
        await asyncio.to_thread(server.shutdown)
        server.server_close()


class _Said:
    """Says on standard error that observations have stopped."""

    def stopped(self, status: WatchStatus) -> None:
        say(f"observations have stopped: {status.error}")
