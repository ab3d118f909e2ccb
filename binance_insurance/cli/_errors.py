"""Exit codes, and what is said about each error."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from typer.core import TyperGroup

from ..errors import (
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
    InsuranceError,
    RateLimitError,
    StoreError,
    TransportError,
)
from ._streams import say

if TYPE_CHECKING:
    from collections.abc import Iterator

USAGE, LIMITED, NETWORK, BAD_ANSWER, NO_STORE, NO_OUTPUT = 2, 3, 4, 5, 6, 7
INTERRUPTED = 130
_NAMED = 20  # failed symbols of one command


def exit_code(error: InsuranceError) -> int:
    """Return the exit code of an error, by which a script can react."""
    if isinstance(error, BulkFetchError):
        return max(exit_code(each) for each in error.errors.values())
    if isinstance(error, BadRequestError):
        return USAGE
    if isinstance(error, (RateLimitError, BudgetTimeoutError)):
        return LIMITED
    if isinstance(error, StoreError):
        return NO_STORE
    return NETWORK if isinstance(error, TransportError) else BAD_ANSWER


def lines(error: InsuranceError) -> Iterator[str]:
    """Say what failed: one line for each symbol, up to 20."""
    if not isinstance(error, BulkFetchError):
        yield str(error)
        return
    for symbol, each in list(error.errors.items())[:_NAMED]:
        yield str(each.about(symbol))
    more = len(error.errors) - _NAMED
    if more > 0:
        yield f"and {more} more"


@runtime_checkable
class _UsageError(Protocol):
    """Any error of typer's own; which classes they are depends on its version."""

    exit_code: int

    def format_message(self) -> str: ...


class Group(TyperGroup):
    """The commands; a wrong option is one line like every other error."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run a command and exit."""
        if not options.setdefault("standalone_mode", True):
            return super().main(*args, **options)
        options["standalone_mode"] = False
        try:
            code = super().main(*args, **options)
        except Exception as error:
            if not isinstance(error, _UsageError):
                raise
            say(f"{error.format_message()}{_hint(error)}")
            code = error.exit_code
        sys.exit(code)


def _hint(error: object) -> str:
    path: str | None = getattr(getattr(error, "ctx", None), "command_path", None)
    return f" (see '{path} --help')" if path else ""
