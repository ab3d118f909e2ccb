"""The commands that record and ask a history: answers, widths, faults and exit codes."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import os
import re
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Coroutine, Generator
from contextlib import closing, contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import msgspec
import pytest
from rich.cells import cell_len
from typer.testing import CliRunner, Result

from binance_insurance import AssetBalance, InsurancePool, InsuranceSnapshot
from binance_insurance.changes import Change, diff
from binance_insurance.cli import _recording
from binance_insurance.cli._app import app
from binance_insurance.history import (
    Drawdown,
    History,
    HistoryInfo,
    Series,
    open_history,
    recorder,
    sqlite_file,
)
from binance_insurance.sandbox import Fault
from binance_insurance.sandbox._scenarios import Regrouping

from .conftest import IN_CAMPAIGN
from .exchange import exchange_in_a_thread

if sys.platform == "win32":
    pytest.skip("there are no such signals and terminals", allow_module_level=True)

from .terminal import Terminal

USAGE, NO_STORE, NO_OUTPUT, INTERRUPTED = 2, 6, 7, 130
DAY = 1.2  # seconds of a day of the exchange
START = datetime(2026, 9, 24, 9, 14, tzinfo=UTC)
LONG = "123456789012345678901234567890.123456789012345678"
CHINESE = "币安人生USDT"


def run(*arguments: str) -> Result:
    """Run a command in this process."""
    result = CliRunner().invoke(app, arguments, env={"BINANCE_INSURANCE_BUDGET": "memory://"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def run_until(done: Callable[[], bool], *arguments: str) -> Result:
    """Run a command in this process, and send it a SIGTERM as soon as something is done."""
    ended = threading.Event()

    def watch() -> None:
        while not ended.wait(0.01):
            if done():
                os.kill(os.getpid(), signal.SIGTERM)
                return

    watching = threading.Thread(target=watch, daemon=True)
    watching.start()
    try:
        return run(*arguments)
    finally:
        ended.set()
        watching.join()


def printed(*arguments: str) -> str:
    result = run(*arguments)
    assert (result.exit_code, result.stderr) == (0, "")
    return result.stdout


def use(url: str, work: Callable[[History], Coroutine[Any, Any, Any]]) -> Any:
    async def ask() -> Any:
        async with open_history(url) as history:
            return await work(history)

    return asyncio.run(ask())


def pool(names: str, balance: str, seconds: int = 0, asset: str = "USDT") -> InsurancePool:
    time = int((START + timedelta(seconds=seconds)).timestamp() * 1000)
    return InsurancePool(tuple(names.split()), (AssetBalance(asset, Decimal(balance), time),))


def make(url: str, *steps: tuple[int, list[InsurancePool]]) -> None:
    """Make a history of pools, observed at some seconds; a gap lies in each longer minute."""

    async def work(history: History) -> None:
        last: datetime | None = None
        for seconds, pools in steps:
            at = START + timedelta(seconds=seconds)
            near = last is not None and at - last < timedelta(minutes=1)
            await history.append(InsuranceSnapshot(tuple(pools), at), since=last if near else None)
            last = at

    use(url, work)


@pytest.fixture(scope="module")
def days(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, Result]:
    """A history of an exchange on which pools are regrouped, and how `record` ended."""
    url = f"sqlite:///{tmp_path_factory.mktemp('days') / 'h.db'}"
    with exchange_in_a_thread(Regrouping(day=DAY)) as exchange:
        # Days begin at multiples of a day: it begins one, before the outage.
        exchange.clock_offset += (0.05 - exchange.now) % DAY
        options = ("--every", "0.02", "--base-url", exchange.url)
        evening = exchange.now + DAY * 0.95
        return url, run_until(
            lambda: exchange.now > evening and len(exchange.requests) > 40, "record", url, *options
        )


@pytest.fixture
def url(tmp_path: Path) -> str:
    """A small history with all that can happen."""
    url = f"sqlite:///{tmp_path / 'h.db'}"
    make(
        url,
        (0, [pool("A B", "100"), pool("C", "10.5"), pool("X", "5"), pool(CHINESE, LONG)]),
        (30, [pool("A B", "90", 30), pool("C", "10.5"), pool("X", "5"), pool(CHINESE, LONG)]),
        (59, [pool("A", "60", 59), pool("C B", "40.5", 59), pool("X", "7", 59), pool("N", "1")]),
        (300, [pool("A", "62", 299), pool("C B", "40.5", 59), pool("X", "1", 299), pool("N", "1")]),
    )
    return url


def test_record_ends_with_a_signal_and_says_what_stops_and_goes_on(
    days: tuple[str, Result],
) -> None:
    url, result = days
    assert (result.exit_code, result.stdout) == (0, "")
    lines = result.stderr.splitlines()
    path = url.removeprefix("sqlite:///")
    assert lines[0] == f"binance-insurance: recording into {path}, every 0.02 s; Ctrl-C ends it"
    # The command looks every half second: an outage may lie between two looks, or last to the end.
    assert set(lines[1::2]) <= {
        "binance-insurance: observations have stopped: HTTP 503: Service Unavailable."
    }
    assert set(lines[2::2]) <= {"binance-insurance: observations go on"}


def test_what_was_recorded_is_what_the_library_says(days: tuple[str, Result]) -> None:
    url, _ = days

    async def ask(history: History) -> Any:
        info = await history.info()
        first, last = await history.latest(at=info.first), await history.latest()
        assert first is not None
        assert last is not None
        falls = await history.drawdowns("BTCUSDT", "USDT", window=1, limit=None)
        return await history.series("BTCUSDT", "USDT"), falls, info, diff(first, last)

    series, falls, info, between = use(url, ask)
    assert info.values > 10
    shown = json.loads(run("history", "series", url, "btcusdt", "usdt", "-f", "json").stdout)
    assert msgspec.convert(shown, Series) == series
    options = ("--window", "1s", "--limit", "all", "-f", "json")
    shown = json.loads(run("history", "drawdowns", url, "BTCUSDT", "USDT", *options).stdout)
    assert msgspec.convert(shown, list[Drawdown]) == list(falls)
    shown = json.loads(printed("history", "info", url, "-f", "json"))
    found = msgspec.convert(shown, HistoryInfo)
    assert (found.first, found.last, found.gaps) == (info.first, info.last, info.gaps)
    shown = json.loads(printed("history", "changes", url, "-f", "json"))
    assert sorted(map(repr, msgspec.convert(shown, list[Change]))) == sorted(map(repr, between))


def test_a_series_has_its_points_gaps_and_regroupings(url: str) -> None:
    assert printed("history", "series", url, "b", "usdt").splitlines() == [
        "Updated (UTC)        Balance  First reported       Pool",
        "───────────────────  ───────  ───────────────────  ────────────",
        "2026-09-24 09:14:00    100    2026-09-24 09:14:00  A and 1 more",
        "2026-09-24 09:14:30     90    2026-09-24 09:14:30  A and 1 more",
        "2026-09-24 09:14:59     40.5  2026-09-24 09:14:59  B and 1 more",
        "",
        "Gap from (UTC)       Until",
        "───────────────────  ───────────────────",
        "2026-09-24 09:14:59  2026-09-24 09:19:00",
        "",
        "Regrouped after      Seen (UTC)           From  To",
        "───────────────────  ───────────────────  ────  ───",
        "2026-09-24 09:14:30  2026-09-24 09:14:59  A B   B C",
    ]
    rows = list(
        csv.DictReader(io.StringIO(printed("history", "series", url, "B", "USDT", "-f", "csv")))
    )
    assert [(row["balance"], row["symbols"]) for row in rows] == [
        ("100", "A B"),
        ("90", "A B"),
        ("40.5", "B C"),
    ]
    between = ("--start", "2026-09-24T09:14:30Z", "--end", "2026-09-24T11:14:59+02:00")
    rows = list(
        csv.DictReader(
            io.StringIO(printed("history", "series", url, "B", "USDT", "-f", "csv", *between))
        )
    )
    assert [row["balance"] for row in rows] == ["90"]
    fund = json.loads(printed("history", "series", url, "-", "USDT", "-f", "json"))
    assert [each["balance"] for each in fund["points"]][-2:] == ["108.5", "104.5"]


def test_a_fall_is_no_move_of_symbols(url: str) -> None:
    falls = json.loads(printed("history", "drawdowns", url, "A", "USDT", "-f", "json"))
    assert [(fall["depth"], fall["recovered_time"]) for fall in falls] == [("10", None)]
    table = printed("history", "drawdowns", url, "X", "USDT")
    assert re.search(r"^ +6 +85\.71 +7 .* 1 .* not yet$", table, re.MULTILINE)
    rows = printed("history", "drawdowns", url, "A", "USDT", "-f", "csv").splitlines()
    assert rows[0] == "peak,trough,depth,fraction,peak_time,trough_time,recovered_time"
    assert rows[1].startswith("100,90,10,0.1,")
    none = run("history", "drawdowns", url, CHINESE, "USDT", "-f", "json")
    assert (none.exit_code, json.loads(none.stdout), none.stderr.count("\n")) == (0, [], 1)


def test_changes_are_sorted_and_say_from_when_to_when(url: str) -> None:
    lines = printed("history", "changes", url, "--since", "24h").splitlines()
    assert lines[0] == "From 2026-09-24 09:14:00 to 2026-09-24 09:19:00 UTC", "the first"
    assert [line.split() for line in lines[3:6]] == [
        ["USDT", "-38", "regrouped", "100", "62", "A"],
        ["USDT", "+30.0", "regrouped", "10.5", "40.5", "C", "and", "1", "more"],
        ["USDT", "-4", "fell", "5", "1", "X"],
    ]
    assert lines[7:] == [
        "B moved from A and 1 more to C and 1 more",
        "N listed in N",
        f"{CHINESE} delisted from {CHINESE}",
        "N appeared",
        f"{CHINESE} vanished",
    ]
    rows = list(
        csv.DictReader(
            io.StringIO(printed("history", "changes", url, "--since", "4.5m", "-f", "csv"))
        )
    )
    kinds = ["BalanceChanged"] * 3 + ["SymbolMoved", "SymbolListed", "SymbolDelisted"]
    assert [row["change"] for row in rows][:6] == kinds, "since 09:14:30"
    assert (rows[0]["delta"], rows[0]["regrouped"]) == ("30.0", "true")
    assert (rows[3]["symbol"], rows[3]["origin"], rows[3]["symbols"]) == ("B", "A B", "C B")
    make(quiet := f"{url}.quiet", (0, [pool("A", "1")]), (30, [pool("A", "1")]))
    shown = printed("history", "changes", quiet, "--since", "1s")
    assert shown.splitlines() == [
        "From 2026-09-24 09:14:00 to 2026-09-24 09:14:30 UTC",
        "Nothing changed",
    ]


def test_once_waits_for_an_outage_of_seconds(tmp_path: Path) -> None:
    with exchange_in_a_thread() as exchange:
        exchange.inject(*[Fault.of_status(503)] * 4)
        url = f"sqlite:///{tmp_path / 'h.db'}"
        written = printed("record", url, "--once", "--base-url", exchange.url)
    assert written.endswith("3 pools, 6 new values\n")


def test_once_is_for_cron(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h.db'}"
    with exchange_in_a_thread() as exchange:
        options = ("record", url, "--once", "--base-url", exchange.url)
        assert re.fullmatch(
            r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d UTC: 3 pools, 6 new values\n", printed(*options)
        )
        exchange.clock_offset += 50
        assert printed(*options).endswith("3 pools, 0 new values\n")
        exchange.clock_offset += 80
        assert printed(*options).endswith("0 new values; a gap lies before\n")
        exchange.clock_offset += 80
        assert printed(*options, "--every", "90").endswith("0 new values\n")
        assert printed(*options, "--every", "1e300").endswith("0 new values\n")
        assert run(*options, "--every", "0").exit_code == USAGE
    assert len(json.loads(printed("history", "info", url, "-f", "json"))["gaps"]) == 1


def test_info_says_how_much_and_how_late(url: str) -> None:
    shown = dict(re.split(r"  +", line) for line in printed("history", "info", url).splitlines())
    assert (shown["Schema"], shown["Values"]) == ("1", "11")
    assert shown["First"] == "2026-09-24 09:14:00 UTC"
    assert shown["Last"] == "2026-09-24 09:19:00 UTC"
    assert shown["Gaps"] == "1, together 0:04:01"
    assert shown["Longest gap"] == "0:04:01 from 2026-09-24 09:14:59 UTC"
    assert shown["Reported"] == "1 s to 1 s after the update, median 1 s"
    (row,) = csv.DictReader(io.StringIO(printed("history", "info", url, "-f", "csv")))
    assert (row["values"], row["gaps"], row["gap_seconds"]) == ("11", "1", "241.0")
    make(empty := f"{url}.empty")
    assert "no observation yet" in printed("history", "info", empty)
    for command in (["changes"], ["series", "A", "USDT"], ["drawdowns", "A", "USDT"]):
        result = run("history", command[0], empty, *command[1:])
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (0, "", 1)


def test_info_adds_up_gaps_and_delays(tmp_path: Path) -> None:
    late = {"A": 10, "B": 12, "C": 30}
    make(
        url := f"sqlite:///{tmp_path / 'h.db'}",
        (0, [pool(name, "1") for name in late]),
        (30, [pool(name, "1") for name in late]),
        (200, [pool(name, "1") for name in late]),
        (400, [pool(name, "2", 400 - seconds) for name, seconds in late.items()]),
    )
    shown = dict(re.split(r"  +", line) for line in printed("history", "info", url).splitlines())
    assert shown["Gaps"] == "2, together 0:06:10"
    assert shown["Longest gap"] == "0:03:20 from 2026-09-24 09:17:20 UTC"
    assert shown["Reported"] == "10 s to 30 s after the update, median 12 s"
    (row,) = csv.DictReader(io.StringIO(printed("history", "info", url, "-f", "csv")))
    size = int(row.pop("size"))
    assert f"{size:,} bytes" == shown["Size"]
    assert row == {
        "schema": "1",
        "values": "6",
        "first": "2026-09-24T09:14:00Z",
        "last": "2026-09-24T09:20:40Z",
        "gaps": "2",
        "gap_seconds": "370.0",
        "least_delay": "10.0",
        "median_delay": "12.0",
        "greatest_delay": "30.0",
    }


def test_changes_say_what_rose_and_what_is_held_anew(tmp_path: Path) -> None:
    def held(symbol: str, **balances: str) -> InsurancePool:
        assets = (AssetBalance(asset, Decimal(each), 0) for asset, each in balances.items())
        return InsurancePool((symbol,), tuple(assets))

    make(
        url := f"sqlite:///{tmp_path / 'h.db'}",
        (0, [held("A", USDT="1", ETH="-3"), held("B", USDT="1", ETH="4")]),
        (9, [held("A", USDT="3", BTC="-5"), held("B", USDT="1", BTC="2")]),
    )
    lines = printed("history", "changes", url, "--since", "999999d").splitlines()
    assert lines[0] == "From 2026-09-24 09:14:00 to 2026-09-24 09:14:09 UTC"
    assert [" ".join(line.split()) for line in lines[3:]] == [
        "BTC not held before -5 A",
        "BTC not held before 2 B",
        "ETH not held now 4 B",
        "ETH not held now -3 A",
        "USDT +2 rose 1 3 A",
    ]


def test_falls_are_those_that_were_asked_for(tmp_path: Path) -> None:
    balances = (9, 5, 9, 3, 9, 7, 8)
    make(
        url := f"sqlite:///{tmp_path / 'h.db'}",
        *((n, [pool("A", str(each), n), pool("B", "0")]) for n, each in enumerate(balances)),
        (8, [pool("A", "8", 8), pool("B", "-1", 8)]),
    )

    def troughs(*options: str) -> list[str]:
        found = json.loads(
            printed("history", "drawdowns", url, "A", "USDT", "-f", "json", *options)
        )
        return [fall["trough"] for fall in found]

    second = "2026-09-24T09:14:0{}Z".format
    assert troughs() == ["3", "5", "7"]
    assert troughs("--limit", "1") == ["3"]
    assert troughs("--start", second(2)) == ["3", "7"]
    assert troughs("--end", second(3)) == ["5"]
    assert (
        json.loads(
            printed("history", "drawdowns", url, "A", "USDT", "-f", "json", "--window", "1s")
        )[2]["trough_time"]
        == int(START.timestamp() + 5) * 1000
    )
    table = printed("history", "drawdowns", url, "A", "USDT", "--limit", "1").split()
    assert table[-2:] == ["2026-09-24", "09:14:04"], "recovered"
    below = printed("history", "drawdowns", url, "B", "USDT").splitlines()[-1].split()
    assert below[:2] == ["1", "0"], "there is no percentage of nothing"
    for asked in ("series", "drawdowns"):
        missing = run("history", asked, url, "-", "BTC")
        assert " BTC of the whole fund" in missing.stderr


def test_the_fund_has_no_pool_and_many_symbols_and_any_time_are_shown(tmp_path: Path) -> None:
    names = [f"S{number:02}" for number in range(13)]
    far = 10**15  # the exchange can report any number
    late = InsurancePool(("S00", "Z"), (AssetBalance("USDT", Decimal(2), far),))
    make(
        url := f"sqlite:///{tmp_path / 'h.db'}",
        (0, [pool(" ".join(names), "3"), pool("Z", "1")]),
        (9, [pool(" ".join(names[1:]), "2", 9), late]),
    )
    fund = printed("history", "series", url, "-", "USDT").splitlines()
    assert fund[0].split("  ")[-1] == "First reported"
    assert len(fund) == 3
    *_, moved = printed("history", "series", url, "S01", "USDT").splitlines()
    assert moved.endswith(f"  {' '.join(names[:8])} and 5 more  {' '.join(names[1:])}")
    assert f"\n{far} " in printed("history", "series", url, "Z", "USDT")


def test_export_and_merge(url: str, tmp_path: Path) -> None:
    for ending in ("csv", "jsonl"):
        file = tmp_path / f"values.{ending}"
        assert printed("history", "export", url, str(file)) == f"11 values written to {file}\n"
        assert LONG in file.read_text()

    copy, other = f"{url}.copy", f"{url}.other"
    make(other, (0, [pool("A B", "100"), pool("Z", "1")]))
    path = url.removeprefix("sqlite:///")
    assert printed("history", "merge", url, other, "--into", copy).splitlines() == [
        f"11 new values from {path}",
        f"1 new values from {path}.other",
    ]
    assert printed("history", "merge", url, "--into", copy) == f"0 new values from {path}\n"


def test_the_commands_work_with_postgresql(url: str, postgres_url: str, tmp_path: Path) -> None:
    path = url.removeprefix("sqlite:///")
    merge = ("history", "merge", url, "--into", postgres_url)
    assert printed(*merge) == f"11 new values from {path}\n"
    assert re.search("^Values +11$", printed("history", "info", postgres_url), re.MULTILINE)
    for command in (["series", "B", "USDT"], ["drawdowns", "X", "USDT"], ["changes"]):
        name, *rest = command
        ours, theirs = (printed("history", name, each, *rest) for each in (postgres_url, url))
        assert ours == theirs
    for number, each in enumerate((postgres_url, url)):
        printed("history", "export", each, str(tmp_path / f"{number}.csv"))
    assert (tmp_path / "0.csv").read_bytes() == (tmp_path / "1.csv").read_bytes()
    once = ("record", postgres_url, "--once", "--sandbox", "--scenario", "documented")
    assert printed(*once).endswith("6 new values; a gap lies before\n")
    nobody = "postgresql://nobody:hunter2@127.0.0.1:9/name"
    for arguments in (("history", "info", nobody), ("record", nobody, "--once", "--sandbox")):
        result = run(*arguments)
        assert (result.exit_code, result.stderr.count("\n")) == (NO_STORE, 1)
        assert "hunter2" not in result.stderr


@pytest.mark.parametrize(
    "columns", [40, *(pytest.param(wide, marks=IN_CAMPAIGN) for wide in (60, 80, 120, 200))]
)
@pytest.mark.parametrize(
    "command",
    [
        f"series {{}} {CHINESE} USDT",
        *(
            pytest.param(command, marks=IN_CAMPAIGN)
            for command in ("changes {}", "info {}", "drawdowns {} A USDT")
        ),
    ],
)
def test_a_terminal_shows_everything_whole(url: str, columns: int, command: str) -> None:
    code, shown = Terminal(columns, "history", *command.format(url).split()).finish()
    assert code == 0
    assert "…" not in shown
    if "series" in command:
        assert LONG in shown
    for line in shown.splitlines():
        assert cell_len(line) <= columns or LONG in line


@contextmanager
def locked(path: Path) -> Generator[sqlite3.Connection]:
    """Have a file locked so that nobody can read it either, as a program that copies it may."""
    with closing(sqlite3.connect(path, isolation_level=None, check_same_thread=False)) as other:
        other.execute("PRAGMA locking_mode = EXCLUSIVE")
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("BEGIN EXCLUSIVE")
        yield other


def make_missing(path: Path) -> None:
    path.unlink()


def make_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def make_text(path: Path) -> None:
    path.write_text("not a database, but long enough to have the header of one\n" * 100)


def make_foreign(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE theirs (n)")
        other.commit()


def make_newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA journal_mode = DELETE")
        other.execute("PRAGMA user_version = 99")


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (make_missing, "there is no such file"),
        (make_directory, "it is no file"),
        (make_text, "file is not a database"),
        (make_foreign, "it is a database of another program"),
        (make_newer, "upgrade binance-insurance"),
    ],
)
def test_what_is_no_history_is_one_line_and_left_as_it_is(
    url: str, tmp_path: Path, spoil: Callable[[Path], None], words: str
) -> None:
    path = tmp_path / "h.db"
    spoil(path)
    before = path.read_bytes() if path.is_file() else None
    commands = [("info", url), ("changes", url), ("merge", url, "--into", f"{url}.new")]
    results = [run("history", *command) for command in commands]
    with exchange_in_a_thread() as exchange:
        if spoil is not make_missing:  # which `record` makes
            for once in ((), ("--once",)):
                options = ("--base-url", exchange.url)
                results.append(run("record", url, *once, *options))
        assert not exchange.requests, "nothing is asked that cannot be kept"
    for result in results:
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (NO_STORE, "", 1)
        assert result.stderr.startswith(f"binance-insurance: the history {path} cannot be used: ")
        assert words in result.stderr
    assert not Path(f"{path}.new").exists()
    assert (path.read_bytes() if path.is_file() else None) == before


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Wait for a lock for a moment only."""
    monkeypatch.setattr(sqlite_file, "BUSY", 0.05)
    monkeypatch.setattr(recorder, "_AGAIN", 0.05)


