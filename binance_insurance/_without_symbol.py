"""Attempts of the requests without a symbol: for every pool, and for the limits."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._decoding import decode_pools, decode_weight_limit, observed_at
from ._shared_request import INFO, LIGHT, PING, POOLS
from .errors import DecodeError
from .models import InsuranceSnapshot, RequestWeight

if TYPE_CHECKING:
    from ._attempts import Attempts, Outcome
    from ._knowledge import Knowledge
    from ._runtime import Runtime
    from ._shared_request import SharedRequest
    from .budget import WeightBudget

_PINGS = 3  # answers without a used weight that a budget wants to see before it does without
_ROLLOVER_SHARE = 60  # a window rolls over a sixtieth of it after the exchange's date has turned
_PAUSE_SHARE = 4  # before further ones it waits for up to a quarter of a window


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
        outcome = await self._send_snapshot(request)
        report = outcome.report
        seen = observed_at(report)
        try:
            snapshot = InsuranceSnapshot(decode_pools(outcome.body, seen), seen)
        except DecodeError as error:
            for pool in error.pools:
                self._knowledge.learn_pool(pool, outcome.asked_at)
            raise
        self._knowledge.learn_snapshot(snapshot, outcome.asked_at)
        if outcome.used_before is not None and report.used_weight is not None:
            self._knowledge.learn_snapshot_weight(outcome.used_before, report.used_weight)
        return snapshot

    async def _send_snapshot(self, request: SharedRequest[Any]) -> Outcome:
        """Send the snapshot request, but no heavy one as the probe: a light one goes first."""
        attempts, pings, early = self._attempts, 0, False
        while True:
            weight = self._knowledge.snapshot_weight
            lease = await attempts.acquire(weight, request)
            if weight == LIGHT or not lease.number:
                outcome = await attempts.send(POOLS, lease, request)
                if outcome is not None:
                    return outcome
                continue
            self._budget.release(lease)
            if pings >= _PINGS:
                # Their answers bring no trust, or clients that all send one leave too little for
                # what follows: then chance lets one of them be first.
                await self._pause(self._runtime.random() / _PAUSE_SHARE, request)
            elif early:
                await self._pause(1 / _ROLLOVER_SHARE, request)
            lease = await attempts.acquire(LIGHT, request)
            if not lease.number:  # another request has gone first meanwhile
                self._budget.release(lease)
                continue
            pinged = await attempts.send(PING, lease, request)
            if pinged is not None:
                pings += 1
                # Where it reports and is not believed, a window is about to roll over.
                early = pinged.report.used_weight is not None

    async def _pause(self, share: float, request: SharedRequest[Any]) -> None:
        """Wait for a part of a window, as if for weight."""
        request.waiting = True
        await self._runtime.sleep(share * self._budget.interval)
        request.waiting = False
