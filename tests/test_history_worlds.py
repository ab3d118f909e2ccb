"""In random worlds every answer of a history is that of a reference that keeps everything.

`tests/histories/reference.py` is written from the contract alone, the plain way. The stores are
SQLite and PostgreSQL; `python -m tests.histories SEED` shows a world.
"""

from __future__ import annotations

import asyncio
import os
from functools import cache
from pathlib import Path

import pytest

from .conftest import IN_CAMPAIGN
from .histories import Reference, World, draw
from .histories.broken import BROKEN, NeverCut
from .histories.referee import Question, Questions, check, check_order, plain
from .scale import sample

# `WORLD=17` in the environment checks that one again.
ONE = "WORLD" in os.environ
SEEDS = [int(os.environ["WORLD"])] if ONE else range(sample(40, 1000))
SHUFFLED = SEEDS if ONE else range(sample(8, 1000))


class Stores:
    """Names empty stores."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._count = 0

    def new(self, kind: str) -> str:
        """Return the URL of another store."""
        self._count += 1
        return f"sqlite:///{self._place / f'{self._count}.db'}"


@pytest.fixture
def stores(tmp_path: Path) -> Stores:
    return Stores(tmp_path)


def fail_for(world: World, found: list[str]) -> None:
    if found:
        story = [f"{len(found)} differences in world {world.seed}:", *found[:5], world.story()]
        pytest.fail("\n".join(story), pytrace=False)


@pytest.mark.campaign
@pytest.mark.parametrize("kind", ["sqlite"])
@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_random_world_every_answer_is_the_references(
    seed: int, kind: str, stores: Stores
) -> None:
    world = draw(seed)
    fail_for(world, asyncio.run(check(world, stores.new(kind))))


@pytest.mark.campaign
@pytest.mark.parametrize("kinds", [("sqlite", "sqlite")], ids="-".join)
@pytest.mark.parametrize("seed", SHUFFLED)
def test_order_repetition_and_merging_do_not_matter(
    seed: int, kinds: tuple[str, str], stores: Stores
) -> None:
    world = draw(seed)
    first, second = map(stores.new, kinds)
    fail_for(world, asyncio.run(check_order(world, first, second, stores.new("sqlite"))))


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
