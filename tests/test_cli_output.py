"""What the commands print: whole at any width, as text, and to odd outputs."""

from __future__ import annotations

import csv
import io
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from decimal import Decimal

import pytest
from rich.cells import cell_len
from typer.testing import CliRunner

from binance_insurance import AssetBalance, InsurancePool
from binance_insurance.cli._app import app
from binance_insurance.sandbox import Fault, Sandbox

from .conftest import IN_CAMPAIGN
from .exchange import exchange_in_a_thread

if sys.platform == "win32":
    pytest.skip("there are no such terminals and shells", allow_module_level=True)

from .terminal import COMMAND, Terminal, environment, in_shell

USAGE, NO_OUTPUT, INTERRUPTED = 2, 7, 130
LONG = "123456789012345678901234567.123456789012"
CHINESE = "币安人生USDT"
LONGEST = "L" * 60 + "USDT"
ODD = ("A\x1b[31mB\x07", "[/red]", ":smile:", "C D", "E\x9b\u202eF")
UPDATED = 1_745_366_402_000

# Long balances, symbols of double width, and names that are no names.
POOLS = (
    InsurancePool(
        ("BTCUSDT", CHINESE, "ETHUSDT", "ETHUSDT_260925"),
        (
            AssetBalance("USDT", Decimal(LONG), UPDATED),
            AssetBalance("BNFCR", Decimal("-1.5"), UPDATED),
        ),
    ),
    InsurancePool(ODD, (AssetBalance("U\x1b]0;x\x07", Decimal("0E-8"), UPDATED),)),
    InsurancePool((LONGEST,), (AssetBalance("USDC", Decimal(7), UPDATED),)),
    InsurancePool(
        tuple(f"N{number}USDT" for number in range(30)),
        (AssetBalance("USDT", Decimal("0.00000001"), UPDATED),),
    ),
)


@pytest.fixture
def exchange() -> Iterator[Sandbox]:
    """An exchange with odd pools, in its own thread."""
    with exchange_in_a_thread(POOLS) as sandbox:
        yield sandbox


