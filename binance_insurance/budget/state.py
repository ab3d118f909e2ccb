"""What a budget knows at one time."""

from __future__ import annotations

from datetime import datetime  # noqa: TC003 - msgspec reads annotations at run time

from .._pydantic import PydanticStruct


class BudgetState(PydanticStruct, frozen=True, kw_only=True):
    """A budget at one time, for logs, metrics and people.

    Attributes:
        limit: weight that the exchange grants the IP in one window.
        reserve: the part of it that is left to the other clients on the IP.
        used_weight: what the whole IP has used in this window, as last reported; None if this
            window has had no report yet.
        available: weight that can be granted now, without waiting.
        in_flight: weight that was granted and whose answer is not here, or was lost.
        waiting: callers that wait for weight.
        resets_at: when the next window begins by the exchange's clock; None before the first
            answer.
        frozen_until: the end of a freeze after a 429, by the exchange's clock, or None.
        banned_until: the end of a ban after a 418, by the exchange's clock, or None.
    """

    limit: int
    reserve: int
    used_weight: int | None
    available: int
    in_flight: int
    waiting: int
    resets_at: datetime | None
    frozen_until: datetime | None
    banned_until: datetime | None
