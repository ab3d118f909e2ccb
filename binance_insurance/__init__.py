"""The asyncio client for the insurance funds behind Binance USDⓈ-M futures."""

from __future__ import annotations

import logging

from ._retry import RetryPolicy
from ._runtime import Runtime
from .budget import BudgetState, LocalBudget
from .client import ClientStats, InsuranceClient
from .errors import (
    BadRequestError,
    BudgetTimeoutError,
    BulkFetchError,
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

__all__ = [
    "AssetBalance",
    "BadRequestError",
    "BudgetState",
    "BudgetTimeoutError",
    "BulkFetchError",
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
    "RequestTimeoutError",
    "RequestWeight",
    "RetryPolicy",
    "Runtime",
    "ServerError",
    "StatusError",
    "StoreError",
    "TransportError",
]

__version__ = "0.1.0"

# Silent unless the application sets logging up.
logging.getLogger(__name__).addHandler(logging.NullHandler())
