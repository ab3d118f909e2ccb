"""Options that several commands have, and what they mean together."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated

import typer

DEFAULT_URL = "https://fapi.binance.com"


class Scenario(StrEnum):
    """The pools that the local exchange serves."""

    DOCUMENTED = "documented"
    MARKET = "market"
    REGROUPING = "regrouping"


class Format(StrEnum):
    """Output formats."""

    TABLE = "table"
    JSON = "json"
    CSV = "csv"


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
Every = Annotated[
    float | None,
    typer.Option(help="Seconds between two looks.", metavar="S", show_default="60; sandbox: 1"),
]
WatchedScenario = Annotated[
    Scenario | None,
    typer.Option(help="Pools of the local exchange.", show_default="regrouping"),
]
HistoryUrl = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="The history: sqlite:///path or postgresql://host/database.",
        show_default=False,
    ),
]
Timeout = Annotated[
    float,
    typer.Option(
        min=0.001, help="Seconds for everything: the wait for weight and all attempts.", metavar="S"
    ),
]


def base_url_of(context: typer.Context, base_url: str) -> str:
    """Return the URL of the exchange, unless one was named beside `--sandbox`."""
    given = context.get_parameter_source("base_url")
    if context.params["sandbox"] and given is not None and given.name == "COMMANDLINE":
        raise typer.BadParameter("cannot be combined with --sandbox", param_hint="--base-url")
    return base_url


def local_scenario(
    scenario: Scenario | None, default: Scenario, *, sandbox: bool
) -> Scenario | None:
    """Return what the local exchange of a command serves; None where it asks the real one."""
    if scenario is not None and not sandbox:
        raise typer.BadParameter("works only with --sandbox", param_hint="--scenario")
    return (scenario or default) if sandbox else None


def watched(
    every: float | None, scenario: Scenario | None, *, sandbox: bool
) -> tuple[float, Scenario | None]:
    """Return the seconds of a tick, and what the local exchange serves, if there is one."""
    local = local_scenario(scenario, Scenario.REGROUPING, sandbox=sandbox)
    return (1.0 if sandbox else 60.0) if every is None else every, local
