"""Random worlds, in each of which the package has to keep its promise.

Nothing reaches the exchange after a refusal, no request is refused for our own weight, every call
ends in time with an exact answer or a documented error about its own symbol, and nothing is left
behind. `tests/worlds/referee.py` says what excuses a refusal.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from msgspec.structs import replace

from binance_insurance import LocalBudget
from binance_insurance.budget import Lease, Report

from .conftest import IN_CAMPAIGN
from .scale import sample
from .worlds import World, draw, play

# `WORLD=17` in the environment plays that one again.
SEEDS = [int(os.environ["WORLD"])] if "WORLD" in os.environ else range(sample(20, 500))


@pytest.mark.campaign
@pytest.mark.parametrize("seed", SEEDS)
def test_in_a_random_world_the_promise_is_kept(seed: int, tmp_path: Path) -> None:
    world = play(seed, tmp_path)
    if world.referee.violations:
        pytest.fail(f"world {seed}: {world.plan}\n{world.referee.story()}", pytrace=False)


class Deaf(LocalBudget):
    """A budget that does not hear of refusals."""

    def settle(self, lease: Lease, report: Report | None) -> None:
        if report is not None and report.status in {418, 429}:
            report = None
        super().settle(lease, report)


def generous(world: World) -> LocalBudget:
    """A budget of twice what the exchange grants."""
    plan = world.plan
    return LocalBudget(
        2 * plan.limit, interval=plan.interval, reserve=plan.reserve, runtime=world.runtime
    )


def deaf(world: World) -> LocalBudget:
    plan = world.plan
    return Deaf(plan.limit, interval=plan.interval, reserve=plan.reserve, runtime=world.runtime)


@pytest.mark.parametrize(
    ("broken", "rule"),
    [
        pytest.param(generous, "refused", marks=IN_CAMPAIGN),
        pytest.param(deaf, "not silent", marks=IN_CAMPAIGN),
    ],
)
def test_a_budget_that_breaks_a_rule_is_found_out(
    broken: Callable[[World], LocalBudget], rule: str, tmp_path: Path
) -> None:
    found = {
        violation.split(": ")[0].split(" ", 1)[1]
        for seed in range(12)
        for violation in World(replace(draw(seed), shared=False, lies=0.0), tmp_path, broken).play()
    }
    assert rule in found
