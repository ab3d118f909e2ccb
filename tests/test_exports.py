"""What the package exports: in order, there, documented, and explained."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from importlib import import_module
from inspect import isclass

import pytest

from . import ROOT

MODULES = [
    "binance_insurance",
    "binance_insurance.budget",
    "binance_insurance.changes",
    "binance_insurance.history",
    "binance_insurance.history.export",
    "binance_insurance.metrics",
    "binance_insurance.sandbox",
    "binance_insurance.testing",
    "binance_insurance.weights",
]
REFERENCE = ROOT / "docs" / "reference.md"


def exports() -> list[tuple[str, str]]:
    return [(module, name) for module in MODULES for name in import_module(module).__all__]


def documented() -> Iterator[object]:
    """What the reference names, and the members of the modules that it names."""
    for kind, name in re.findall(
        r"^\.\. auto(\w+):: (\S+)$", REFERENCE.read_text("utf-8"), re.MULTILINE
    ):
        if kind == "module":
            members = vars(import_module(name)).values()
            yield from (each for each in members if getattr(each, "__module__", None) == name)
        else:
            module, _, attribute = name.rpartition(".")
            with suppress(ImportError):  # an adapter, where its library is not installed
                yield getattr(import_module(module), attribute)


@pytest.mark.parametrize("module", MODULES)
def test_the_exports_are_sorted_and_named_once(module: str) -> None:
    names: list[str] = import_module(module).__all__
    assert names == sorted(set(names))


@pytest.mark.parametrize(("module", "name"), exports())
def test_an_export_is_there_and_documented(module: str, name: str) -> None:
    found = getattr(import_module(module), name)
    assert any(found is each for each in documented()), f"add {module}.{name} to {REFERENCE.name}"


@pytest.mark.parametrize(("module", "name"), exports())
def test_an_export_has_a_docstring_of_its_own(module: str, name: str) -> None:
    found = getattr(import_module(module), name)
    text = vars(found).get("__doc__") if isclass(found) else found.__doc__
    assert text
    assert text.strip()


CORE_ONLY = """
import sys
sys.modules.update(dict.fromkeys(["redis", "rich", "typer", "platformdirs", "pydantic_core"]))
import binance_insurance
from binance_insurance import *
assert set(binance_insurance.__all__) <= set(dir(binance_insurance)) & set(globals())
assert set(binance_insurance.budget.__all__) <= set(dir(binance_insurance.budget))
try:
    RedisBudget("redis://127.0.0.1")
except ModuleNotFoundError as error:
    print(error)
"""


def test_all_exports_can_be_had_on_a_core_install() -> None:
    done = subprocess.run(
        [sys.executable, "-c", CORE_ONLY], capture_output=True, text=True, check=True
    )
    assert done.stdout == "RedisBudget needs redis: pip install 'binance-insurance[redis]'\n"
