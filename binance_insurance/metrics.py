"""What a client, its budget and the pools look like to Prometheus; it needs the extra `metrics`.

A scrape sends nothing. It reads what is there already, in whichever thread it runs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

from .budget import Budget
from .budget.calling import Caller
from .models import InsuranceSnapshot

try:
    from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
except ModuleNotFoundError as _missing:
    raise ModuleNotFoundError(
        "binance_insurance.metrics needs prometheus_client: "
        "pip install 'binance-insurance[metrics]'",
        name="prometheus_client",
    ) from _missing

if TYPE_CHECKING:
    from collections.abc import Iterator
    from decimal import Decimal

    from prometheus_client import Metric

    from .budget import BudgetState
    from .client import ClientStats, InsuranceClient

__all__ = ["InsuranceCollector"]

_PREFIX = "binance_insurance_"


class InsuranceCollector:
    """A collector of prometheus-client: `REGISTRY.register(InsuranceCollector(client))`.

    Args:
        client: whose `stats()` and budget are shown.

    What is not known has no series: the used weight before a report, and balances before
    `observe`. Values are floats, which have 15 to 17 digits; exact ones are in the snapshots.

    It may be scraped from any thread. `state()` of one of our budgets is then called in the event
    loop of the budget; that of a budget of your own in the thread of the scrape.
    """

    def __init__(self, client: InsuranceClient) -> None:
        self._client = client
        self._snapshot: InsuranceSnapshot | None = None

    def observe(self, snapshot: InsuranceSnapshot) -> None:
        """Show the balances of this snapshot from now on, in place of the last one's.

        With `watch`, call it for each update. One with part of the pools shows these alone.

        Raises:
            TypeError: it is no snapshot, such as an update of a watch, which has one.
        """
        if not isinstance(snapshot, InsuranceSnapshot):  # pyright: ignore[reportUnnecessaryIsInstance]
            kind = type(snapshot).__name__
            raise TypeError(f"a snapshot is observed, such as update.snapshot, not {kind}")
        self._snapshot = snapshot

    def describe(self) -> list[Metric]:
        """Return nothing, so that registering asks for no values."""
        return []

    def collect(self) -> Iterator[Metric]:
        """Yield all metrics that have a value now."""
        snapshot = self._snapshot
        yield from _of_stats(self._client.stats())
        yield from _of_budget(self._state())
        if snapshot is not None:
            yield from _of_snapshot(snapshot)

    def _state(self) -> BudgetState:
        # It may roll the window over, which must not happen in the middle of a grant.
        budget = self._client.budget
        return Caller(budget).call(budget.state) if isinstance(budget, Budget) else budget.state()


def _of_stats(stats: ClientStats) -> Iterator[Metric]:
    for name, help, value in (
        ("requests_sent", "Requests that left, retries included.", stats.requests_sent),
        ("retries", "Attempts after the first of a call.", stats.retries),
        ("calls_shared", "Calls answered without a request of their own.", stats.calls_shared),
        ("weight_spent", "Request weight charged for the requests.", stats.weight_spent),
    ):
        yield CounterMetricFamily(_PREFIX + name, help, value)


def _of_budget(state: BudgetState) -> Iterator[Metric]:
    for name, help, value in (
        ("weight_limit", "Weight that the exchange grants this IP in one window.", state.limit),
        ("weight_reserve", "The part of it left to other clients on the IP.", state.reserve),
        ("weight_used", "Weight that the whole IP has used in this window.", state.used_weight),
        ("weight_available", "Weight that can be granted now, without waiting.", state.available),
        ("weight_in_flight", "Weight granted whose answer is not here.", state.in_flight),
        ("callers_waiting", "Callers that wait for weight.", state.waiting),
        ("ip_banned", "1 while the exchange bans this IP.", state.banned_until is not None),
        ("ip_frozen", "1 while a 429 forbids to send.", state.frozen_until is not None),
    ):
        if value is not None:
            yield GaugeMetricFamily(_PREFIX + name, help, value)


def _of_snapshot(snapshot: InsuranceSnapshot) -> Iterator[Metric]:
    observed = "When the exchange answered with the newest snapshot, by its clock."
    seconds = snapshot.observed_at.timestamp()
    yield GaugeMetricFamily(_PREFIX + "observed_timestamp_seconds", observed, seconds)
    balances: dict[tuple[str, str], Decimal] = {}
    symbols: dict[tuple[str, str], None] = {}
    for row in snapshot.rows():
        asset, pool = str(row["asset"]), str(row["pool"])
        # Two pools of the same symbols would be one series twice, which fails the whole scrape.
        balances[asset, pool] = balances.get((asset, pool), 0) + cast(
            "Decimal", row["margin_balance"]
        )
        for symbol in cast("tuple[str, ...]", row["symbols"]):
            symbols[pool, symbol] = None
    held = "Balance of an asset in a pool, in units of the asset."
    balance = GaugeMetricFamily(_PREFIX + "pool_balance", held, labels=["asset", "pool"])
    for labels, amount in balances.items():
        balance.add_metric(labels, float(amount))
    yield balance
    covered = "1 for each symbol that a pool covers."
    cover = GaugeMetricFamily(_PREFIX + "pool_symbol", covered, labels=["pool", "symbol"])
    for labels in symbols:
        cover.add_metric(labels, 1)
    yield cover
