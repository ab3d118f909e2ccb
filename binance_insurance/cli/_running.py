"""How a command runs: its client, its exit code, and the end."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Never
from urllib.parse import quote

import typer
from platformdirs import user_state_path

from ..budget import create_budget
from ..client import InsuranceClient
from ..errors import InsuranceError
from ..sandbox import Sandbox
from ._errors import INTERRUPTED, USAGE, exit_code, lines
from ._streams import say
from ._warnings import outage_said

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from ._options import Scenario


def run_command(work: Coroutine[object, object, None], *, interrupted: int = INTERRUPTED) -> None:
    """Run the work of a command; say its error, and exit with the code of that."""
    try:
        asyncio.run(work)
    except InsuranceError as error:
        for line in lines(error):
            say(line)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(interrupted) from None


async def with_client(
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
            fail(str(error), USAGE)


def fail(message: str, code: int) -> Never:
    """Say why a command cannot go on, and exit."""
    say(message)
    raise typer.Exit(code)


def _own_budget() -> str:
    """Return the URL of the budget that all commands of this user on this host share."""
    path = user_state_path("binance-insurance") / "budget.sqlite"
    return f"sqlite:///{quote(path.as_posix())}"
