"""Random worlds of observations, each from a seed; `python -m tests.histories SEED` checks one."""

from __future__ import annotations

from .reference import Observation, Reference
from .remembered import Remembered
from .world import World, draw

__all__ = ["Observation", "Reference", "Remembered", "World", "draw"]