@pytest.fixture(autouse=True)
def memory_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the tests from using the budget file of the user."""
    monkeypatch.setenv("BINANCE_INSURANCE_BUDGET", "memory://")


@pytest.fixture
def base_url(exchange: Sandbox, monkeypatch: pytest.MonkeyPatch) -> str:
    """The exchange is that of all commands."""
    monkeypatch.setenv("BINANCE_INSURANCE_BASE_URL", exchange.url)
    return exchange.url


@pytest.mark.usefixtures("base_url")
@pytest.mark.parametrize(
    "columns", [40, *(pytest.param(wide, marks=IN_CAMPAIGN) for wide in (60, 80, 120, 200))]
)
def test_a_terminal_shows_everything_whole(columns: int) -> None:
    code, shown = Terminal(columns, "pools").finish()
    assert code == 0
    assert "…" not in shown
    words = shown.split()
    whole = {"BTCUSDT", CHINESE, "ETHUSDT_260925", LONGEST, LONG, "-1.5", "0.00000000", "[/red]"}
    assert whole <= set(words)
    assert words.count("USDT") == 2
    assert "and 22 more" in shown
    # Only a line with an asset, or a word that is wider itself, runs over the edge.
    for line in shown.splitlines():
        assert cell_len(line) <= columns or "2025-04-23" in line or line.strip() == LONGEST


@pytest.mark.parametrize(("columns", "table"), [(60, False), (80, True)])
def test_a_table_gives_way_to_blocks_where_it_does_not_fit(columns: int, table: bool) -> None:
    _, shown = Terminal(columns, "pools", "--sandbox").finish()
    lines = [line.rstrip() for line in shown.splitlines()]
    assert ("Balance" in lines[0]) is table
    if not table:
        assert lines[-2:] == [
            "ACTUSDT MUBARAKUSDT OMUSDT TSTUSDT",
            "5166686.84431694 USDT 2025-04-23 00:00:02 UTC",
        ]
    assert all(cell_len(line) <= columns for line in lines)


@pytest.mark.parametrize("command", ["pools", pytest.param("limits", marks=IN_CAMPAIGN)])
def test_a_pipe_gets_no_blanks_at_ends_and_no_empty_line_first_or_last(command: str) -> None:
    done = in_shell('"$@"', command, "--sandbox", FORCE_COLOR="1")
    lines = done.stdout.split("\n")
    assert lines.pop() == ""
    assert all(line == line.rstrip() for line in lines)
    assert lines[0]
    assert lines[-1]
    assert "\x1b" not in done.stdout


@pytest.mark.usefixtures("base_url")
def test_the_columns_of_a_pipe_are_aligned() -> None:
    lines = in_shell('"$@"', "pools").stdout.splitlines()
    rows = [row for row in (re.match(r"(.*? )(\S+ +)2025-", line) for line in lines[2:]) if row]
    assert len(rows) == 5
    assert {cell_len(row[1]) for row in rows} == {lines[0].index("Asset")}
    assert {cell_len(row[1] + row[2]) for row in rows} == {lines[0].index("Updated")}


@pytest.mark.usefixtures("base_url")
@pytest.mark.parametrize("form", ["table", "csv", "json"])
def test_what_comes_from_outside_is_text(form: str) -> None:
    result = CliRunner().invoke(app, ["pools", "-f", form])
    assert result.exit_code == 0
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", result.output)
    assert "[/red]" in result.output
    assert ":smile:" in result.output
    assert CHINESE in result.output
    if form == "json":
        assert json.loads(result.output)[1]["symbols"] == list(ODD)
    else:
        for escaped in (r"A\x1b[31mB\x07", r"C\x20D", r"E\x9b\u202eF", r"U\x1b]0;x\x07"):
            assert escaped in re.split(r"[ ,\n]", result.output)


@pytest.mark.usefixtures("base_url")
def test_a_line_of_csv_splits_at_commas_and_blanks() -> None:
    rows = list(csv.DictReader(io.StringIO(CliRunner().invoke(app, ["pools", "-f", "csv"]).output)))
    assert [row["marginBalance"] for row in rows[:2]] == [LONG, "-1.5"]
    assert [len(row["symbols"].split(" ")) for row in rows] == [4, 4, 5, 1, 30]


@pytest.mark.usefixtures("base_url")
def test_a_message_is_text_of_at_most_300_characters(exchange: Sandbox) -> None:
    exchange.inject(
        Fault.of_status(400, rb'{"code":-1,"msg":"\u001b[31m\u0007 [/red] \u9650\u901f"}'),
        Fault.of_status(400, b'{"code":-1,"msg":"%s"}' % (b"long " * 200)),
    )
    runner = CliRunner()
    line = runner.invoke(app, ["pools", "BTCUSDT"]).stderr
    assert line == "binance-insurance: BTCUSDT: HTTP 400: \\x1b[31m\\x07 [/red] 限速 (code -1)\n"
    line = runner.invoke(app, ["pools", "BTCUSDT"]).stderr
    assert line.count("\n") == 1
    assert len(line.removeprefix("binance-insurance: ").rstrip("\n")) == 300


@pytest.mark.usefixtures("base_url")
def test_a_long_wait_shows_on_a_terminal_and_nothing_in_a_pipe(exchange: Sandbox) -> None:
    exchange.latency = 1.6
    terminal = Terminal(60, "limits")
    assert in_shell('"$@"', "limits", FORCE_COLOR="1").stderr == ""
    code, shown = terminal.finish()
    assert code == 0
    assert re.search(r"waiting for the exchange, \d s", shown)
    before, _, after = shown.rpartition("\x1b[2K")
    assert "waiting" in before, "the line is cleared at the end"
    assert "waiting" not in after
    assert "\x1b[?25h" in before + after


def test_a_wait_for_weight_says_until_when(exchange: Sandbox) -> None:
    exchange.clock_offset = 10 - time.time() % 60  # so that no window ends meanwhile
    exchange.spend_elsewhere(2000)
    options = ("--base-url", exchange.url, "--timeout", "100")
    terminal = Terminal(60, "pools", *options)
    shown = terminal.read_until(r" UTC, [1-9]\d* s")
    terminal.process.send_signal(signal.SIGINT)
    assert re.search(r"waiting for weight until \d\d:\d\d:00 UTC, [1-9]\d* s", shown)
    code, shown = terminal.finish()
    assert code == INTERRUPTED
    assert "Traceback" not in shown


@pytest.mark.parametrize("command", [("pools", "--sandbox"), ("--version",), ("pools", "-h")])
@pytest.mark.parametrize(
    ("output", "why"),
    [(">&-", "is closed"), (">/dev/full", "cannot be written: No space left on device")],
)
def test_what_cannot_be_written_is_one_line(
    command: tuple[str, ...], output: str, why: str
) -> None:
    if output == ">/dev/full" and sys.platform != "linux":
        pytest.skip("there is no full disk")
    done = in_shell(f'"$@" {output}', *command)
    assert done.returncode == NO_OUTPUT
    assert done.stderr == f"binance-insurance: standard output {why}\n"


@pytest.mark.skipif(sys.platform != "linux", reason="there is no full disk")
def test_symbols_that_failed_are_named_even_if_nothing_can_be_printed() -> None:
    done = in_shell('"$@" >/dev/full', "pools", "BTCUSDT", "NOPE", "--sandbox")
    assert done.returncode == NO_OUTPUT
    assert "NOPE" in done.stderr
    assert done.stderr.count("\n") == 2
    served = in_shell('timeout 30 "$@" >/dev/full', "sandbox", "--port", "0")
    assert (served.returncode, served.stderr.count("\n")) == (NO_OUTPUT, 1)
    mute = in_shell('"$@" 2>/dev/full', "pools", "NOPE", "--sandbox")
    assert (mute.returncode, mute.stderr) == (USAGE, "")


@pytest.mark.parametrize(
    "command",
    [
        ("pools", "--sandbox", "--scenario", "market", "-f", "csv"),
        pytest.param(("pools", "-h"), marks=IN_CAMPAIGN),
        pytest.param(("--version",), marks=IN_CAMPAIGN),
    ],
)
def test_a_pipe_that_is_closed_early_is_no_error(command: tuple[str, ...]) -> None:
    for line in ('"$@" | head -1', '"$@" | true'):
        done = in_shell(line, *command)
        assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.usefixtures("base_url")
def test_what_an_encoding_lacks_is_escaped() -> None:
    env = {"PYTHONIOENCODING": "cp1252", "PYTHONUTF8": "0"}
    escaped = r"\u5e01\u5b89\u4eba\u751fUSDT"
    done = in_shell('"$@"', "pools", **env)
    assert (done.returncode, done.stderr) == (0, "")
    assert escaped in done.stdout.split()
    lines = [line for line in done.stdout.splitlines() if "  2025" in line]
    assert len({line.index("2025") for line in lines}) == 1
    for form in ("csv", "json"):
        done = in_shell('"$@"', "pools", "-f", form, **env)
        assert (done.returncode, done.stderr) == (0, "")
        assert escaped in done.stdout
    assert json.loads(done.stdout)[0]["symbols"][1] == CHINESE


@pytest.mark.usefixtures("base_url")
def test_a_command_that_is_interrupted_says_nothing(exchange: Sandbox) -> None:
    exchange.latency = 30.0
    process = subprocess.Popen(
        [*COMMAND, "limits"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
    )
    deadline = time.monotonic() + 30
    while not exchange.requests and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    output, errors = process.communicate(timeout=30)
    assert (process.returncode, output, errors) == (INTERRUPTED, b"", b"")
