"""The weight budget: how much may be sent now, when it may not, and when it may again."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .ledger import Lease
from .local import LocalBudget
from .protocol import WeightBudget
from .report import Report
from .spending import Budget
from .state import BudgetState

if TYPE_CHECKING:
    from .create import create_budget
    from .redis import RedisBudget
    from .sqlite import SqliteBudget

__all__ = [
    "Budget",
    "BudgetState",
    "Lease",
    "LocalBudget",
    "RedisBudget",
    "Report",
    "SqliteBudget",
    "WeightBudget",
    "create_budget",
]

# Imported when they are first asked for: sqlite3 takes its time.
_LATER = {"RedisBudget": "redis", "SqliteBudget": "sqlite", "create_budget": "create"}


def __getattr__(name: str) -> object:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    found: object = getattr(import_module(f".{_LATER[name]}", __name__), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
