"""The errors with which a budget refuses a call."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..errors import BudgetTimeoutError, IPBannedError, StoreError
from .report import utc

if TYPE_CHECKING:
    from .refusals import Refusals


def closed_error() -> StoreError:
    """Build the error for a call of a budget that is closed."""
    return StoreError("this budget is closed")


def ban_error(refusals: Refusals, now: float) -> IPBannedError | None:
    """Build the error for a call that is refused here, while the exchange bans this IP, or None."""
    end = refusals.banned_until(now)
    if end is None:
        return None
    banned_until = utc(end)
    return IPBannedError(
        f"the exchange bans this IP until {banned_until:%Y-%m-%d %H:%M:%S} UTC; "
        "nothing is sent until then",
        message="not sent: the IP is banned",
        retry_after=refusals.ban_ends - now,
        banned_until=banned_until,
    )


def late(wait: float, timeout: float) -> BudgetTimeoutError:
    """Build the error for a call that would have to wait for longer than it may."""
    return BudgetTimeoutError(
        f"the request weight would be there in {wait:.1f} s at the earliest, "
        f"but the call may take {timeout:.1f} s more",
        wait=wait,
    )
