"""Random worlds, each from a seed, in virtual time; `python -m tests.worlds SEED` plays one."""

from __future__ import annotations

from pathlib import Path

from .plan import Plan, draw
from .world import World

__all__ = ["Plan", "World", "draw", "play"]


def play(seed: int, place: Path) -> World:
    """Play the world of a seed; files go into a directory that exists."""
    world = World(draw(seed), place)
    world.play()
    return world
