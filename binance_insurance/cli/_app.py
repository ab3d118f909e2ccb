"""The commands, their error messages and their exit codes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from .. import __version__
from ..errors import BudgetTimeoutError, BulkFetchError, RateLimitError
from ..models import RequestWeight
from ..sandbox import Sandbox
from . import _output
from ._errors import NO_OUTPUT, USAGE, Group
from ._exporting import exporter
from ._history import history
from ._monitoring import monitoring
from ._options import (
    DEFAULT_URL,
    BaseUrl,
    Budget,
    Every,
    Format,
    Scenario,
    Timeout,
    UseSandbox,
    WatchedScenario,
    base_url_of,
    local_scenario,
    watched,
)
from ._recording import record
from ._running import fail_to_listen, run_command, with_client
from ._streams import guard_streams, say
from ._waiting import long_waits_shown
from ._watching import follow

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from ..client import InsuranceClient
    from ..models import InsurancePool

app = typer.Typer(
    epilog="Exit codes: 0 done, 2 usage, 3 banned or rate limited, 4 network, 5 bad answer, "
    "6 budget or history not usable, 7 output not writable, 130 Ctrl-C.",
    cls=Group,
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"binance-insurance {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """How much insurance stands behind each Binance USDⓈ-M futures symbol."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


class WatchFormat(StrEnum):
    """Output formats of what moves."""

    TEXT = "text"
    JSONL = "jsonl"


@app.command()
def pools(
    context: typer.Context,
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols whose pools to print; default: every pool.")
    ] = None,
    *,
    format: Annotated[Format, typer.Option("--format", "-f", help="Output format.")] = Format.TABLE,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    scenario: Annotated[
        Scenario | None,
        typer.Option(help="Pools of the local exchange.", show_default="documented"),
    ] = None,
    timeout: Timeout = 30.0,
) -> None:
    """Print the insurance pools of the given symbols, or every pool."""

    async def show(client: InsuranceClient) -> None:
        asked: dict[str, InsurancePool] = {}
        failure = None
        async with long_waits_shown(client):
            if symbols:
                try:
                    asked = await client.fetch_pools(symbols, timeout=timeout)
                except BulkFetchError as error:
                    asked, failure = error.pools, error
                found = tuple(dict.fromkeys(asked.values()))  # each pool once
            else:
                found = (await client.fetch_snapshot(timeout=timeout)).pools
        try:
            if found:
                _print(format, asked, found)
        finally:  # the symbols that failed are named even if nothing can be printed
            if failure is not None:
                raise failure

    local = local_scenario(scenario, Scenario.DOCUMENTED, sandbox=sandbox)
    run_command(with_client(show, base_url_of(context, base_url), budget, local))


@app.command()
def limits(
    context: typer.Context,
    *,
    format: Annotated[
        Format, typer.Option("--format", "-f", help="Output format: table or json.")
    ] = Format.TABLE,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    timeout: Timeout = 30.0,
) -> None:
    """Print the rate limit: used weight, weight left, and when the window rolls over."""
    if format is Format.CSV:
        raise typer.BadParameter("limits supports table and json", param_hint="--format")

    async def show(client: InsuranceClient) -> None:
        refusal = None
        try:
            async with long_waits_shown(client):
                weight = await client.fetch_request_weight(timeout=timeout)
        except (RateLimitError, BudgetTimeoutError) as error:
            weight, refusal = _known_weight(client), error
        state = client.budget.state()
        try:
            if format is Format.TABLE:
                _output.print_weight(weight, state)
            else:
                print(_output.weight_json(weight, state))
        finally:
            if refusal is not None:
                raise refusal

    local = Scenario.DOCUMENTED if sandbox else None
    run_command(with_client(show, base_url_of(context, base_url), budget, local))


@app.command()
def watch(
    context: typer.Context,
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols whose pools to watch; default: every pool.")
    ] = None,
    *,
    every: Every = None,
    format: Annotated[
        WatchFormat, typer.Option("--format", "-f", help="Output format.")
    ] = WatchFormat.TEXT,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    scenario: WatchedScenario = None,
) -> None:
    """Print what moves, one line for each change, until Ctrl-C."""
    seconds, local = watched(every, scenario, sandbox=sandbox)

    async def show(client: InsuranceClient) -> None:
        await follow(client, seconds, symbols or None, as_json=format is WatchFormat.JSONL)

    run_command(
        with_client(show, base_url_of(context, base_url), budget, local), ends_with_signals=True
    )


@app.command()
def sandbox(
    *,
    scenario: Annotated[
        Scenario, typer.Option(help="Pools that the exchange serves.")
    ] = Scenario.MARKET,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")
    ] = 8089,
    limit: Annotated[int, typer.Option(min=1, help="Request weight per minute.")] = 2400,
    latency: Annotated[float, typer.Option(min=0, help="Seconds until each answer.")] = 0.0,
) -> None:
    """Serve a local exchange until Ctrl-C."""

    async def serve() -> None:
        exchange = Sandbox(scenario.value, host=host, port=port, limit=limit, latency=latency)
        try:
            await exchange.__aenter__()
        except OSError as error:
            fail_to_listen(host, port, error)
        try:
            print(f"{exchange.url} serves the scenario {scenario.value!r}; Ctrl-C ends it")
            print(f"export BINANCE_INSURANCE_BASE_URL={exchange.url}", flush=True)
            await asyncio.Event().wait()
        finally:
            await exchange.__aexit__(None, None, None)

    run_command(serve(), ends_with_signals=True)


app.command()(record)
app.add_typer(history, name="history")
app.command()(exporter)
app.command()(monitoring)


def _known_weight(client: InsuranceClient) -> RequestWeight:
    """Return what the budget knows, where the exchange cannot be asked."""
    state, interval = client.budget.state(), client.budget.interval
    return RequestWeight(
        limit=state.limit,
        interval=interval,
        used_weight=state.used_weight,
        resets_at=state.resets_at,
    )


def _print(
    format: Format,
    asked: Mapping[str, InsurancePool],
    found: Sequence[InsurancePool],
) -> None:
    if format is Format.TABLE:
        _output.print_pools(list(asked), found)
    elif format is Format.JSON:
        print(_output.pools_json(found))
    else:
        print(_output.pools_csv(found))


def run() -> None:
    """Run the command line and exit."""
    output = guard_streams()
    if output is None:
        say("standard output is closed")
        sys.exit(NO_OUTPUT)
    code: int | str | None = 0
    try:
        app(prog_name="binance-insurance")
    except SystemExit as ended:
        code = ended.code
    except OSError:
        if output.failure is None:
            raise
    with suppress(OSError):
        sys.stdout.flush()
    if output.failure is not None:
        say(f"standard output cannot be written: {output.failure.strerror or output.failure}")
        code = NO_OUTPUT
    sys.exit(code)
