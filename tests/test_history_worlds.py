"""In random worlds every answer of a history is that of a reference that keeps everything.

`tests/histories/reference.py` is written from the contract alone, the plain way. The stores are
SQLite and PostgreSQL; `python -m tests.histories SEED` shows a world.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

from benchmarks.postgres_server import PostgresServer

from .conftest import IN_CAMPAIGN
from .histories import Reference, World, draw
from .histories.broken import BROKEN, NeverCut
from .histories.referee import Question, Questions, check, check_order, plain
from .histories.stores import Stores
from .scale import sample

# `WORLD=17` in the environment checks that one again.
ONE = [int(os.environ["WORLD"])] if "WORLD" in os.environ else None
WORLDS = [
    *((seed, "sqlite") for seed in ONE or range(sample(40, 1000, 100))),
    *((seed, "postgresql") for seed in ONE or range(sample(2, 1000, 8))),
]
_EITHER_WAY = (("sqlite", "postgresql"), ("postgresql", "sqlite"))
ORDERED = [
    *((seed, "sqlite", "sqlite") for seed in ONE or range(sample(8, 1000, 30))),
    *((seed, *_EITHER_WAY[seed % 2]) for seed in ONE or range(sample(2, 1000, 8))),
]


@pytest.fixture
def stores(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Stores]:
    def server() -> PostgresServer:
        running: PostgresServer = request.getfixturevalue("postgres_server")
        return running

    with Stores(tmp_path, server) as stores:
        yield stores


def fail_for(world: World, found: list[str]) -> None:
    if found:
        story = [f"{len(found)} differences in world {world.seed}:", *found[:5], world.story()]
        pytest.fail("\n".join(story), pytrace=False)


@pytest.mark.campaign
@pytest.mark.parametrize(("seed", "kind"), WORLDS)
def test_in_a_random_world_every_answer_is_the_references(
    seed: int, kind: str, stores: Stores
) -> None:
    world = draw(seed)
    fail_for(world, asyncio.run(check(world, stores.new(kind))))


@pytest.mark.campaign
@pytest.mark.parametrize(("seed", "first", "second"), ORDERED)
def test_order_repetition_and_merging_do_not_matter(
    seed: int, first: str, second: str, stores: Stores
) -> None:
    """The third store has all from the second: with PostgreSQL there, it has come back from it."""
    world = draw(seed)
    urls = map(stores.new, (first, second, "sqlite"))
    fail_for(world, asyncio.run(check_order(world, *urls)))


# The worlds themselves


def falls_in(reference: Reference, world: World) -> list[str]:
    return [
        f"{symbol} {asset}: {fall}"
        for symbol in [*world.symbols, None]
        for asset in world.assets
        for fall in reference.drawdowns(symbol, asset, limit=None)
    ]


def test_money_that_only_moves_with_symbols_never_falls() -> None:
    """A third of these worlds at least would show a fall if a regrouping did not end a series."""
    worlds = [world for world in map(draw, range(sample(60, 1000))) if world.only_moves]
    for world in worlds:
        falls = falls_in(Reference(world.observations), world)
        assert not falls, f"world {world.seed}: {falls[0]}"
    would_fall = [bool(falls_in(NeverCut(world.observations), world)) for world in worlds]
    assert sum(would_fall) > len(worlds) / 3


@cache
def asked(seed: int) -> tuple[World, list[Question]]:
    world = draw(seed)
    return world, Questions(world).draw()


def is_found_out(broken: type[Reference], seed: int) -> bool:
    """Whether a world shows that a rule is broken."""
    world, questions = asked(seed)
    reference = broken(world.observations)
    for question in questions:
        try:
            if plain(question.ask(reference)) != question.expected:
                return True
        except (LookupError, ValueError):
            return True
    return False


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param(each, id=each.__name__, marks=IN_CAMPAIGN * (number % 8 != 0))
        for number, each in enumerate(BROKEN)
    ],
)
def test_worlds_show_that_a_rule_is_broken(broken: type[Reference]) -> None:
    assert any(is_found_out(broken, seed) for seed in range(60)), broken.__doc__
