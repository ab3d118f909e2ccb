"""Blocks that need more than the extra `test`, or a server."""

from __future__ import annotations

import os
import re
import subprocess
import sys

import pytest

from benchmarks.redis_server import RedisServer

from .. import ROOT

DOCS = ROOT / "docs"
# Their blocks are run beside other programs' clients, and with what the plots show.
ELSEWHERE = {"one-budget.md", "plots.md"}
PAGES = [page for page in sorted(DOCS.glob("*.md")) if page.name not in ELSEWHERE]
BLOCK = re.compile(r"^```py\n(.*?)^```$", re.DOTALL | re.MULTILINE)
BLOCKS = {
    f"{page.name}-{number}": block[1]
    for page in PAGES
    for number, block in enumerate(BLOCK.finditer(page.read_text("utf-8")))
}


def run(code: str, **environment: str) -> str:
    """Run a block as a program, a warning being an error, and return what it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


@pytest.mark.parametrize("code", BLOCKS.values(), ids=BLOCKS.keys())
def test_a_block_runs(code: str) -> None:
    assert run(code)


def test_a_serverless_call_knows_from_redis_of_the_ban_that_another_met(
    redis_server: RedisServer,
) -> None:
    page = (DOCS / "addresses.md").read_text("utf-8")
    code = next(
        each
        for each in re.findall(r"```python\n(.*?)```", page, re.DOTALL)
        if "def handler(" in each
    )
    output = run(code, BUDGET_URL=redis_server.url).splitlines()
    assert [line.startswith("{'statusCode': 503") for line in output] == [True, True, False]
    assert output[2] == "1 request was sent"
