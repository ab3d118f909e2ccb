"""Run all rows: `python -m benchmarks [history] [--only ROW] [--json FILE] [--quick]`.

Without `history` the client is compared with others (see `nox -s bench`), with it the history with
bare sqlite3.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from .measure import write_table

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping

    from .measure import Row

    Rows = Mapping[str, Callable[[], Coroutine[object, object, Row]]]


async def run(rows: Rows) -> list[Row]:
    """Run rows, one after the other."""
    done: list[Row] = []
    for row in rows.values():
        done.append(await row())
        print(".", end="", flush=True, file=sys.stderr)
    print(file=sys.stderr)
    return done


def main(arguments: list[str]) -> None:
    """Print the table, and write it as JSON where asked to."""
    subject = "history" if arguments[:1] == ["history"] else "clients"
    # The other clients are imported only where they are compared.
    choose = import_module(f".{subject}", __package__).choose
    names = list(choose(quick=True))
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", action="append", choices=names, help="run this row; repeatable")
    parser.add_argument("--json", type=Path, help="also write the results to this file")
    parser.add_argument("--quick", action="store_true", help="few rounds: does it all run?")
    given = parser.parse_args(arguments[subject == "history" :])
    # As an exception, so that what was started is killed.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("terminated"))
    chosen = choose(quick=given.quick)
    rows = asyncio.run(run({name: chosen[name] for name in given.only or names}))
    print(write_table(rows))
    if given.json is not None:
        given.json.write_bytes(msgspec.json.format(msgspec.json.encode(rows)) + b"\n")


if __name__ == "__main__":
    main(sys.argv[1:])
