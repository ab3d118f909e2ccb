"""The service of the documentation: its answers, two workers on one budget, its container."""

from __future__ import annotations

import asyncio
import json
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Generator, Iterable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import msgspec
import pytest
from fastapi import FastAPI

from benchmarks.processes import running
from binance_insurance import InsuranceClient, InsurancePool, IPBannedError, create_budget
from binance_insurance.sandbox import Fault, Market, Sandbox

from .. import ROOT
from ..exchange import exchange_in_a_thread

PAGE = (ROOT / "docs" / "service.md").read_text("utf-8")
LIMIT, INTERVAL = 30, 2  # no room for the snapshot request, which would answer all at once

# What shows which worker answered.
SIGNED = """
import os
from service import app

@app.middleware("http")
async def sign(request, call_next):
    response = await call_next(request)
    response.headers["X-Worker"] = str(os.getpid())
    return response
"""

Answers = list[tuple[int, str]]


def service() -> str:
    blocks = re.finditer(r"```python\n(.*?)```", PAGE, re.DOTALL)
    return next(block[1] for block in blocks if "FastAPI(" in block[1])


def in_container(instruction: str) -> list[str]:
    """The command of an instruction of the Dockerfile."""
    found = re.search(rf"^{instruction}[^\[]*(\[.*?\])$", PAGE, re.MULTILINE | re.DOTALL)
    assert found
    command: list[str] = json.loads(found[1].replace("\\\n", ""))
    return command


async def test_the_service_answers_200_404_and_503_during_a_ban(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    namespace: dict[str, Any] = {}
    async with Sandbox("documented") as exchange:
        monkeypatch.setenv("EXCHANGE", exchange.url)
        monkeypatch.setenv("BUDGET_URL", "memory://")
        exec(service(), namespace)  # noqa: S102 - our own page
        app: FastAPI = namespace["app"]
        transport = httpx.ASGITransport(app, raise_app_exceptions=False)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=transport, base_url="http://service") as web,
        ):
            good = await web.get("/pools/btcusdt")
            assert good.status_code == 200
            assert "BTCUSDT" in msgspec.convert(good.json(), InsurancePool)
            for wrong in ("NOSUCHUSDT", "BTC%20USDT", "%20", "A" * 65):
                assert (await web.get(f"/pools/{wrong}")).status_code == 404
            exchange.inject(Fault.of_status(418, headers={"Retry-After": "300"}))
            for _ in range(2):  # the second is not sent
                banned = await web.get("/pools/OMUSDT")
                assert banned.status_code == 503
                assert 290 <= int(banned.headers["Retry-After"]) <= 302
            health = await web.get("/health")
            assert health.status_code == 200
            assert health.json()["banned_until"]
            assert "marginBalance" in (await web.get("/openapi.json")).text


@contextmanager
def served(directory: Path, port: int, environment: dict[str, str]) -> Generator[str]:
    """Run the container's command here, each answer signed by its worker."""
    (directory / "service.py").write_text(service(), "utf-8")
    (directory / "signed.py").write_text(SIGNED, "utf-8")
    here = {"service:app": "signed:app", "0.0.0.0": "127.0.0.1", "8000": str(port)}  # noqa: S104
    command = [here.get(word, word) for word in in_container("CMD")]
    assert {"signed:app", str(port), "--workers"} <= set(command)
    options = ["--app-dir", str(directory), "--log-level", "error"]
    with running([sys.executable, "-m", *command, *options], os.environ | environment) as process:
        yield f"http://127.0.0.1:{port}"
        process.terminate()
        assert process.wait(30) == 0


async def ask(session: aiohttp.ClientSession, paths: Iterable[str]) -> Answers:
    """Ask all at once, each over a connection of its own."""

    async def one(path: str) -> tuple[int, str]:
        async with session.get(path) as response:
            return response.status, response.headers["X-Worker"]

    return list(await asyncio.gather(*map(one, paths)))


async def ask_both(session: aiohttp.ClientSession, path: str) -> set[int]:
    """Ask until each of the two workers has answered, and return the statuses."""
    end, workers, statuses = time.monotonic() + 40, set[str](), set[int]()
    while len(workers) < 2:
        assert time.monotonic() < end, "two workers do not answer"
        try:
            answers = await ask(session, [path] * 20)
        except aiohttp.ClientConnectionError:
            await asyncio.sleep(0.05)  # they start
        else:
            workers |= {worker for _, worker in answers}
            statuses |= {status for status, _ in answers}
    return statuses


def symbols(count: int) -> list[str]:
    """Symbols of all pools in turn."""
    pools = [pool.symbols for pool in Market().pools(time.time())]
    found = [pool[number] for number in range(99) for pool in pools if number < len(pool)]
    return found[:count]


async def load(url: str, exchange: Sandbox) -> None:
    connector = aiohttp.TCPConnector(limit=0, force_close=True)
    async with aiohttp.ClientSession(url, connector=connector) as session:
        assert await ask_both(session, "/health") == {200}
        answers = await ask(session, [f"/pools/{symbol}" for symbol in symbols(200)])
        assert {status for status, _ in answers} <= {200, 503}
        assert Counter(status for status, _ in answers)[200] >= LIMIT / 2
        assert {seen.verdict for seen in exchange.requests} == {200}
        assert len(exchange.requests) >= LIMIT

        exchange.inject(Fault.of_status(418, headers={"Retry-After": "300"}))
        while exchange.faults:  # a call that finds no weight in time is a 503 too, and meets no ban
            assert (await ask(session, ["/pools/NEWUSDT"]))[0][0] == 503
        sent = len(exchange.requests)
        assert await ask_both(session, "/pools/NEWERUSDT") == {503}
        assert await ask_both(session, "/health") == {200}
        assert len(exchange.requests) == sent


def test_two_workers_keep_one_limit_and_both_know_a_ban(
    tmp_path: Path, unused_tcp_port: int
) -> None:
    budget = f"sqlite:///{tmp_path}/budget.sqlite?limit={LIMIT}&interval={INTERVAL}&reserve=0"
    with exchange_in_a_thread(Market(), limit=LIMIT, interval=INTERVAL) as exchange:
        environment = {"EXCHANGE": exchange.url, "BUDGET_URL": budget}
        with served(tmp_path, unused_tcp_port, environment) as url:
            asyncio.run(load(url, exchange))
            check = in_container("HEALTHCHECK")
            assert check.pop(0) == "python"
            script = check[-1].replace("8000", str(unused_tcp_port))
            subprocess.run([sys.executable, *check[:-1], script], check=True, timeout=30)
        sent = len(exchange.requests)

        async def replaced() -> None:
            async with (
                create_budget(budget) as kept,
                InsuranceClient(exchange.url, budget=kept) as client,
            ):
                with pytest.raises(IPBannedError):
                    await client.fetch_pool("BTCUSDT")

        asyncio.run(replaced())  # the container that follows, with the same volume
        assert len(exchange.requests) == sent
