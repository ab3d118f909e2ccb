"""The notebooks of the documentation run from top to bottom."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from .. import ROOT

NOTEBOOKS = sorted((ROOT / "docs" / "examples").glob("*.ipynb"))


def read(notebook: Path) -> list[Any]:
    """Its cells of code."""
    cells: list[Any] = json.loads(notebook.read_text("utf-8"))["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.name)
def test_a_notebook_runs_and_shows_a_plot(notebook: Path, tmp_path: Path) -> None:
    done = tmp_path / notebook.name
    execute = "from nbclient.cli import main; main()"
    command = [sys.executable, "-c", execute, str(notebook), f"--output={done.with_suffix('')}"]
    subprocess.run(command, check=True, timeout=50)
    outputs = [output for cell in read(done) for output in cell["outputs"]]
    assert [output for output in outputs if output.get("name") == "stderr"] == []
    assert any("image/png" in output.get("data", ()) for output in outputs)


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda each: each.name)
def test_a_notebook_is_kept_without_its_output(notebook: Path) -> None:
    for cell in read(notebook):
        assert (cell["outputs"], cell["execution_count"]) == ([], None)
