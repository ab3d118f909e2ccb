"""The asyncio client for the insurance funds behind Binance USDⓈ-M futures."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from . import budget as _budget
from ._retry import RetryPolicy
from ._runtime import Runtime
from .budget import Budget, BudgetState, LocalBudget, Report, WeightBudget
from .changes import diff
from .client import ClientStats, InsuranceClient
from .errors import (
    AssetNotHeldError,
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
    ClientClosedError,
    ConnectError,
    DecodeError,
    ForbiddenError,
    InsuranceError,
    InvalidSymbolError,
    IPBannedError,
    RateLimitError,
    RequestTimeoutError,
    ServerError,
    StatusError,
    StoreError,
    TransportError,
)
from .models import AssetBalance, InsurancePool, InsuranceSnapshot, RequestWeight

if TYPE_CHECKING:
    from .budget import RedisBudget, SqliteBudget, create_budget

__all__ = [
    "AssetBalance",
    "AssetNotHeldError",
    "BadRequestError",
    "Budget",
    "BudgetState",
    "BudgetTimeoutError",
    "BulkFetchError",
    "ClientClosedError",
    "ClientStats",
    "ConnectError",
    "DecodeError",
    "ForbiddenError",
    "IPBannedError",
    "InsuranceClient",
    "InsuranceError",
    "InsurancePool",
    "InsuranceSnapshot",
    "InvalidSymbolError",
    "LocalBudget",
    "RateLimitError",
    "RedisBudget",
    "Report",
    "RequestTimeoutError",
    "RequestWeight",
    "RetryPolicy",
    "Runtime",
    "ServerError",
    "SqliteBudget",
    "StatusError",
    "StoreError",
    "TransportError",
    "WeightBudget",
    "create_budget",
    "diff",
]

__version__ = "0.1.0"

# No log output unless the application configures logging.
logging.getLogger(__name__).addHandler(logging.NullHandler())


def __getattr__(name: str) -> object:
    # Imported on first use, because not every user needs them.
    if name in __all__:
        return getattr(_budget, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
