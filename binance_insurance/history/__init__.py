"""The history that the exchange does not keep: recorded, exact, and open about its gaps."""

from __future__ import annotations

from .history import History
from .open import open_history
from .values import Delays, Drawdown, Gap, HistoryInfo, Point, Regrouping, Series

__all__ = [
    "Delays",
    "Drawdown",
    "Gap",
    "History",
    "HistoryInfo",
    "Point",
    "Regrouping",
    "Series",
    "open_history",
]
