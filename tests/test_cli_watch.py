"""The command `watch`: one line for each change, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import subprocess
import sys
from decimal import Decimal
from typing import Any

import pytest
from typer.testing import CliRunner

from binance_insurance import AssetBalance, InsuranceClient, InsurancePool, LocalBudget, Runtime
from binance_insurance.cli._app import app
from binance_insurance.cli._watching import follow
from binance_insurance.sandbox import Fault, Sandbox, Scenario

from .conftest import wall_time

COMMAND = [sys.executable, "-P", "-m", "binance_insurance", "watch", "--sandbox", "--every", "0.2"]


STOPPED = (
    "observations have stopped: the exchange's firewall refused this IP; "
    "find the reason before you send more; HTTP 403"
)


def pool(names: str, usdt: str) -> InsurancePool:
    return InsurancePool(tuple(names.split()), (AssetBalance("USDT", Decimal(usdt), 1),))


class Days(Scenario):
    """One step a minute."""

    steps = (
        [pool("A B", "100"), pool("C", "10.50")],
        [pool("A B", "90"), pool("C", "10.50")],
        [pool("A", "60"), pool("C B", "40.50")],
        [pool("A D", "60"), pool("C", "40.50")],
    )

    def __init__(self, begin: float) -> None:
        self.begin = begin

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        return tuple(self.steps[min(3, int((at - self.begin) / 60))])


async def follow_days(runtime: Runtime, *, as_json: bool) -> None:
    async with Sandbox(Days(wall_time()), clock=wall_time) as exchange:
        budget = LocalBudget(runtime=runtime)
        async with InsuranceClient(exchange.url, budget=budget, runtime=runtime) as client:
            following = asyncio.create_task(follow(client, 60, None, as_json=as_json))
            await asyncio.sleep(130)
            exchange.inject(Fault.of_status(403))
            await asyncio.sleep(180)
            following.cancel()
            await asyncio.wait([following])
            assert following.cancelled()


async def test_a_line_for_each_change(runtime: Runtime, capsys: pytest.CaptureFixture[str]) -> None:
    await follow_days(runtime, as_json=False)
    lines = capsys.readouterr().out.splitlines()
    stamp = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  "
    assert all(re.match(stamp, line) for line in lines)
    assert [re.sub(stamp, "", line) for line in lines] == [
        "A and 1 more  USDT  100 -> 90  -10",
        "A  USDT  90 -> 60  -30  regrouped",
        "C and 1 more  USDT  10.50 -> 40.50  +30.00  regrouped",
        "B moved from A and 1 more to C and 1 more",
        STOPPED,
        "observations go on, 1 tick missed",
        "D listed in A and 1 more",
        "B delisted from C",
    ]


async def test_a_json_object_for_each_change(
    runtime: Runtime, capsys: pytest.CaptureFixture[str]
) -> None:
    await follow_days(runtime, as_json=True)
    found: list[dict[str, Any]] = [
        json.loads(line) for line in capsys.readouterr().out.splitlines()
    ]
    assert [each["event"] for each in found] == [
        *["changed"] * 4,
        "stopped",
        "resumed",
        *["changed"] * 2,
    ]
    first = found[0]
    assert (first["change"], first["asset"], first["delta"]) == ("BalanceChanged", "USDT", "-10")
    assert (first["before"], first["after"], first["regrouped"]) == ("100", "90", False)
    assert found[5]["missed"] == 1


@pytest.mark.parametrize("options", [[], ["--format", "jsonl"]])
def test_ctrl_c_ends_it_without_a_word(options: list[str]) -> None:
    with subprocess.Popen(
        [*COMMAND, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 0
    # Nothing before the first observation, where it begins in the scenario's outage.
    line = r"(binance-insurance: watching \d pools, every 0\.2 s; Ctrl-C ends it\n)?"
    assert re.fullmatch(line, said)


@pytest.mark.parametrize("every", ["0", "-1", "nan", "inf"])
def test_a_bad_number_is_one_line(every: str) -> None:
    done = CliRunner().invoke(app, ["watch", "--sandbox", "--every", every])
    assert done.exit_code == 2
    assert done.stderr.startswith("binance-insurance: every must be a positive number")
    assert len(done.stderr.splitlines()) == 1