@pytest.mark.usefixtures("impatient")
def test_a_lock_that_stays_and_a_place_to_read_only_are_one_line(url: str, tmp_path: Path) -> None:
    with locked(tmp_path / "h.db"):
        results = [
            run("history", "info", url),
            run("history", "merge", f"{url}.none", "--into", url),
            run("record", url, "--once", "--sandbox"),
        ]
    results += [
        run("record", "sqlite:////sys/h.db", *once, "--sandbox") for once in ((), ("--once",))
    ]
    results.append(run("history", "merge", url, "--into", "sqlite:////sys/h.db"))
    for result in results:
        assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (NO_STORE, "", 1)
    for result, word in zip(results, ["locked", "no such file", "locked", *[""] * 3], strict=True):
        assert word in result.stderr
    full = run("history", "export", url, "/sys/values.csv")
    assert (full.exit_code, full.stderr.count("\n")) == (NO_OUTPUT, 1)
    assert full.stderr.startswith("binance-insurance: /sys/values.csv cannot be written: ")


@pytest.mark.usefixtures("impatient")
def test_a_store_that_is_away_at_first_loses_nothing(tmp_path: Path) -> None:
    url, path = f"sqlite:///{tmp_path / 'h.db'}", tmp_path / "h.db"
    make(url)
    with exchange_in_a_thread() as exchange:
        options = ("--every", "0.02", "--base-url", exchange.url)
        begun = exchange.clock_offset
        with locked(path) as other:

            def recorded() -> bool:
                looks = len(exchange.requests)
                if looks > 10 and exchange.clock_offset == begun:
                    exchange.clock_offset += 40  # what is observed from now on is much later
                    other.close()
                return looks > 20

            result = run_until(recorded, "record", url, *options)
    assert result.exit_code == 0
    recording, away, back = result.stderr.splitlines()
    assert "recording into" in recording
    assert "locked" in away
    assert "updates wait, and more will" in away
    assert back == f"binance-insurance: the history {path} can be used again"
    info = msgspec.convert(json.loads(printed("history", "info", url, "-f", "json")), HistoryInfo)
    assert info.values == 6
    assert info.first is not None
    assert info.first.timestamp() - exchange.requests[0].at < 30


