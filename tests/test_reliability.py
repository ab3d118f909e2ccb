"""docs/reliability.md: its commands name what exists, and one command fills its figures."""

from __future__ import annotations

import itertools
import re
from functools import cache

import pytest

from . import ROOT
from .reliability import (
    LAST_RUN,
    PAGE,
    CommandError,
    Row,
    figure,
    fill,
    measure,
    parts,
    rows,
    sign,
)

TEXT = PAGE.read_text("utf-8")
ROWS = rows(TEXT)
# The words of an expression that are not parts of a test's name.
OPERATORS = {"and", "not", "or"}


@cache
def read(path: str) -> str:
    return (ROOT / path).read_text("utf-8")


def names(text: str) -> list[str]:
    """The functions of a file, and the texts by which pytest may name their cases."""
    return re.findall(r'\bdef (\w+)|"([\w ]+)"', text)


def chosen(words: list[str]) -> list[str]:
    """The words of the expression behind `-k`."""
    if "-k" not in words:
        return []
    found = re.findall(r"\w+", words[words.index("-k") + 1])
    return [word for word in found if word not in OPERATORS]


def missing_in_pytest(words: list[str]) -> list[str]:
    """What a command of pytest names, and no test has."""
    paths = [word for word in words if word.startswith("tests/")]
    missing = [path for path in paths if not (ROOT / path).is_file()]
    text = "\n".join(read(path) for path in paths if path not in missing)
    there = " ".join(" ".join(each) for each in names(text))
    return [*missing, *(word for word in chosen(words) if word not in there)]


def missing_in_module(words: list[str]) -> list[str]:
    """The module that a command runs, if there is none, and a benchmark's unknown rows."""
    place = ROOT / words[0].replace(".", "/")
    there = place.with_suffix(".py").is_file() or (place / "__main__.py").is_file()
    asked = [row for option, row in itertools.pairwise(words) if option == "--only"]
    unknown = [row for row in asked if f'"{row}": ' not in read("benchmarks/history.py")]
    return [*words[:1] * (not there), *unknown]


def missing_in_nox(words: list[str]) -> list[str]:
    """The session that a command runs, if there is none, and tests that it does not have."""
    session = words[words.index("-s") + 1]
    folder = sorted((ROOT / "tests" / session).glob("test_*.py"))
    there = "\n".join(path.read_text("utf-8") for path in folder)
    found = [*chosen(words)] if f"\ndef {session}(" in read("noxfile.py") else [session]
    return [word for word in found if word not in there]


def missing(command: str) -> list[str]:
    _, words = parts(command)
    if words[:2] == ["python", "-m"]:
        return missing_in_module(words[2:])
    return {"pytest": missing_in_pytest, "nox": missing_in_nox}[words[0]](words[1:])


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row.command)
def test_a_row_names_what_exists_and_has_its_figure(row: Row) -> None:
    assert missing(row.command) == []
    assert re.search(r"\d", row.figure), "fill the page: python -m tests.reliability"


@pytest.mark.parametrize(
    ("command", "what"),
    [
        ("pytest tests/test_none.py", "tests/test_none.py"),
        ("CAMPAIGN=1 pytest tests/test_fleet.py -k 'ban_of_one or no_such'", "no_such"),
        ("python -m tests.none 0-9", "tests.none"),
        ("python -m benchmarks history --only none", "none"),
        ("nox -s none", "none"),
        ("nox -s foreign -- -k no_such", "no_such"),
    ],
)
def test_what_does_not_exist_is_found(command: str, what: str) -> None:
    assert missing(command) == [what]


def test_every_line_of_a_table_is_a_row_and_all_are_of_one_run() -> None:
    lines = [line for line in TEXT.splitlines() if line.startswith("| ")]
    heads = [line for line in lines if line.startswith("| what was tried |")]
    assert len(ROWS) == len(lines) - len(heads) >= 25
    assert len({row.command for row in ROWS}) == len(ROWS)
    (run,) = LAST_RUN.findall(TEXT)
    assert re.search(r"commit `[0-9a-f]{10}`, \d{4}-\d\d-\d\d, ", run)


PRINTED = """\
==================================== PASSES ====================================
____________________________ test_a[sqlite] _____________________________
----------------------------- Captured stdout call -----------------------------
sqlite: 2400 of 2400
------------------------------ Captured log call -------------------------------
WARNING  a line of a log
____________________________ test_a[redis] _____________________________
----------------------------- Captured stdout call -----------------------------
redis: 2399 of 2400
======================= 2 passed, 8 deselected in 4.33s ========================
"""
RATIOS = """\
  bare sqlite3                       19.09     1.00  (1.00 to 1.00)
  history                            29.77     1.45  (1.39 to 1.91)    bound 2.5
  Leaves out: waiting for the disk.
"""


@pytest.mark.parametrize(
    ("command", "output", "expected"),
    [
        ("pytest -rP a.py", PRINTED, "sqlite: 2400 of 2400; redis: 2399 of 2400"),
        ("pytest a.py", "=== 70 passed, 3 deselected in 1.74s ===\n", "70 passed"),
        (
            "nox -s a",
            "= 3 passed, 1 skipped in 61.00s (0:01:01) =\nnox > ok",
            "3 passed, 1 skipped",
        ),
        ("python -m tests.worlds 1", "5 worlds in 7 s: 1 calls\n[]\n", "5 worlds in 7 s: 1 calls"),
        ("python -m benchmarks history", RATIOS, "1.45 times (1.39 to 1.91); the bound is 2.5"),
    ],
)
def test_a_figure_is_taken_out_of_what_a_command_prints(
    command: str, output: str, expected: str
) -> None:
    assert figure(command, output) == expected
    with pytest.raises(CommandError, match="no figure"):
        figure(command, "nothing\n")


def test_a_figure_above_its_bound_is_a_failure() -> None:
    with pytest.raises(CommandError, match="above the bound"):
        figure("python -m benchmarks history", RATIOS.replace("1.45", "2.51"))


def test_a_command_runs_in_the_checkout_and_fails_with_its_output() -> None:
    assert measure("python -c 'print(\"1 worlds in all\")'") == "1 worlds in all"
    setting = 'CAMPAIGN=1 python -c \'import os; print("1 worlds", os.environ["CAMPAIGN"])\''
    assert measure(setting) == "1 worlds 1"
    with pytest.raises(CommandError, match=r"(?s)exit code 1.*No module named tests\.none"):
        measure("python -m tests.none")


def test_a_page_is_filled_only_if_every_command_succeeds() -> None:
    page = "Last run: none.\n\n| a | `one` | old |\n| b | `two` | |\n| c | d | e |\n"
    filled = fill(page, lambda command: f"{command} 1")
    assert filled == page.replace("| old |", "| one 1 |").replace("| |", "| two 1 |")
    signed = sign(filled, "0123456789", 9.6)
    assert signed.startswith("Last run: commit `0123456789`, 20")
    assert "10 minutes.\n\n| a |" in signed
    done: list[str] = []

    def fail(command: str) -> str:
        done.append(command)
        raise CommandError("exit code 1")

    with pytest.raises(CommandError, match="one\ntwo"):
        fill(page, fail)
    assert done == ["one", "two"], "the others run too"
