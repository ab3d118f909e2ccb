"""What the page on the recorder shows for systemd, Docker Compose and cron."""

from __future__ import annotations

import configparser
import re
import shlex
import shutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from binance_insurance.cli._app import app

from . import ROOT

PAGE = (ROOT / "docs" / "recorder.md").read_text("utf-8")


def block(language: str) -> str:
    found = re.search(rf"^```{language}\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    assert found
    return found[1]


def unit() -> configparser.ConfigParser:
    parser = configparser.ConfigParser(interpolation=None)
    parser.optionxform = str  # type: ignore[assignment,method-assign]
    parser.read_string(block("ini"))
    return parser


def compose() -> dict[str, Any]:
    yaml: Any = import_module("yaml")
    found: dict[str, Any] = yaml.safe_load(block("yaml"))
    return found


COMMANDS = {
    "systemd": unit()["Service"]["ExecStart"],
    "compose": compose()["services"]["recorder"]["command"],
    "cron": block("text").split(maxsplit=5)[5],
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS.keys())
def test_the_commands_are_understood(command: str) -> None:
    program, *arguments = shlex.split(command)
    assert Path(program).name == "binance-insurance"
    assert arguments[:1] == ["record"]
    assert arguments[1].startswith("sqlite:////")
    # Everything is parsed before the URL of an exchange that is none is refused.
    result = CliRunner().invoke(app, [*arguments, "--base-url", "nowhere", "--budget", "memory://"])
    assert result.exit_code == 2
    assert result.stderr.startswith("binance-insurance: base_url must be")


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="there is no systemd here")
def test_systemd_understands_the_unit(tmp_path: Path) -> None:
    path = tmp_path / "binance-insurance.service"
    text = block("ini").replace("/opt/binance-insurance/bin/binance-insurance", sys.executable)
    path.write_text(text)
    done = subprocess.run(
        ["systemd-analyze", "verify", str(path)],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
    )
    assert [line for line in done.stderr.splitlines() if path.name in line] == []


def test_the_container_keeps_its_data_in_a_volume() -> None:
    recorder = compose()["services"]["recorder"]
    assert recorder["volumes"] == ["history:/data"]
    assert list(compose()["volumes"]) == ["history"]
    assert "sqlite:////data/" in recorder["command"]
