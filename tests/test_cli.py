"""The command line: output, errors and exit codes."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from benchmarks.processes import running
from binance_insurance.cli import main
from binance_insurance.cli._app import app
from binance_insurance.sandbox import Fault, Sandbox

from .exchange import exchange_in_a_thread

USAGE, LIMITED, NETWORK, BAD_ANSWER, NO_BUDGET = 2, 3, 4, 5, 6


def run(*arguments: str, **env: str) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, arguments, env=env)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture(autouse=True)
def memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests from using the budget file of the user."""
    monkeypatch.setenv("BINANCE_INSURANCE_BUDGET", "memory://")


@pytest.fixture
def exchange() -> Iterator[Sandbox]:
    """A local exchange in its own thread and event loop, because each command runs its own loop."""
    with exchange_in_a_thread() as sandbox:
        yield sandbox


def test_pools_prints_the_documented_pools_exactly() -> None:
    result = run("pools", "--sandbox")
    assert result.exit_code == 0
    line = next(line for line in result.output.splitlines() if "793930579.315848" in line)
    assert line.split()[-4:-1] == ["793930579.315848", "USDT", "2025-04-23"]
    for amount in ("299999998.6497832", "61.73143554", "633223.99396922"):
        assert amount in result.output
    for amount in ("314151411.06482935", "5166686.84431694"):
        assert amount in result.output


def test_requested_symbols_come_first_and_each_pool_once() -> None:
    result = run("pools", "btcusdt", "ADAUSDT", "ETHUSDT", "--sandbox")
    assert result.output.count("793930579.315848") == 1
    assert "BTCUSDT ETHUSDT" in result.output
    assert "and 6 more" in result.output
    assert "and 10 more" in result.output


def test_json_is_the_list_of_pools_with_exact_strings() -> None:
    pools = json.loads(run("pools", "--sandbox", "--format", "json").output)
    assert len(pools) == 3
    assert pools[0]["assets"][1]["marginBalance"] == "793930579.315848"
    asked = json.loads(run("pools", "BTCUSDT", "ETHUSDT", "-f", "json", "--sandbox").output)
    assert asked == pools[:1]


def test_csv_has_a_line_for_each_asset_of_each_pool() -> None:
    lines = run("pools", "--sandbox", "--format", "csv").output.splitlines()
    assert lines[0] == "asset,marginBalance,updateTime,symbols"
    assert len(lines) == 7
    assert lines[2].startswith("USDT,793930579.315848,1745366402000,BNBUSDT BTCUSDT ")


def test_pools_prints_the_generated_market() -> None:
    result = run("pools", "--sandbox", "--scenario", "market", "-f", "csv")
    assert len(result.output.splitlines()) == 64
    assert "\nUSDT,0.00000000," in result.output, "a balance of zero is printed with all digits"


def test_limits_prints_used_weight_and_weight_left(exchange: Sandbox) -> None:
    exchange.spend_elsewhere(1399)
    result = run("limits", "--base-url", exchange.url)
    words = [line.split()[:2] for line in result.output.splitlines()]
    assert words[:4] == [["Limit", "2,400"], ["Used", "1,400"], ["Left", "1,000"], ["Ours", "520"]]
    weight = json.loads(run("limits", "-f", "json", BINANCE_INSURANCE_BASE_URL=exchange.url).output)
    assert (weight["limit"], weight["used_weight"], weight["left"]) == (2400, 1401, 999)
    assert run("limits", "--sandbox", "-f", "csv").exit_code == USAGE
    exchange.used_weight_header = "missing"
    assert "unknown" in run("limits", "--base-url", exchange.url).output


def test_pools_that_arrived_are_printed_before_the_error(exchange: Sandbox) -> None:
    result = run("pools", "BTCUSDT", "NOPE", "--base-url", exchange.url)
    assert result.exit_code == USAGE
    assert "793930579.315848" in result.stdout
    assert result.stderr == "binance-insurance: NOPE: HTTP 400: Invalid symbol. (code -1121)\n"
    result = run("pools", "BTCUSDT", "NOPE", "NADA", "--base-url", exchange.url)
    assert "2 of 3 symbols failed (2 InvalidSymbolError); the first: NOPE" in result.stderr


