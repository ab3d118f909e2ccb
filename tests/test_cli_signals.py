"""How a command ends that runs until a signal: its work may finish what is under way."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

from benchmarks.processes import running

# Work that takes a moment to finish, or never does.
CODE = """
import asyncio, sys, typer
from binance_insurance import StoreError
from binance_insurance.cli._running import run_command

async def work():
    try:
        print("runs", flush=True)
        await asyncio.sleep(60)
    finally:
        print("finishes", flush=True)
        await asyncio.sleep(float(sys.argv[1]))
        if sys.argv[2:]:
            raise StoreError("the disk is full")
        print("done", flush=True)

try:
    run_command(work(), ends_with_signals=True)
except typer.Exit as ended:
    sys.exit(ended.exit_code)
"""
COMMAND = [sys.executable, "-P", "-c", CODE]


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_lets_the_work_finish_and_the_code_is_0(number: signal.Signals) -> None:
    # As a shell starts what runs in the background.
    ignoring = ["sh", "-c", "trap '' INT; exec \"$@\"", "sh", *COMMAND, "0.2"]
    with running(ignoring) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(number)
        assert process.stdout.readline() == "finishes\n"
        process.send_signal(signal.SIGTERM)  # changes nothing
        assert process.stdout.read() == "done\n"
        assert process.wait(10) == 0


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    with running([*COMMAND, "60"]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.send_signal(signal.SIGTERM)
        assert process.stdout.readline() == "finishes\n"
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 130


def test_an_error_while_it_finishes_is_said() -> None:
    with subprocess.Popen(
        [*COMMAND, "0", "fail"], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "runs\n"
        process.terminate()
        _, said = process.communicate(timeout=10)
    assert process.returncode == 6
    assert said == "binance-insurance: the disk is full\n"