@pytest.mark.usefixtures("impatient")
def test_what_is_lost_at_the_end_is_an_error(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h.db'}"
    make(url)
    with exchange_in_a_thread() as exchange, locked(tmp_path / "h.db"):
        options = ("--every", "0.02", "--base-url", exchange.url)
        result = run_until(lambda: len(exchange.requests) > 5, "record", url, *options)
    assert result.exit_code == NO_STORE
    assert "locked" in result.stderr.splitlines()[-1]


def test_record_says_that_observations_stop_and_go_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_recording, "_LOOK", 0.01)
    with exchange_in_a_thread() as exchange:
        exchange.inject(Fault.of_status(403, b"<html>"))
        result = run_until(
            lambda: len(exchange.requests) > 3,
            *("record", f"sqlite:///{tmp_path / 'h.db'}"),
            *("--every", "0.3", "--base-url", exchange.url),
        )
    _, stopped, goes_on = result.stderr.splitlines()
    assert stopped.startswith("binance-insurance: observations have stopped: the exchange's fire")
    assert goes_on == "binance-insurance: observations go on"


def test_record_looks_each_minute_unless_told_otherwise(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h.db'}"
    with exchange_in_a_thread() as exchange:
        options = ("record", url, "--base-url", exchange.url)
        result = run_until(lambda: len(exchange.requests) > 0, *options)
    assert result.exit_code == 0
    assert ", every 60 s; Ctrl-C ends it" in result.stderr


def test_once_that_is_interrupted_is_no_success(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'h.db'}"
    with exchange_in_a_thread() as exchange:

        def interrupt() -> float:
            os.kill(os.getpid(), signal.SIGINT)
            return 5.0

        exchange.latency = interrupt
        result = run("record", url, "--once", "--base-url", exchange.url)
    assert (result.exit_code, result.stdout) == (INTERRUPTED, "")


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["series", "URL", "A", "USDT", "--start", "2026-01-01T00:00"], "no offset from UTC"),
        (["series", "URL", "A", "USDT", "--end", "soon"], "not a time in ISO 8601"),
        (["series", "URL", "A B", "USDT"], "whitespace"),
        (
            ["series", "URL", "-", "USDT", "--start", "2026-01-02T00Z", "--end", "2026-01-01T00Z"],
            "is after end",
        ),
        (["drawdowns", "URL", "A", "USDT", "--window", "24"], "number and s, m, h or d"),
        (["drawdowns", "URL", "A", "USDT", "--window", "0h"], "too short"),
        (["drawdowns", "URL", "A", "USDT", "--limit", "0"], "nor all"),
        (["changes", "URL", "--since", "9999999999d"], "too long"),
        (["changes", "URL", "--since", "-1h"], "number and s, m, h or d"),
        (["export", "URL", "values.txt"], ".csv, .jsonl, .parquet"),
        (["info", "ftp://nowhere"], "sqlite:///path or postgresql://host/database"),
        (["info", "sqlite:///missing/h.db"], "there is no directory"),
        (["merge", "--into", "URL"], "Missing argument"),
        (["nope"], "No such command"),
    ],
)
def test_wrong_usage_is_one_line(url: str, arguments: list[str], words: str) -> None:
    result = run("history", *(url if each == "URL" else each for each in arguments))
    assert (result.exit_code, result.stdout, result.stderr.count("\n")) == (USAGE, "", 1)
    assert result.stderr.startswith("binance-insurance: ")
    assert words in result.stderr


@pytest.mark.parametrize(
    ("library", "arguments", "extra"),
    [
        ("asyncpg", ["info", "postgresql://user:hunter2@host/name"], "postgres"),
        ("pyarrow", ["export", "URL", "values.parquet"], "parquet"),
    ],
)
def test_a_missing_extra_is_named(
    url: str, library: str, arguments: list[str], extra: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in list(sys.modules):
        if name.startswith((library, "binance_insurance.history.p")):
            monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, library, None)
    result = run("history", *(url if each == "URL" else each for each in arguments))
    assert (result.exit_code, result.stderr.count("\n")) == (USAGE, 1)
    assert f"pip install 'binance-insurance[{extra}]'" in result.stderr
    assert "hunter2" not in result.stderr
