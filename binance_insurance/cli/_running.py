"""How a command runs: its client, its exit code, and the end."""

from __future__ import annotations

import asyncio
import os
import signal
import threading
from contextlib import AsyncExitStack, contextmanager
from typing import TYPE_CHECKING, Never
from urllib.parse import quote

import typer
from platformdirs import user_state_path

from .._retry import RetryPolicy
from ..budget import create_budget
from ..client import InsuranceClient
from ..errors import InsuranceError
from ..sandbox import Sandbox
from ._errors import INTERRUPTED, NETWORK, USAGE, exit_code, lines
from ._streams import say
from ._warnings import outages_said

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine, Generator
    from types import FrameType

    from ._options import Scenario

_SIGNALS = signal.SIGINT, signal.SIGTERM


def run_command(work: Coroutine[object, object, None], *, ends_with_signals: bool = False) -> None:
    """Run the work of a command; say its error, and exit with the code of that.

    Args:
        work: what the command does.
        ends_with_signals: SIGINT (Ctrl-C) or SIGTERM is how the command ends. It cancels the work,
            which may finish what is under way, and the code is 0.
    """
    try:
        asyncio.run(_until_a_signal(work) if ends_with_signals else work)
    except InsuranceError as error:
        for line in lines(error):
            say(line)
        raise typer.Exit(exit_code(error)) from None
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None


async def _until_a_signal(work: Coroutine[object, object, None]) -> None:
    """Do work until it ends, or a signal cancels it. Of later signals, Ctrl-C ends it at once."""
    loop, task, ended = asyncio.get_running_loop(), asyncio.ensure_future(work), False

    def handle(number: int, _: FrameType | None) -> None:
        nonlocal ended
        if ended and number == signal.SIGINT:
            raise KeyboardInterrupt
        if not ended:
            ended = True
            loop.call_soon_threadsafe(task.cancel)

    with _handling(handle):
        try:
            await task
        except asyncio.CancelledError:
            if not ended:
                raise


@contextmanager
def _handling(handler: Callable[[int, FrameType | None], None]) -> Generator[None]:
    """Handle SIGINT and SIGTERM, also where whoever started this process ignores them."""
    if threading.current_thread() is not threading.main_thread():
        yield  # no other thread can
        return
    before = {number: signal.signal(number, handler) for number in _SIGNALS}
    try:
        yield
    finally:
        for number, previous in before.items():
            signal.signal(number, previous)


async def with_client(
    show: Callable[[InsuranceClient], Awaitable[None]],
    base_url: str,
    budget_url: str | None,
    scenario: Scenario | None,
    retry: RetryPolicy = RetryPolicy(),  # noqa: B008 - it is immutable
) -> None:
    """Run a command against the exchange, or against a local one started for it."""
    async with AsyncExitStack() as stack:
        if scenario is not None:
            base_url = (await stack.enter_async_context(Sandbox(scenario.value))).url
            budget_url = budget_url or "memory://"
        with usage_errors():
            budget = create_budget(budget_url or _own_budget())
            stack.push_async_callback(budget.aclose)
            client = InsuranceClient(base_url, budget=budget, retry=retry)
            await stack.enter_async_context(client)
            with outages_said():
                await show(client)


@contextmanager
def usage_errors() -> Generator[None]:
    """Let a wrong argument, or an extra that is not installed, end a command as wrong usage."""
    try:
        yield
    except (ValueError, ModuleNotFoundError) as error:
        fail(str(error), USAGE)


def fail(message: str, code: int) -> Never:
    """Say why a command cannot go on, and exit."""
    say(message)
    raise typer.Exit(code)


def authority(host: str, port: int) -> str:
    """Return a host and a port as URLs have them, an IPv6 address in brackets."""
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def fail_to_listen(host: str, port: int, error: OSError) -> Never:
    """Say why a command cannot listen on a host and port, and exit."""
    # asyncio repeats the address in the text of such an error; those of name servers are negative.
    number = error.errno or 0
    reason = os.strerror(number) if number > 0 else error.strerror or error
    fail(f"cannot listen on {authority(host, port)}: {reason}", NETWORK)


def _own_budget() -> str:
    """Return the URL of the budget that all commands of this user on this host share."""
    path = user_state_path("binance-insurance") / "budget.sqlite"
    return f"sqlite:///{quote(path.as_posix())}"
