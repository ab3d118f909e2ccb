"""The pools of a scenario as the bytes of answers. Pure: the caller gives the time."""

from __future__ import annotations

from typing import TYPE_CHECKING

import msgspec

if TYPE_CHECKING:
    from ..models import InsurancePool
    from ._scenarios import Scenario


class Served:
    """The pools of a scenario, encoded once for as long as they do not change.

    Attributes:
        scenario: where the pools come from.
        every_pool: the answer to the snapshot request.
        pool_of: the answer for each symbol.
    """

    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.every_pool = b""
        self.pool_of: dict[str, bytes] = {}
        self._pools: tuple[InsurancePool, ...] | None = None

    def update(self, now: float) -> None:
        """Take over the pools at a time, in seconds since 1970 by the exchange's clock."""
        pools = self.scenario.pools(now)
        if pools is self._pools:
            return
        bodies = [_body(pool) for pool in pools]
        self._pools = pools
        self.every_pool = b"[%s]" % b",".join(bodies)
        self.pool_of = {}
        for pool, body in zip(pools, bodies, strict=True):
            for symbol in pool.symbols:
                self.pool_of.setdefault(symbol, body)


def _body(pool: InsurancePool) -> bytes:
    """Encode what the exchange says of a pool; when it was observed is not part of that."""
    return msgspec.json.encode({"symbols": pool.symbols, "assets": pool.assets})
