"""Carries a plan for many symbols out: asks what it says, and records what came of it."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from .errors import InsuranceError
from .models import InsuranceSnapshot

if TYPE_CHECKING:
    from ._planner import Plan
    from ._requests import Requests
    from .models import InsurancePool


async def carry_out(plan: Plan, requests: Requests, deadline: float) -> None:
    """Ask as the plan says, until nothing is left to ask."""
    asking: dict[asyncio.Task[InsurancePool | InsuranceSnapshot], str | None] = {}
    try:
        while True:
            hopeless = requests.hopeless(deadline)
            if hopeless is not None:
                plan.give_up(hopeless)
            for symbol in plan.next():
                work = (
                    requests.snapshot(deadline)
                    if symbol is None
                    else requests.pool(symbol, deadline, exclusive=plan.is_exclusive(symbol))
                )
                asking[asyncio.create_task(work)] = symbol
            if not asking:
                return
            answered, _ = await asyncio.wait(asking, return_when=asyncio.FIRST_COMPLETED)
            for task in answered:
                _record(plan, asking.pop(task), task)
    finally:
        for task in asking:
            task.cancel()
        if asking:
            await asyncio.wait(asking)


def _record(
    plan: Plan, symbol: str | None, task: asyncio.Task[InsurancePool | InsuranceSnapshot]
) -> None:
    """Record in the plan what came of a request."""
    try:
        answer = task.result()
    except InsuranceError as error:
        if symbol is None:
            plan.failed_snapshot(error)
        else:
            plan.failed(symbol, error)
        return
    if isinstance(answer, InsuranceSnapshot):
        plan.answered_snapshot(answer.get)
    elif symbol is not None:
        plan.answered(symbol, answer)
