"""The commands, their error messages and their exit codes."""

from __future__ import annotations

import asyncio
import sys
from contextlib import AsyncExitStack
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Never

import typer
from platformdirs import user_state_path
from rich.console import Console

from .. import __version__
from ..budget import create_budget
from ..client import InsuranceClient
from ..errors import (
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
    InsuranceError,
    RateLimitError,
    StoreError,
    TransportError,
)
from ..sandbox import Sandbox
from . import _output

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Mapping, Sequence

    from ..models import InsurancePool

USAGE, LIMITED, NETWORK, BAD_ANSWER, NO_BUDGET = 2, 3, 4, 5, 6
_INTERRUPTED = 130

app = typer.Typer(
    epilog="Exit codes: 0 done, 2 usage, 3 banned or rate limited, 4 network, 5 bad answer, "
    "6 budget not usable.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"binance-insurance {__version__}")
        raise typer.Exit


@app.callback()
def options(
    *,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """How much insurance stands behind each Binance USDⓈ-M futures symbol."""


class Format(StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


class Scenario(StrEnum):
    """The pools that the local exchange serves."""

    DOCUMENTED = "documented"
    MARKET = "market"


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
        if symbols:
            try:
                asked = await client.fetch_pools(symbols, timeout=timeout)
            except BulkFetchError as error:
                asked, failure = error.pools, error
            found = tuple(dict.fromkeys(asked.values()))  # each pool once
        else:
            found = (await client.fetch_snapshot(timeout=timeout)).pools
        if found:
            _print(format, asked, found)
        if failure is not None:
            errors = list(failure.errors.values())
            raise errors[0] if len(errors) == 1 else failure

    if scenario is not None and not sandbox:
        raise typer.BadParameter("works only with --sandbox", param_hint="--scenario")
    local = (scenario or Scenario.DOCUMENTED) if sandbox else None
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
        weight = await client.fetch_request_weight(timeout=timeout)
        state = client.budget.state()
        if format is Format.TABLE:
            _console().print(_output.weight_table(weight, state))
        else:
            print(_output.weight_json(weight, state))

    local = Scenario.DOCUMENTED if sandbox else None
    _run(_with_client(show, _base_url(context, base_url), budget, local))


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
            address = budget_url or _own_budget()
            budget = create_budget(address)
            stack.push_async_callback(budget.aclose)
            client = await stack.enter_async_context(InsuranceClient(base_url, budget=budget))
            await show(client)
        except (ValueError, ModuleNotFoundError) as error:
            _fail(str(error), USAGE)


def _own_budget() -> str:
    """Return the URL of the budget that all commands of this user on this host share."""
    return f"sqlite:///{user_state_path('binance-insurance') / 'budget.sqlite'}"


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
        _console().print(_output.pools_table(list(asked), found))
    elif format is Format.JSON:
        print(_output.pools_json(found))
    else:
        print(_output.pools_csv(found))


def _run(work: Coroutine[object, object, None], *, interrupted: int = _INTERRUPTED) -> None:
    try:
        asyncio.run(work)
    except InsuranceError as error:
        _fail(str(error), _exit_code(error))
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


def _exit_code(error: InsuranceError) -> int:
    """Return the exit code of an error, by which a script can react."""
    if isinstance(error, BulkFetchError):
        return max(_exit_code(each) for each in error.errors.values())
    if isinstance(error, BadRequestError):
        return USAGE
    if isinstance(error, (RateLimitError, BudgetTimeoutError)):
        return LIMITED
    if isinstance(error, StoreError):
        return NO_BUDGET
    return NETWORK if isinstance(error, TransportError) else BAD_ANSWER


def _fail(message: str, code: int) -> Never:
    print(f"binance-insurance: {' '.join(message.split())}", file=sys.stderr)
    raise typer.Exit(code)


def _console() -> Console:
    # A pipe has no width: use wide lines, so that few are broken.
    return Console() if sys.stdout.isatty() else Console(width=200)


def run() -> None:
    """Run the command line and exit."""
    app()
