"""Check worlds: `python -m tests.histories 17`, or `0-499` for many; `postgresql` for that store.

`-v` prints what was observed. Of the first world with differences, those observations are printed
that are needed to show one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from pathlib import Path

from msgspec.structs import replace

from benchmarks.postgres_server import PostgresServer

from . import World, draw
from .referee import check, check_order
from .stores import Stores
from .world import tell


def found_in(
    world: World, kind: str, place: Path, server: Callable[[], PostgresServer]
) -> list[str]:
    """Return all differences of a world."""
    with tempfile.TemporaryDirectory(dir=place) as files, Stores(Path(files), server) as stores:
        found = asyncio.run(check(world, stores.new(kind)))
        first, second, third = map(stores.new, (kind, "sqlite", "sqlite"))
        return found + asyncio.run(check_order(world, first, second, third))


def smallest(world: World, find: Callable[[World], list[str]]) -> World:
    """Leave out observations for as long as there is a difference."""
    index = 0
    while index < len(world.observations):
        fewer = world.observations[:index] + world.observations[index + 1 :]
        smaller = replace(world, observations=fewer)
        if fewer and find(smaller):
            world = smaller
        else:
            index += 1
    return world


def start_server(stack: ExitStack) -> PostgresServer:
    """Start a server that is removed in the end."""
    server = PostgresServer()
    stack.callback(server.remove)
    server.start()
    return server


def main(arguments: list[str]) -> int:
    seeds: list[int] = []
    for argument in arguments:
        if argument[0].isdigit():
            first, _, last = argument.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    kind = "postgresql" if "postgresql" in arguments else "sqlite"
    began, bad, observations = time.perf_counter(), 0, 0
    with ExitStack() as stack:
        place = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        servers = [start_server(stack)] if kind == "postgresql" else []
        find = partial(found_in, kind=kind, place=place, server=lambda: servers[0])
        for seed in seeds:
            world = draw(seed)
            observations += len(world.observations)
            if "-v" in arguments:
                print(f"seed {seed}: {world.manner}\n{world.story()}")
            found = find(world)
            if found and not bad:
                least = smallest(world, find)
                print(f"seed {seed}, what is needed for a difference:")
                print("\n".join(tell(least.observations)))
                print("\n".join(find(least)[:3]))
            elif found:
                print(f"seed {seed}: {len(found)} differences, such as {found[0]}")
            bad += bool(found)
    print(
        f"{len(seeds)} worlds on {kind} in {time.perf_counter() - began:.0f} s: "
        f"{observations} observations, {bad} worlds with differences"
    )
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
