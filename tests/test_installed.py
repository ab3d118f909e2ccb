"""The tests see what users get: the installed package, whole."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path

import pytest

import binance_insurance

from . import ROOT

CHECKOUT = ROOT / "binance_insurance" / "__init__.py"
WHERE = "import binance_insurance; print(binance_insurance.__file__)"


def test_the_tests_import_the_installed_package() -> None:
    found = Path(binance_insurance.__file__).resolve()
    assert found != CHECKOUT, "install it (pip install '.[test]'), and not with -e"


@pytest.mark.parametrize("directory", [ROOT, ROOT / "tests", ROOT / "benchmarks"])
def test_a_process_that_a_test_starts_imports_it_too(directory: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", WHERE], cwd=directory, capture_output=True, text=True, check=True
    )
    assert Path(done.stdout.strip()).resolve() == Path(binance_insurance.__file__).resolve()


@pytest.mark.parametrize("name", ["pool.json", "pools.json"])
def test_the_documented_answers_are_installed(name: str) -> None:
    found = files("binance_insurance.sandbox") / "documented" / name
    assert json.loads(found.read_text("utf-8"))


def test_the_version_has_one_place() -> None:
    assert version("binance-insurance") == binance_insurance.__version__
    assert "version" in tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["dynamic"]


def test_the_types_are_installed() -> None:
    assert (files("binance_insurance") / "py.typed").is_file()
