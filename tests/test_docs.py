"""Every code block and command in README and docs runs and prints the output that is shown."""

from __future__ import annotations

import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
from contextlib import closing, suppress
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest
from typer.testing import CliRunner

from binance_insurance.cli._app import app

from . import ROOT
from .picture import PICTURE, draw, example, printed
from .users import run_pytest

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
TABLE = re.compile(r"^ *\|?(?: *:?-+:? *\|)+(?: *:?-+:? *)?$", re.MULTILINE)
# Those that the suite tries.
FIRST_PAGES = "README.md", "getting-started.md", "history.md", "index.md"
# The first line of a block that is a file of tests.
FILE = re.compile(r"# (conftest\.py|test_\w+\.py)\b")
ENDLESS = "binance-insurance exporter", "binance-insurance sandbox"
FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.DOTALL | re.MULTILINE)


def blocks(language: str) -> dict[str, str]:
    """All blocks of a language, by page and number."""
    return {
        f"{page.name}-{number}": block[2]
        for page in PAGES
        for number, block in enumerate(FENCE.finditer(page.read_text("utf-8")))
        if block[1] == language
    }


def commands() -> dict[str, list[str]]:
    """The `binance-insurance` commands of each block that has some, but those that serve."""
    found = {
        name: [
            line
            for line in block.splitlines()
            if line.startswith("binance-insurance ") and not line.startswith(ENDLESS)
        ]
        for name, block in blocks("console").items()
    }
    return {name: lines for name, lines in found.items() if lines}


COMMANDS = commands()


PYTHON = blocks("python")
SCRIPTS = {name: code for name, code in PYTHON.items() if not FILE.match(code)}


def tried(blocks: dict[str, str]) -> list[Any]:
    """Blocks of code; those of most pages are tried with the examples only."""
    return [
        pytest.param(
            code, id=name, marks=[] if name.startswith(FIRST_PAGES) else [pytest.mark.example]
        )
        for name, code in blocks.items()
    ]


@pytest.mark.parametrize("code", tried(SCRIPTS))
def test_a_python_block_runs(code: str, tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout or "FastAPI(" in code  # a service, which other tests ask


def test_the_files_of_tests_on_a_page_pass(tmp_path: Path) -> None:
    files = {file[1]: code for code in PYTHON.values() if (file := FILE.match(code))}
    output = run_pytest(tmp_path, files)
    tests = sum(code.count("def test_") for code in files.values())
    assert tests >= 5
    assert f"= {tests} passed in " in output, output


def end_when_it_has_recorded(path: Path, ended: threading.Event) -> None:
    """Send this process a SIGTERM when a history has an observation, unless `record` has ended."""
    reading = f"{path.as_uri()}?mode=ro"
    while not ended.wait(0.02):
        with suppress(sqlite3.Error), closing(sqlite3.connect(reading, uri=True)) as history:
            if history.execute("SELECT count(*) FROM observation").fetchone()[0]:
                os.kill(os.getpid(), signal.SIGTERM)
                return


@pytest.mark.parametrize("lines", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_commands_of_a_block_run(
    lines: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for line in lines:
        arguments = shlex.split(line, comments=True)[1:]
        ended = threading.Event()
        if arguments[0] == "record":
            path = tmp_path / arguments[1].removeprefix("sqlite:///")
            threading.Thread(target=end_when_it_has_recorded, args=(path, ended)).start()
        result = CliRunner().invoke(app, arguments)
        ended.set()
        assert result.exit_code == 0, line
        assert result.output, line


@pytest.mark.parametrize("name", ["README.md", "docs/weight.md"])
def test_a_page_shows_the_output_of_its_example(name: str) -> None:
    page = (ROOT / name).read_text("utf-8")
    code, shown = (
        next(block[2] for block in FENCE.finditer(page) if block[1] == language)
        for language in ("python", "")
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == shown


def test_the_pages_link_to_files_that_exist() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text("utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_the_first_page_of_the_project_names_every_other() -> None:
    text = (ROOT / "README.md").read_text("utf-8")
    pages = {f"docs/{page.name}" for page in PAGES} - {"docs/README.md"}
    pages -= {"docs/index.md", "docs/changelog.md"}  # the same again
    assert {
        page for page in pages if f"]({page})" not in text.partition("## Documentation")[2]
    } == set()


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CHANGELOG.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.name
)
def test_a_table_fits_a_phone(page: Path) -> None:
    for rule in TABLE.findall(page.read_text("utf-8")):
        assert len(re.findall("-+", rule)) <= 3, "more than three columns"


def test_the_first_page_shows_ten_lines_that_fit() -> None:
    lines = [line for line in example().splitlines() if line]
    assert len(lines) == 10
    assert max(map(len, lines)) <= 88  # a wider block is cut off at its right edge


def drawn(picture: str) -> str:
    """The text in a picture of a terminal, from the top down."""
    root = ET.fromstring(picture)  # noqa: S314 - our own file
    rows: dict[float, dict[float, str]] = {}
    for each in root.iterfind(".//{*}g[@class='first-page-matrix']/{*}text"):
        rows.setdefault(float(each.attrib["y"]), {})[float(each.attrib["x"])] = each.text or ""
    lines = ["".join(text for _, text in sorted(row.items())) for _, row in sorted(rows.items())]
    return "\n".join(line.rstrip() for line in lines).replace("\N{NO-BREAK SPACE}", " ").rstrip()


def test_the_picture_on_the_first_page_shows_what_its_lines_print() -> None:
    output = printed(example())
    assert output.count("\n") > 1
    for picture in (PICTURE.read_text("utf-8"), draw(output)):
        assert drawn(picture) == output.rstrip(), "draw it again: python -m tests.picture"


def test_the_picture_on_the_first_page_takes_nothing_from_the_network() -> None:
    for picture in (PICTURE.read_text("utf-8"), draw("text\n")):
        assert re.findall(r"url\((?!#)|@import|@font-face|href", picture) == []
