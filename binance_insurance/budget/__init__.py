"""The weight budget: how much may be sent now, when it may not, and when it may again."""

from __future__ import annotations

from .local import LocalBudget
from .state import BudgetState

__all__ = ["BudgetState", "LocalBudget"]
