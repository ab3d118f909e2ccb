"""The command line: output, errors and exit codes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from types import SimpleNamespace

import msgspec
import pytest
from typer.testing import CliRunner, Result

from benchmarks.processes import running
from binance_insurance import InsuranceClient, InsurancePool, IPBannedError
from binance_insurance.budget import create_budget
from binance_insurance.cli import main
from binance_insurance.cli._app import app
from binance_insurance.sandbox import Fault, Sandbox

from .exchange import exchange_in_a_thread
from .scripts import script

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
    assert [pool["symbols"] for pool in asked] == [pools[0]["symbols"]]
    observed = datetime.fromisoformat(asked[0].pop("observedAt"))
    assert abs(datetime.now(UTC) - observed) < timedelta(seconds=10)
    assert msgspec.convert(asked[0], InsurancePool).balance("USDT") == Decimal("793930579.315848")


def test_csv_has_a_line_for_each_asset_of_each_pool() -> None:
    lines = run("pools", "--sandbox", "--format", "csv").output.splitlines()
    assert lines[0] == "asset,marginBalance,updateTime,symbols"
    assert len(lines) == 7
    assert lines[2].startswith("USDT,793930579.315848,1745366402000,BNBUSDT BTCUSDT ")


def test_pools_prints_the_generated_market() -> None:
    result = run("pools", "--sandbox", "--scenario", "market", "-f", "csv")
    assert len(result.output.splitlines()) == 64
    assert "\nUSDT,0.00000000," in result.output, "a balance of zero is printed with all digits"


@pytest.mark.parametrize("budget", ["memory://", "sqlite:///{}"])
def test_limits_agrees_with_itself_with_each_budget(
    exchange: Sandbox, tmp_path: Path, budget: str
) -> None:
    exchange.spend_elsewhere(1399)
    options = ("--base-url", exchange.url, "--budget", budget.format(tmp_path / "budget.sqlite"))
    result = run("limits", *options)
    words = [line.split()[:2] for line in result.output.splitlines()]
    assert words[:4] == [["Limit", "2,400"], ["Used", "1,400"], ["Left", "1,000"], ["Ours", "520"]]
    assert re.fullmatch(r"\d\d:\d\d:00", words[4][1])
    exchange.spend_elsewhere(600)
    weight = json.loads(run("limits", "-f", "json", *options).output)
    assert (weight["used_weight"], weight["left"], weight["available"]) == (2001, 399, 0)
    assert datetime.fromisoformat(weight["resets_at"]) > datetime.now(UTC)


def test_limits_says_what_is_not_known(exchange: Sandbox) -> None:
    assert run("limits", "--sandbox", "-f", "csv").exit_code == USAGE
    exchange.used_weight_header = "missing"
    assert "unknown" in run("limits", "--base-url", exchange.url).output


def test_pools_that_arrived_are_printed_before_the_error(exchange: Sandbox) -> None:
    result = run("pools", "BTCUSDT", "NOPE", "--base-url", exchange.url)
    assert result.exit_code == USAGE
    assert "793930579.315848" in result.stdout
    assert result.stderr == "binance-insurance: NOPE: HTTP 400: Invalid symbol. (code -1121)\n"


def test_every_symbol_that_failed_is_named_up_to_20(exchange: Sandbox) -> None:
    result = run("pools", "BTCUSDT", "NOPE", "NADA", "--base-url", exchange.url)
    assert result.stderr.splitlines() == [
        f"binance-insurance: {symbol}: HTTP 400: Invalid symbol. (code -1121)"
        for symbol in ("NOPE", "NADA")
    ]
    many = run("pools", *(f"NO{n}" for n in range(23)), "--base-url", exchange.url)
    lines = many.stderr.splitlines()
    assert [line.split(": ")[1] for line in lines[:20]] == [f"NO{n}" for n in range(20)]
    assert lines[20:] == ["binance-insurance: and 3 more"]
    assert many.exit_code == USAGE


def test_the_exit_code_is_the_largest(exchange: Sandbox) -> None:
    exchange.inject(Fault.of_status(403, b"<html>"))
    result = run("pools", "NOPE", "NADA", "--base-url", exchange.url)
    assert (result.exit_code, result.stderr.count("\n")) == (BAD_ANSWER, 2)


@pytest.mark.parametrize(
    ("fault", "timeout", "code", "words"),
    [
        (Fault.of_status(418, b"", {"Retry-After": "300"}), 30, LIMITED, "bans this IP until"),
        (Fault.of_status(429, b"", {"Retry-After": "300"}), 30, LIMITED, "weight limit"),
        (Fault.of_status(403, b"<html>"), 30, BAD_ANSWER, "firewall"),
        (Fault.html(), 30, BAD_ANSWER, "not the documented answer"),
        (Fault.stall(), 0.5, NETWORK, "no complete answer within 0."),
        (Fault.cut_off(), 1.0, NETWORK, "the answer was cut off"),
    ],
)
def test_each_error_is_one_line_with_its_exit_code(
    exchange: Sandbox, fault: Fault, timeout: float, code: int, words: str
) -> None:
    exchange.inject(*[fault] * 4)
    result = run("pools", "--timeout", str(timeout), "--base-url", exchange.url)
    assert result.exit_code == code
    assert words in result.stderr
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("binance-insurance: ")
    assert not re.search(r"[a-z](Error|Exception)\b", result.stderr)
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
        (["pools", "--nope"], USAGE, "No such option: --nope"),
        (["pools", "--format", "[/red]"], USAGE, "[/red]"),
        (["nope"], USAGE, "No such command 'nope'"),
        (["pools", "--timeout", "x"], USAGE, "'--timeout'"),
        (["limits", "redis://:hunter2@host"], USAGE, "redis://***@host"),
    ],
)
def test_usage_and_network_errors(arguments: list[str], code: int, words: str) -> None:
    result = run(*arguments)
    assert (result.exit_code, result.stderr.count("\n")) == (code, 1)
    assert result.stderr.startswith("binance-insurance: ")
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


def test_a_short_option_helps_and_so_does_no_command() -> None:
    assert run("-h").output == run("--help").output
    assert "--budget" in run("pools", "-h").output
    result = run()
    assert (result.exit_code, result.output.split()) == (USAGE, run("-h").output.split())


@pytest.mark.parametrize(
    ("command", "extra"), [("exporter", "metrics"), ("history export", "parquet")]
)
def test_the_help_of_a_command_names_its_extra(command: str, extra: str) -> None:
    words = run(*command.split(), "--help").output.replace("│", " ").split()
    assert f"eeds the extra {extra}" in " ".join(words)


def test_the_shell_completes() -> None:
    env = {"_BINANCE_INSURANCE_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    env |= {"COMP_WORDS": "binance-insurance po", "_TYPER_COMPLETE_ARGS": "binance-insurance po"}
    command = [sys.executable, "-m", "binance_insurance"]
    done = subprocess.run(
        command, env=os.environ | env, capture_output=True, text=True, check=False
    )
    assert done.stdout.strip() == "pools"
    assert "--install-completion" in run("-h").output


@pytest.mark.parametrize("library", ["typer", "rich", "platformdirs"])
def test_without_a_library_the_error_names_the_extra(library: str) -> None:
    code = f"import sys; sys.modules[{library!r}] = None\n"
    line = script(code + "from binance_insurance.cli import main; main()").splitlines()
    assert len(line) == 1
    assert line[0].startswith(f"binance-insurance: {library} is missing")
    assert "pip install 'binance-insurance[cli]'" in line[0]


def test_a_library_that_is_imported_late_is_named_too(monkeypatch: pytest.MonkeyPatch) -> None:
    def run() -> None:
        raise ModuleNotFoundError("No module named 'click'", name="click.shell_completion")

    monkeypatch.setitem(sys.modules, "binance_insurance.cli._app", SimpleNamespace(run=run))
    with pytest.raises(SystemExit, match="click is missing"):
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
        assert process.wait(30) == 0


def test_a_port_in_use_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        result = run("sandbox", "--port", str(taken.getsockname()[1]))
    assert result.exit_code == NETWORK
    assert re.search(r"cannot listen on 127\.0\.0\.1:\d+: Address already in use\n", result.stderr)
    result = run("sandbox", "--host", "::1%nowhere", "--port", "0")
    assert (result.exit_code, result.stderr.count("\n")) == (NETWORK, 1)


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


@pytest.mark.parametrize("command", ["pools", "limits"])
def test_a_ban_that_a_service_met_holds_for_commands(
    exchange: Sandbox, tmp_path: Path, command: str
) -> None:
    url = f"sqlite:///{tmp_path / 'budget.sqlite'}"
    options = ("--base-url", exchange.url, "--budget", url)

    async def service() -> tuple[IPBannedError, int, Result, Result]:
        async with (
            create_budget(url) as budget,
            InsuranceClient(exchange.url, budget=budget) as client,
        ):
            with pytest.raises(IPBannedError) as caught:
                await client.fetch_pool("BTCUSDT")
            sent = len(exchange.requests)
            result = await asyncio.to_thread(run, command, *options)
            values = await asyncio.to_thread(run, "limits", "-f", "json", *options)
            return caught.value, sent, result, values

    exchange.inject(Fault.of_status(418, b"", {"Retry-After": "300"}))
    banned, sent, result, values = asyncio.run(service())
    assert (result.exit_code, len(exchange.requests)) == (LIMITED, sent)
    end = f"{banned.banned_until:%Y-%m-%d %H:%M:%S}"
    assert result.stderr.count("\n") == 1
    assert end in result.stderr
    assert (f"Banned  {end}" in result.stdout) is (command == "limits")
    known = json.loads(values.stdout)
    assert datetime.fromisoformat(known["banned_until"]) == banned.banned_until
    assert (known["limit"], known["available"]) == (2400, 0)
    assert known["resets_at"]


def test_limits_prints_a_freeze(exchange: Sandbox, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'budget.sqlite'}"
    options = ("--base-url", exchange.url, "--budget", url, "--timeout", "5")
    exchange.inject(Fault.of_status(429, b"", {"Retry-After": "300"}))
    assert run("pools", "BTCUSDT", *options).exit_code == LIMITED
    result = run("limits", *options)
    assert (result.exit_code, len(exchange.requests)) == (LIMITED, 1)
    assert re.search(r"^Ours +0 ", result.stdout, re.MULTILINE)
    assert re.search(r"^Frozen  +\d\d:\d\d:\d\d  UTC", result.stdout, re.MULTILINE)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the directory cannot be moved")
def test_by_default_the_budget_is_a_file_of_the_user(exchange: Sandbox, tmp_path: Path) -> None:
    home = tmp_path / "state 100%?"
    env = {"XDG_STATE_HOME": str(home), "BINANCE_INSURANCE_BUDGET": ""}
    assert run("limits", "--base-url", exchange.url, **env).exit_code == 0
    directory = home / "binance-insurance"
    assert (directory / "budget.sqlite").stat().st_mode & 0o777 == 0o600
    assert directory.stat().st_mode & 0o777 == 0o700


def test_a_budget_out_of_reach_is_said_once(exchange: Sandbox) -> None:
    budget = "redis://user:hunter2@127.0.0.1:9/0"
    result = run("pools", "BTCUSDT", "ADAUSDT", "--base-url", exchange.url, "--budget", budget)
    assert result.exit_code == 0
    assert "793930579.315848" in result.stdout
    assert result.stderr.count("\n") == 1
    assert result.stderr.startswith("binance-insurance: the budget's Redis is out of reach")
    assert "127.0.0.1:9" in result.stderr
    assert re.search(r"[^.]; this process goes on by itself", result.stderr)
    assert "hunter2" not in result.stderr


def test_a_refusal_is_not_said_twice(exchange: Sandbox, tmp_path: Path) -> None:
    exchange.inject(Fault.of_status(418, b"", {"Retry-After": "300"}))
    command = [sys.executable, "-m", "binance_insurance", "pools", "BTCUSDT"]
    done = subprocess.run(
        [*command, "--base-url", exchange.url], capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr.count("\n")) == (LIMITED, 1)


def test_a_budget_that_cannot_be_used_is_one_line(exchange: Sandbox, tmp_path: Path) -> None:
    result = run("limits", "--base-url", exchange.url, "--budget", f"sqlite:///{tmp_path}")
    assert result.exit_code == NO_BUDGET
    assert len(result.stderr.splitlines()) == 1
    assert str(tmp_path) in result.stderr
    result = run("limits", "--base-url", exchange.url, "--budget", "ftp://nowhere")
    assert result.exit_code == USAGE
    assert "memory://, sqlite:///path or redis://host" in result.stderr
