"""The commands, their error messages and their exit codes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack, suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Never
from urllib.parse import quote

import typer
from platformdirs import user_state_path

from .. import __version__
from ..budget import create_budget
from ..client import InsuranceClient
from ..errors import BudgetTimeoutError, BulkFetchError, InsuranceError, RateLimitError
from ..models import RequestWeight
from ..sandbox import Sandbox
from . import _output
from ._errors import INTERRUPTED, NETWORK, NO_OUTPUT, USAGE, Group, exit_code, lines
from ._streams import guard_streams, say
from ._waiting import long_waits_shown
from ._warnings import outage_said
from ._watching import follow

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from ..models import InsurancePool

app = typer.Typer(
    epilog="Exit codes: 0 done, 2 usage, 3 banned or rate limited, 4 network, 5 bad answer, "
    "6 budget not usable, 7 output not writable, 130 Ctrl-C.",
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


class Format(StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class WatchFormat(StrEnum):
    """Output formats of what moves."""

    TEXT = "text"
    JSONL = "jsonl"


class Scenario(StrEnum):
    """The pools that the local exchange serves."""

    DOCUMENTED = "documented"
    MARKET = "market"
    REGROUPING = "regrouping"


BaseUrl = Annotated[
    str,
    typer.Option(
        "--base-url",
        envvar="BINANCE_INSURANCE_BASE_URL",
        help="URL of the exchange.",
        metavar="URL",
    ),
]
Budget = Annotated[
    str | None,
    typer.Option(
        "--budget",
        envvar="BINANCE_INSURANCE_BUDGET",
        help="Weight budget to share with other processes on this IP: sqlite:///path, redis://host "
        "or, to share none, memory://. Default: a file in this user's state directory, shared by "
        "all commands of this user on this host; with --sandbox memory://.",
        metavar="URL",
        show_default=False,
    ),
]
UseSandbox = Annotated[
    bool, typer.Option("--sandbox", help="Use a local exchange that runs only for this command.")
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001, help="Seconds for everything: the wait for weight and all attempts.", metavar="S"
    ),
]
DEFAULT_URL = "https://fapi.binance.com"


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

    local = _local(scenario, Scenario.DOCUMENTED, sandbox=sandbox)
    _run(_with_client(show, _base_url(context, base_url), budget, local))


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
    _run(_with_client(show, _base_url(context, base_url), budget, local))


@app.command()
def watch(
    context: typer.Context,
    symbols: Annotated[
        list[str] | None, typer.Argument(help="Symbols whose pools to watch; default: every pool.")
    ] = None,
    *,
    every: Annotated[
        float | None,
        typer.Option(help="Seconds between two looks.", metavar="S", show_default="60; sandbox: 1"),
    ] = None,
    format: Annotated[
        WatchFormat, typer.Option("--format", "-f", help="Output format.")
    ] = WatchFormat.TEXT,
    base_url: BaseUrl = DEFAULT_URL,
    budget: Budget = None,
    sandbox: UseSandbox = False,
    scenario: Annotated[
        Scenario | None,
        typer.Option(help="Pools of the local exchange.", show_default="regrouping"),
    ] = None,
) -> None:
    """Print what moves, one line for each change, until Ctrl-C."""
    local = _local(scenario, Scenario.REGROUPING, sandbox=sandbox)
    seconds = (1.0 if sandbox else 60.0) if every is None else every

    async def show(client: InsuranceClient) -> None:
        await follow(client, seconds, symbols or None, as_json=format is WatchFormat.JSONL)

    _run(_with_client(show, _base_url(context, base_url), budget, local), interrupted=0)


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
            _fail(f"cannot listen on {host}:{port}: {error.strerror or error}", NETWORK)
        try:
            print(f"{exchange.url} serves the scenario {scenario.value!r}; Ctrl-C ends it")
            print(f"export BINANCE_INSURANCE_BASE_URL={exchange.url}", flush=True)
            await asyncio.Event().wait()
        finally:
            await exchange.__aexit__(None, None, None)

    _run(serve(), interrupted=0)


async def _with_client(
    show: Callable[[InsuranceClient], Awaitable[None]],
    base_url: str,
    budget_url: str | None,
    scenario: Scenario | None,
) -> None:
    """Run a command against the exchange, or against a local one started for it."""
    async with AsyncExitStack() as stack:
        if scenario is not None:
            base_url = (await stack.enter_async_context(Sandbox(scenario.value))).url
            budget_url = budget_url or "memory://"
        try:
            budget = create_budget(budget_url or _own_budget())
            stack.push_async_callback(budget.aclose)
            client = await stack.enter_async_context(InsuranceClient(base_url, budget=budget))
            with outage_said():
                await show(client)
        except (ValueError, ModuleNotFoundError) as error:
            _fail(str(error), USAGE)


def _local(scenario: Scenario | None, default: Scenario, *, sandbox: bool) -> Scenario | None:
    """Return what the local exchange of a command serves; None where it asks the real one."""
    if scenario is not None and not sandbox:
        raise typer.BadParameter("works only with --sandbox", param_hint="--scenario")
    return (scenario or default) if sandbox else None


def _own_budget() -> str:
    """Return the URL of the budget that all commands of this user on this host share."""
    path = user_state_path("binance-insurance") / "budget.sqlite"
    return f"sqlite:///{quote(path.as_posix())}"


def _known_weight(client: InsuranceClient) -> RequestWeight:
    """Return what the budget knows, where the exchange cannot be asked."""
    state, interval = client.budget.state(), client.budget.interval
    return RequestWeight(
        limit=state.limit,
        interval=interval,
        used_weight=state.used_weight,
        resets_at=state.resets_at,
    )


def _base_url(context: typer.Context, base_url: str) -> str:
    given = context.get_parameter_source("base_url")
    if context.params["sandbox"] and given is not None and given.name == "COMMANDLINE":
        raise typer.BadParameter("cannot be combined with --sandbox", param_hint="--base-url")
    return base_url


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


def _run(work: Coroutine[object, object, None], *, interrupted: int = INTERRUPTED) -> None:
    try:
        asyncio.run(work)
    except InsuranceError as error:
        for line in lines(error):
            say(line)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


def _fail(message: str, code: int) -> Never:
    say(message)
    raise typer.Exit(code)


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
