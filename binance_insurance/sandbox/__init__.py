"""A local exchange for development and tests: real HTTP on loopback, the real exchange's rules.

    async with Sandbox() as exchange, InsuranceClient(exchange.url) as client:
        pool = await client.fetch_pool("BTCUSDT")

It counts weight, refusals and bans independently of the client.
"""

from __future__ import annotations

from ._accounting import SeenRequest
from ._faults import Fault
from ._scenarios import Documented, Market, Regrouping, Scenario
from ._server import Sandbox

__all__ = ["Documented", "Fault", "Market", "Regrouping", "Sandbox", "Scenario", "SeenRequest"]
