"""The service of docs/history.md: it records in its lifespan, and answers at no weight."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from fastapi import FastAPI

from binance_insurance import InsuranceSnapshot
from binance_insurance.history import Drawdown, Series
from binance_insurance.sandbox import Fault
from binance_insurance.testing import InsuranceExchange, make_pool, run_exchange

from .test_docs import PYTHON


@asynccontextmanager
async def service(
    exchange: InsuranceExchange, path: Path, monkeypatch: pytest.MonkeyPatch
) -> AsyncGenerator[Callable[[str], Awaitable[httpx.Response]]]:
    """Run the page's service, and yield what asks it."""
    (code,) = (each for name, each in PYTHON.items() if "FastAPI(" in each and "history.md" in name)
    monkeypatch.setenv("BINANCE_INSURANCE_BASE_URL", exchange.url)
    monkeypatch.setenv("HISTORY", f"sqlite:///{path}/h.db")
    monkeypatch.setenv("EVERY", "0.2")  # its budget is used up after 48 looks
    namespace: dict[str, Any] = {}
    exec(code, namespace)  # noqa: S102 - our own page
    app: FastAPI = namespace["app"]
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://service") as web,
    ):
        yield web.get


async def until(
    get: Callable[[str], Awaitable[httpx.Response]], path: str, status: int, words: str = ""
) -> Any:
    """Ask until the service answers with a status, and something, in which there are some words."""
    while True:
        answer = await get(path)
        if answer.status_code == status and answer.json() and words in answer.text:
            return answer.json()
        await asyncio.sleep(0.01)


def break_file(directory: Path) -> None:
    """Put a directory in the place of the history."""
    for each in directory.iterdir():
        each.unlink()
    (directory / "h.db").mkdir()


def test_the_documented_service_records_and_answers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        with run_exchange() as exchange:
            exchange.set_pools(make_pool("BTCUSDT", USDT="12.50"))
            async with service(exchange, tmp_path, monkeypatch) as get:
                latest = msgspec.convert(await until(get, "/latest", 200), InsuranceSnapshot)
                assert latest["BTCUSDT"].balance("USDT") == 12.5
                assert "observed_at" in await until(get, "/health", 200)
                exchange.set_pools(make_pool("BTCUSDT", USDT="10", update_time=1))
                (fall,) = await until(get, "/drawdowns/BTCUSDT/usdt", 200)
                assert msgspec.convert(fall, Drawdown).depth == 2.5
                points = (await get("/series/btcusdt/USDT")).json()
                assert len(msgspec.convert(points, Series).points) == 2
                assert "recovered_time" in (await get("/openapi.json")).text
                wrong = await get("/series/BTC%20USDT/USDT")
                assert (wrong.status_code, "'BTC USDT'" in wrong.json()["detail"]) == (400, True)
                assert (await get("/drawdowns/BTCUSDT/USDT?window=-1")).status_code == 400

                exchange.inject(Fault.of_status(418, headers={"Retry-After": "600"}))
                # A slow machine misses a tick, and is blind for a moment before that.
                blind = await until(get, "/health", 503, "bans this IP")
                assert "blind since" in blind["detail"]
                sent = len(exchange.requests)
                for path in ("/latest", "/series/BTCUSDT/USDT", "/drawdowns/BTCUSDT/USDT"):
                    assert (await get(path)).status_code == 200
                assert len(exchange.requests) == sent, "what is stored takes no request"

    asyncio.run(asyncio.wait_for(work(), 50))


def test_its_health_says_that_it_records_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def work() -> None:
        with run_exchange() as exchange:
            async with service(exchange, tmp_path, monkeypatch) as get:
                await until(get, "/latest", 200)
                break_file(tmp_path)
                await until(get, "/health", 503, "records no more")
                assert (await get("/latest")).status_code == 503

    asyncio.run(asyncio.wait_for(work(), 50))
