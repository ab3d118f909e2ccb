"""The command line `binance-insurance`; it needs the extra `cli`."""

from __future__ import annotations

import sys

__all__ = ["main"]


def main() -> None:
    """Run the command line."""
    try:
        from ._app import run
    except ModuleNotFoundError as error:
        if error.name not in {"rich", "typer"}:
            raise
        sys.exit("binance-insurance needs the extra 'cli': pip install 'binance-insurance[cli]'")
    run()
