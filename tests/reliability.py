"""Fills docs/reliability.md: what was tried, and the figure of the last run.

`python -m tests.reliability` runs the command of each row, one after the other, from the checkout
and in the environment that it runs in. When all have succeeded, it writes their figures into the
page, with the commit and the date. `nice` in front of it disturbs what else runs on the machine
less.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

import binance_insurance

from . import ROOT

PAGE = ROOT / "docs" / "reliability.md"
ROW = re.compile(
    r"^\| (?P<tried>[^|\n]+) \| `(?P<command>[^`|\n]+)` \|(?P<figure>[^|\n]*)\|$", re.MULTILINE
)
LAST_RUN = re.compile(r"^Last run: .*$", re.MULTILINE)
SETTING = re.compile(r"(?P<name>[A-Z_]+)=(?P<value>.*)")
# They would change what a command does; `tests/__init__.py` sets the last one.
NOT_PASSED_ON = "CAMPAIGN", "EXAMPLES", "WORLD", "PYTEST_ADDOPTS", "PYTHONSAFEPATH"

# What the commands print.
PRINTED = re.compile(r"^-+ Captured stdout call -+\n(.*?)^(?=[-_=]+ )", re.MULTILINE | re.DOTALL)
OUTCOMES = re.compile(r"(\d+ (?:passed|skipped|xfailed))")
ENDED = re.compile(r"^=+ (.*\d+ passed.*) in [\d.]+s.* =+$", re.MULTILINE)
WORLDS = re.compile(r"^\d+ worlds .*$", re.MULTILINE)
RATIO = re.compile(
    r"(\d+\.\d+)  \((\d+\.\d+) to (\d+\.\d+)\) +bound (\d+(?:\.\d+)?)$", re.MULTILINE
)


class CommandError(Exception):
    """A command failed, or did not print its figure."""


class Row(NamedTuple):
    """What was tried, what shows it, and what came out in the last run."""

    tried: str
    command: str
    figure: str


def rows(page: str) -> list[Row]:
    """Return the rows of the page's tables."""
    return [Row(*(each.strip() for each in row.groups())) for row in ROW.finditer(page)]


def of_pytest(output: str) -> str:
    """Return what the tests printed (`-rP`), or else how many passed."""
    printed = [line for text in PRINTED.findall(output) for line in text.splitlines() if line]
    ended = ENDED.findall(output)
    return "; ".join(printed) or ", ".join(OUTCOMES.findall(ended[-1] if ended else ""))


def of_worlds(output: str) -> str:
    """Return the summary of worlds."""
    found = WORLDS.findall(output)
    return found[-1] if found else ""


def of_benchmark(output: str) -> str:
    """Return how many times what the first side took the last one took."""
    found = RATIO.findall(output)
    if not found:
        return ""
    middle, low, high, bound = found[-1]
    if float(middle) > float(bound):
        raise CommandError(f"{middle} times is above the bound, {bound}")
    return f"{middle} times ({low} to {high}); the bound is {bound}"


def figure(command: str, output: str) -> str:
    """Take the figure of a command out of what it printed."""
    words = shlex.split(command)
    if "benchmarks" in words:
        found = of_benchmark(output)
    elif "pytest" in words or "nox" in words:
        found = of_pytest(output)
    else:
        found = of_worlds(output)
    if not found:
        raise CommandError("it printed no figure")
    return found.replace("|", "/")


def parts(command: str) -> tuple[dict[str, str], list[str]]:
    """Split a command into the settings in front of it, such as `CAMPAIGN=1`, and its words."""
    words = shlex.split(command)
    settings: dict[str, str] = {}
    while setting := SETTING.fullmatch(words[0]):
        settings[setting["name"]] = setting["value"]
        del words[0]
    return settings, words


def measure(command: str) -> str:
    """Run a command from the checkout, with this Python's programs, and return its figure."""
    settings, words = parts(command)
    kept = {name: value for name, value in os.environ.items() if name not in NOT_PASSED_ON}
    path = os.pathsep.join([str(Path(sys.executable).parent), kept.get("PATH", os.defpath)])
    done = subprocess.run(
        ["/usr/bin/env", *words],  # it looks for the program in the path that is given here
        cwd=ROOT,
        env=kept | {"PATH": path, "COLUMNS": "100"} | settings,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise CommandError(f"exit code {done.returncode}\n{done.stdout[-4000:]}")
    return figure(command, done.stdout)


def fill(page: str, measure: Callable[[str], str]) -> str:
    """Return the page with a new figure in each row; raise when all are done if one failed."""
    failed: list[str] = []

    def filled(row: re.Match[str]) -> str:
        began = time.monotonic()
        try:
            found = measure(row["command"])
        except CommandError as error:
            found = f"FAILED: {error}"
            failed.append(row["command"])
        print(f"{time.monotonic() - began:5.1f} s  {row['command']}\n         {found}", flush=True)
        return f"| {row['tried']} | `{row['command']}` | {found} |"

    new = ROW.sub(filled, page)
    if failed:
        raise CommandError("\n".join(["these commands failed:", *failed]))
    return new


def sign(page: str, commit: str, minutes: float) -> str:
    """Return the page with what its figures are of."""
    version, cores = ".".join(map(str, sys.version_info[:3])), os.cpu_count()
    line = (
        f"Last run: commit `{commit}`, {datetime.now(UTC):%Y-%m-%d}, Python {version}, "
        f"{cores} cores, {minutes:.0f} minutes."
    )
    new, runs = LAST_RUN.subn(line, page)
    if runs != 1:
        raise CommandError("the page does not have one line that begins with `Last run: `")
    return new


def git(*arguments: str) -> str:
    """Ask git about the checkout."""
    done = subprocess.run(
        ["/usr/bin/env", "git", *arguments], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout.strip()


def commit() -> str:
    """Name the commit of the checkout; nothing but the page may differ from it."""
    differ = git("status", "--porcelain", "--", ".", ":!docs/reliability.md")
    if differ:
        raise CommandError(f"commit first; these differ from the commit:\n{differ}")
    installed, package = Path(binance_insurance.__file__).parent, ROOT / "binance_insurance"
    for path in package.rglob("*.py"):
        there = installed / path.relative_to(package)
        if not there.exists() or there.read_bytes() != path.read_bytes():
            raise CommandError(f"install this checkout first; {there} differs from it")
    return git("rev-parse", "--short=10", "HEAD")


def main() -> int:
    """Fill the page; 1 when something failed, and then the page stays as it is."""
    began = time.monotonic()
    try:
        run = commit()
        page = fill(PAGE.read_text("utf-8"), measure)
        PAGE.write_text(sign(page, run, (time.monotonic() - began) / 60), "utf-8")
    except CommandError as error:
        print(f"{PAGE.name} is not filled: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
