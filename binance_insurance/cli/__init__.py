"""The command line `binance-insurance`; it needs the extra `cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]

# The libraries of the extra, and those that they bring: rich and typer import some of them late.
_LIBRARIES = {
    "annotated_doc",
    "click",
    "markdown_it",
    "mdurl",
    "platformdirs",
    "pygments",
    "rich",
    "shellingham",
    "typer",
    "typing_extensions",
}
_INTERRUPTED = 130


def main() -> None:
    """Run the command line."""
    try:
        from ._app import run

        run()
    except ModuleNotFoundError as error:
        name = (error.name or "").partition(".")[0]
        if name not in _LIBRARIES:
            raise
        sys.exit(
            f"binance-insurance: {name} is missing, which the extra 'cli' brings: "
            "pip install 'binance-insurance[cli]'"
        )
    except KeyboardInterrupt:  # before a command had begun
        sys.exit(_INTERRUPTED)
