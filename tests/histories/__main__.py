"""Check worlds: `python -m tests.histories 17`, or `0-499` for many.

`-v` prints what was observed. Of the first world with differences, those observations are printed
that are needed to show one.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path

from msgspec.structs import replace

from . import World, draw
from .referee import check, check_order
from .world import tell


class Stores(AbstractContextManager["Stores"]):
    """Names new SQLite files."""

    def __init__(self) -> None:
        self._place = tempfile.TemporaryDirectory()
        self._count = 0

    def __call__(self) -> str:
        self._count += 1
        return f"sqlite:///{Path(self._place.name, f'{self._count}.db')}"

    def __exit__(self, *_: object) -> None:
        self._place.cleanup()


def found_in(world: World, store: Callable[[], str]) -> list[str]:
    """Return all differences of a world."""
    return asyncio.run(check(world, store())) + asyncio.run(
        check_order(world, store(), store(), store())
    )


def smallest(world: World, store: Callable[[], str]) -> World:
    """Leave out observations for as long as there is a difference."""
    index = 0
    while index < len(world.observations):
        fewer = world.observations[:index] + world.observations[index + 1 :]
        smaller = replace(world, observations=fewer)
        if fewer and found_in(smaller, store):
            world = smaller
        else:
            index += 1
    return world


def main(arguments: list[str]) -> int:
    loud = "-v" in arguments
    seeds: list[int] = []
    for argument in arguments:
        if argument != "-v":
            first, _, last = argument.partition("-")
            seeds += range(int(first), int(last or first) + 1)
    began, bad, observations = time.perf_counter(), 0, 0
    with Stores() as store:
        for seed in seeds:
            world = draw(seed)
            observations += len(world.observations)
            if loud:
                print(f"seed {seed}: {world.manner}\n{world.story()}")
            found = found_in(world, store)
            if found and not bad:
                least = smallest(world, store)
                print(f"seed {seed}, what is needed for a difference:")
                print("\n".join(tell(least.observations)))
                print("\n".join(found_in(least, store)[:3]))
            elif found:
                print(f"seed {seed}: {len(found)} differences, such as {found[0]}")
            bad += bool(found)
    print(
        f"{len(seeds)} worlds in {time.perf_counter() - began:.0f} s: "
        f"{observations} observations, {bad} worlds with differences"
    )
    return bad > 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
