"""Whatever the headers of an answer say: no weight stays in flight, and a refusal is kept."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from binance_insurance import (
    InsuranceClient,
    InsuranceError,
    IPBannedError,
    LocalBudget,
    RateLimitError,
    RetryPolicy,
    Runtime,
    SqliteBudget,
)
from binance_insurance.sandbox import Fault, Sandbox

from .conftest import EPOCH, Singles, loop_time, wall_time

if TYPE_CHECKING:
    from pathlib import Path

ODD = {
    "year 9999": "Fri, 31 Dec 9999 23:59:59 GMT",
    "year 1": "Mon, 01 Jan 0001 00:00:00 GMT",
    "a long year": "Sun, 22 Nov 99999999999 12:00:00 GMT",
    "eleven digits": "99999999999",
    "a zone": "Sun, 22 Nov 2026 12:00:00 +99999999999999",
    "empty": "",
    "long": "9" * 5_000,
    "negative": "-1",
    "not ASCII": "été \udcff",
}
NAMES = ("Date", "Retry-After", "X-MBX-USED-WEIGHT-1S")


@pytest.mark.parametrize("text", ODD.values(), ids=ODD)
@pytest.mark.parametrize("status", [200, 400, 418, 429, 503])
@pytest.mark.parametrize("kind", ["local", "sqlite"])
async def test_odd_headers_cost_neither_weight_nor_an_undocumented_error(
    kind: str, status: int, text: str, tmp_path: Path
) -> None:
    loop = asyncio.get_running_loop()  # its time, also in the thread of the file
    runtime = Runtime(monotonic=loop.time, wall=lambda: EPOCH + loop.time())
    budget: LocalBudget | SqliteBudget
    if kind == "local":
        budget = LocalBudget(10, interval=1, reserve=0, runtime=runtime)
    else:
        budget = SqliteBudget(tmp_path / "b", 10, interval=1, reserve=0, runtime=runtime)
    headers: dict[str, str] = dict.fromkeys(NAMES, text)
    async with (
        Sandbox(Singles(30), limit=10, interval=1, clock=wall_time) as exchange,
        budget,
        InsuranceClient(
            exchange.url, budget=budget, runtime=runtime, retry=RetryPolicy(max_attempts=1)
        ) as client,
    ):
        await client.fetch_pool("S0USDT")
        exchange.inject(*[Fault(status, None if status == 200 else b"", headers)] * 12)
        for number in range(1, 13):
            try:
                await client.fetch_pool(f"S{number}USDT")
            except RateLimitError:
                break
            except InsuranceError:
                assert status in {400, 503}
            budget.state()
        exchange.faults.clear()
        began = loop_time()
        if status == 418:
            with pytest.raises(IPBannedError):
                await client.fetch_pool("S13USDT")
            assert budget.state().banned_until is not None
            return
        await client.fetch_pool("S13USDT")
        assert loop_time() - began <= 4.0
        for number in range(14, 17):  # what was reported around a rollover is believed later
            await client.fetch_pool(f"S{number}USDT")
        assert budget.state().in_flight == 0
