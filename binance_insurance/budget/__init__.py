"""The weight budget: how much may be sent now, when it may not, and when it may again."""

from __future__ import annotations

from .._headers import Report
from .bucket import Lease
from .local import LocalBudget
from .protocol import WeightBudget
from .state import BudgetState

__all__ = ["BudgetState", "Lease", "LocalBudget", "Report", "WeightBudget"]
