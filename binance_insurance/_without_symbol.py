"""Attempts of the requests without a symbol: for every pool, and for the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._decoding import decode_pools, decode_weight_limit
from ._shared_request import INFO, LIGHT, POOLS
from .budget.report import utc
from .models import InsuranceSnapshot, RequestWeight

if TYPE_CHECKING:
    from ._attempts import Attempts
    from ._knowledge import Knowledge
    from ._runtime import Runtime
    from ._shared_request import SharedRequest
    from .budget import WeightBudget


class WithoutSymbol:
    """Makes one attempt, and learns from its answer."""

    def __init__(
        self, attempts: Attempts, knowledge: Knowledge, budget: WeightBudget, runtime: Runtime
    ) -> None:
        self._attempts = attempts
        self._knowledge = knowledge
        self._budget = budget
        self._runtime = runtime

    async def request_weight(self, request: SharedRequest[Any]) -> RequestWeight:
        """Ask for the weight that the exchange grants and has counted."""
        outcome = None
        while outcome is None:
            lease = await self._attempts.acquire(LIGHT, request)
            outcome = await self._attempts.send(INFO, lease, request)
        interval = self._budget.interval
        return RequestWeight(
            limit=decode_weight_limit(outcome.body, interval),
            interval=interval,
            used_weight=outcome.report.used_weight,
            resets_at=self._budget.state().resets_at,
        )

    async def snapshot(self, request: SharedRequest[Any]) -> InsuranceSnapshot:
        """Ask for every pool."""
        outcome = None
        while outcome is None:
            lease = await self._attempts.acquire(self._knowledge.snapshot_weight, request)
            outcome = await self._attempts.send(POOLS, lease, request)
        report = outcome.report
        at = utc(report.wall if report.date is None else report.date)
        snapshot = InsuranceSnapshot(decode_pools(outcome.body), at)
        self._knowledge.learn_snapshot(snapshot, self._runtime.monotonic())
        if outcome.used_before is not None and report.used_weight is not None:
            self._knowledge.learn_snapshot_weight(outcome.used_before, report.used_weight)
        return snapshot
