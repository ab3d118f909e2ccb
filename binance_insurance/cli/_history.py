"""The commands that ask a history, export it, and merge others into it."""

from __future__ import annotations

from contextlib import AsyncExitStack
from datetime import datetime
from pathlib import Path  # noqa: TC003 - typer reads annotations at run time
from typing import TYPE_CHECKING, Annotated

import typer

from ..changes import diff
from ..history import open_history
from ..history.export import export
from ..history.reading import read_extent
from ..history.times import aware
from . import _answers
from ._errors import NO_OUTPUT, USAGE
from ._options import Format, HistoryUrl
from ._running import fail, run_command, usage_errors
from ._streams import say
from ._times import count, duration, moment

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable
    from datetime import timedelta

    from ..history import History
    from ..models import InsuranceSnapshot

history = typer.Typer(invoke_without_command=True)

_FUND = "-"

_Symbol = Annotated[
    str, typer.Argument(metavar="SYMBOL", help=f"A symbol, or {_FUND} for the whole fund.")
]
_Asset = Annotated[str, typer.Argument(metavar="ASSET", help="An asset, such as USDT.")]
_Start = Annotated[
    str | None,
    typer.Option(
        metavar="TIME",
        help="Only what was updated at this time or later: ISO 8601 with an offset, such as "
        "2026-01-31T12:00:00Z.",
    ),
]
_End = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only what was updated before this time."),
]
_Format = Annotated[Format, typer.Option("--format", "-f", help="Output format.")]


@history.callback()
def commands(context: typer.Context) -> None:
    """Ask what was recorded; nothing is sent to the exchange."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(USAGE)


@history.command()
def series(
    url: HistoryUrl,
    symbol: _Symbol,
    asset: _Asset,
    *,
    start: _Start = None,
    end: _End = None,
    format: _Format = Format.TABLE,
) -> None:
    """Print the balances that stood behind a symbol, with gaps and regroupings."""
    first, until = moment(start, "--start"), moment(end, "--end")

    async def show(history: History) -> None:
        found = await history.series(_symbol(symbol), asset, start=first, end=until)
        if not found.points:
            _say_nothing(symbol, asset)
        if format is Format.TABLE:
            _answers.print_series(found)
        elif format is Format.JSON:
            _answers.print_json(found.to_dict())
        else:
            _answers.print_series_csv(found)

    _read(url, show)


@history.command()
def drawdowns(
    url: HistoryUrl,
    symbol: _Symbol,
    asset: _Asset,
    *,
    start: _Start = None,
    end: _End = None,
    window: Annotated[
        str | None,
        typer.Option(
            metavar="DURATION",
            help="How long a peak counts: a number and s, m, h or d, such as 24h.",
            show_default="all the time",
        ),
    ] = None,
    limit: Annotated[str, typer.Option(metavar="N|all", help="How many to print.")] = "10",
    format: _Format = Format.TABLE,
) -> None:
    """Print how far the balance behind a symbol fell from its peaks, deepest first."""
    first, until = moment(start, "--start"), moment(end, "--end")
    seconds = None if window is None else duration(window, "--window").total_seconds()
    most = count(limit, "--limit")

    async def show(history: History) -> None:
        found = await history.drawdowns(
            _symbol(symbol), asset, window=seconds, start=first, end=until, limit=most
        )
        if not found:
            say(f"it did not fall, as far as the history has {_named(symbol, asset)}")
        if format is Format.JSON:
            _answers.print_json([fall.to_dict() for fall in found])
        elif format is Format.CSV:
            _answers.print_falls_csv(found)
        elif found:
            _answers.print_falls(found)

    _read(url, show)


@history.command()
def changes(
    url: HistoryUrl,
    *,
    since: Annotated[
        str,
        typer.Option(
            metavar="DURATION",
            help="How long before the last observation: a number and s, m, h or d.",
        ),
    ] = "24h",
    format: _Format = Format.TABLE,
) -> None:
    """Print what changed up to the last observation."""
    long = duration(since, "--since")

    async def show(history: History) -> None:
        ends = await _ends(history, long)
        if ends is None:
            say("the history has no observation yet")
        before, after = ends or (None, None)
        found = _answers.in_order(diff(before, after)) if before and after else []
        if format is Format.JSON:
            _answers.print_json([change.to_dict() for change in found])
        elif format is Format.CSV:
            _answers.print_changes_csv(found)
        elif before and after:
            _answers.print_changes(before.observed_at, after.observed_at, found)

    _read(url, show)


@history.command("export")
def export_values(
    url: HistoryUrl,
    file: Annotated[
        Path,
        typer.Argument(
            metavar="FILE",
            help="Its ending is .csv, .jsonl or .parquet (needs the extra parquet).",
        ),
    ],
) -> None:
    """Write all values into a file."""

    async def show(history: History) -> None:
        try:
            written = await export(history, file)
        except OSError as error:
            fail(f"{file} cannot be written: {error.strerror or error}", NO_OUTPUT)
        print(f"{written:,} values written to {file}")

    _read(url, show)


@history.command()
def merge(
    urls: Annotated[
        list[str],
        typer.Argument(metavar="URL...", help="Histories to read.", show_default=False),
    ],
    *,
    into: Annotated[
        str,
        typer.Option(metavar="URL", help="The history to add to; it is made where it is missing."),
    ],
) -> None:
    """Add all that some histories have to another: also a backup, or a move to PostgreSQL."""

    async def work() -> None:
        with usage_errors():
            async with AsyncExitStack() as stack:
                # All are opened first, so that a wrong name makes nothing.
                sources = [
                    await stack.enter_async_context(open_history(url, read_only=True))
                    for url in urls
                ]
                target = await stack.enter_async_context(open_history(into))
                for source in sources:
                    new = await target.merge(source)
                    print(f"{new:,} new values from {source.store}")

    run_command(work())


@history.command()
def info(url: HistoryUrl, *, format: _Format = Format.TABLE) -> None:
    """Print how much it holds, from when to when, its gaps, and how late the exchange updates."""

    async def show(history: History) -> None:
        found = await history.info()
        if format is Format.TABLE:
            _answers.print_info(found)
        elif format is Format.JSON:
            _answers.print_json(found.to_dict())
        else:
            _answers.print_info_csv(found)

    _read(url, show)


def _read(url: str, show: Callable[[History], Awaitable[None]]) -> None:
    """Open a history to read it only, and show an answer."""

    async def work() -> None:
        with usage_errors():
            async with open_history(url, read_only=True) as history:
                await show(history)

    run_command(work())


async def _ends(
    history: History, since: timedelta
) -> tuple[InsuranceSnapshot, InsuranceSnapshot] | None:
    """Return the last snapshot, and that of so long before, or the first if there is none."""
    extent = await history.store.read(read_extent())
    if extent is None:
        return None
    first, last = map(aware, extent)
    after = await history.latest(last)
    before = await history.latest(max(first, _earlier(last, since)))
    return None if before is None or after is None else (before, after)


def _earlier(time: datetime, duration: timedelta) -> datetime:
    try:
        return time - duration
    except OverflowError:
        return datetime.min.replace(tzinfo=time.tzinfo)


def _symbol(given: str) -> str | None:
    return None if given == _FUND else given


def _say_nothing(symbol: str, asset: str) -> None:
    say(f"the history has no {_named(symbol, asset)} in this time")


def _named(symbol: str, asset: str) -> str:
    return f"{asset} of {'the whole fund' if symbol == _FUND else symbol}"