@pytest.mark.parametrize(
    ("fault", "timeout", "code", "words"),
    [
        (Fault.of_status(418, b"", {"Retry-After": "300"}), 30, LIMITED, "bans this IP until"),
        (Fault.of_status(429, b"", {"Retry-After": "300"}), 30, LIMITED, "weight limit"),
        (Fault.of_status(403, b"<html>"), 30, BAD_ANSWER, "firewall"),
        (Fault.html(), 30, BAD_ANSWER, "not the documented answer"),
        (Fault.stall(), 0.5, NETWORK, "no complete answer within 0."),
    ],
)
def test_each_error_is_one_line_with_its_exit_code(
    exchange: Sandbox, fault: Fault, timeout: float, code: int, words: str
) -> None:
    exchange.inject(fault)
    result = run("pools", "--timeout", str(timeout), "--base-url", exchange.url)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stdout == ""


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["pools", "BTC USDT", "--sandbox"], USAGE, "whitespace"),
        (["pools", "--base-url", "nowhere"], USAGE, "base_url must be"),
        (
            ["pools", "--base-url", "http://127.0.0.1:9"],
            NETWORK,
            "cannot connect",
        ),
    ],
)
def test_usage_and_network_errors(arguments: list[str], code: int, words: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert words in result.stderr


@pytest.mark.parametrize(
    "arguments",
    [
        ["pools", "--scenario", "market"],
        ["pools", "--sandbox", "--base-url", "http://127.0.0.1:9"],
        ["limits", "--sandbox", "--base-url", "http://127.0.0.1:9"],
    ],
)
def test_options_that_contradict_each_other_are_refused(arguments: list[str]) -> None:
    assert run(*arguments).exit_code == USAGE


def test_long_lists_of_symbols_are_shortened() -> None:
    result = run("pools", "--sandbox", "--scenario", "market")
    assert len(result.output.splitlines()) < 200
    assert "and 184 more" in result.output


def test_the_version_is_printed() -> None:
    assert run("--version").output.startswith("binance-insurance 0.")


def test_without_the_extra_the_error_names_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in list(sys.modules):
        if name.startswith(("typer", "binance_insurance.cli._")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "typer", None)
    with pytest.raises(SystemExit, match="binance-insurance\\[cli\\]"):
        main()


def test_the_sandbox_serves_until_it_is_interrupted() -> None:
    command = [sys.executable, "-m", "binance_insurance", "sandbox", "--port", "0"]
    env = os.environ | {"PYTHONUNBUFFERED": "1"}
    with running(command, env) as process:
        assert process.stdout is not None
        assert "serves the scenario 'market'" in process.stdout.readline()
        _, _, url = process.stdout.readline().strip().partition("=")
        result = run("pools", "BTCUSDT", BINANCE_INSURANCE_BASE_URL=url)
        assert result.exit_code == 0
        assert "and 12 more" in result.output
        process.send_signal(signal.SIGINT)
        assert process.wait(10) == 0


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("sandbox", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == NETWORK
    assert "cannot listen on 127.0.0.1" in result.stderr


def test_commands_share_a_budget_and_know_of_a_ban(exchange: Sandbox, tmp_path: Path) -> None:
    options = ("--base-url", exchange.url, "--budget", f"sqlite:///{tmp_path / 'budget.sqlite'}")
    assert run("pools", "BTCUSDT", *options).exit_code == 0
    end = int((exchange.now + 300) * 1000)
    exchange.inject(Fault.of_status(418, b'{"code":-1003,"msg":"banned until %d."}' % end))
    banned = [run("pools", "BTCUSDT", *options), run("limits", *options)]
    assert [result.exit_code for result in banned] == [LIMITED, LIMITED]
    ends = {re.search(r"bans this IP until (\S+ \S+)", result.stderr) for result in banned}
    assert len({end[1] for end in ends if end}) == 1
    assert len(exchange.requests) == 2, "the second command sent nothing"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the directory cannot be moved")
def test_by_default_the_budget_is_a_file_of_the_user(exchange: Sandbox, tmp_path: Path) -> None:
    env = {"XDG_STATE_HOME": str(tmp_path), "BINANCE_INSURANCE_BUDGET": ""}
    assert run("limits", "--base-url", exchange.url, **env).exit_code == 0
    assert (tmp_path / "binance-insurance" / "budget.sqlite").exists()


def test_a_budget_that_cannot_be_used_is_one_line(exchange: Sandbox, tmp_path: Path) -> None:
    result = run("limits", "--base-url", exchange.url, "--budget", f"sqlite:///{tmp_path}")
    assert result.exit_code == NO_BUDGET
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) in result.stderr
    result = run("limits", "--base-url", exchange.url, "--budget", "ftp://nowhere")
    assert result.exit_code == USAGE
    assert "memory://, sqlite:///path or redis://host" in result.stderr
