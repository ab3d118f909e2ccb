"""The bounds of the house: `python -m tests.house` prints its figures, and fails past a bound.

It looks at the installed package: which functions a warm `fetch_pool` calls, how much a class
stores, and how long a file is. The layers are those of the first contract in `pyproject.toml`.
"""

from __future__ import annotations

import ast
import asyncio
import pkgutil
import sys
import tomllib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from types import CodeType, FrameType, ModuleType
from typing import Any, get_args, get_type_hints

import msgspec

import binance_insurance
from binance_insurance import InsuranceClient

from . import ROOT
from .exchange import exchange_in_a_thread

PACKAGE = binance_insurance.__name__
DIRECTORY = Path(binance_insurance.__file__).resolve().parent
SANDBOX = f"{PACKAGE}.sandbox"

FUNCTIONS, ENTRIES = 38, 48
FIELDS, LEDGER_SCALARS = 14, 20
BUDGET_LINES, LINES = 320, 380


@dataclass(frozen=True)
class Figure:
    """What was counted, and what it may be; the parts say where to look."""

    name: str
    value: int
    bound: int
    parts: tuple[str, ...] = ()

    @property
    def exceeded(self) -> bool:
        """Whether it is more than the bound."""
        return self.value > self.bound

    def __str__(self) -> str:
        line = f"{self.value:4} of {self.bound:3}  {self.name}{'  <- too many' * self.exceeded}"
        return "\n".join([line, *(f"              {part}" for part in self.parts)])


# --- Calls of a warm fetch_pool ---


@dataclass(frozen=True)
class Function:
    """A function of the package."""

    module: str
    name: str

    def __str__(self) -> str:
        return f"{self.module.removeprefix(f'{PACKAGE}.')}.{self.name}"


@dataclass(frozen=True)
class Call:
    """A frame of the package that was entered or resumed, and its caller where it is ours too."""

    function: Function
    caller: Function | None


def module_of(path: Path) -> str:
    """Name the module in a file of the package."""
    parts = path.relative_to(DIRECTORY.parent).with_suffix("").parts
    return ".".join(parts).removesuffix(".__init__")


def function_of(code: CodeType) -> Function | None:
    """Say which function of the package a code is, if it is one; the sandbox is not counted."""
    path = Path(code.co_filename)
    if not path.is_relative_to(DIRECTORY):
        return None
    module = module_of(path)
    return None if is_within(module, SANDBOX) else Function(module, code.co_qualname)


async def _third_call(url: str) -> list[tuple[CodeType, CodeType | None]]:
    seen: list[tuple[CodeType, CodeType | None]] = []

    def profile(frame: FrameType, event: str, _: object) -> None:
        if event == "call":  # Python code only; the resumption of a coroutine is one too
            seen.append((frame.f_code, frame.f_back.f_code if frame.f_back else None))

    async with InsuranceClient(url) as client:
        for _ in range(2):
            await client.fetch_pool("BTCUSDT")
        sys.setprofile(profile)
        try:
            await client.fetch_pool("BTCUSDT")
        finally:
            sys.setprofile(None)
    return seen


def warm_calls() -> list[Call]:
    """Return the calls of the third `fetch_pool` of a client.

    A task's step is called by asyncio, so a coroutine that runs as a task has no caller of ours.
    """
    with exchange_in_a_thread() as exchange:
        seen = asyncio.run(_third_call(exchange.url))
    return [
        Call(function, caller and function_of(caller))
        for code, caller in seen
        if (function := function_of(code))
    ]


def layers() -> list[list[str]]:
    """Read the layers, the highest first, and the modules of each."""
    with (ROOT / "pyproject.toml").open("rb") as file:
        contracts: list[dict[str, Any]] = tomllib.load(file)["tool"]["importlinter"]["contracts"]
    first = next(contract for contract in contracts if contract["type"] == "layers")
    return [
        [name.strip("() ") for name in layer.replace(":", "|").split("|")]
        for layer in first["layers"]
    ]


def is_within(module: str, prefix: str) -> bool:
    """Whether a module is the named one or lies in it."""
    return module == prefix or module.startswith(f"{prefix}.")


def depth(module: str, house: list[list[str]]) -> int | None:
    """Return a module's layer, 0 being the highest, by the longest name that it lies in."""
    found = [
        (len(name), number)
        for number, layer in enumerate(house)
        for name in layer
        if is_within(module, name)
    ]
    return max(found)[1] if found else None


def climbs(calls: Iterable[Call], house: list[list[str]]) -> list[str]:
    """Return the calls from a lower layer into a higher one, each once."""
    found: dict[str, None] = {}
    for call in calls:
        if call.caller is None:
            continue
        above, below = depth(call.function.module, house), depth(call.caller.module, house)
        if above is not None and below is not None and above < below:
            found[f"{call.caller} -> {call.function}"] = None
    return list(found)


def call_figures() -> Iterator[Figure]:
    """Count the calls of a warm `fetch_pool`."""
    calls, house = warm_calls(), layers()
    upward = climbs(calls, house)
    functions = {call.function for call in calls}
    homeless = sorted({each.module for each in functions if depth(each.module, house) is None})
    yield Figure("calls from a lower layer into a higher one", len(upward), 0, tuple(upward))
    yield Figure("modules on the way that are in no layer", len(homeless), 0, tuple(homeless))
    yield Figure("functions of a warm fetch_pool", len(functions), FUNCTIONS)
    yield Figure("frames entered or resumed by it", len(calls), ENTRIES)


# --- What classes store ---


def modules() -> list[ModuleType]:
    """Import every module of the package but the sandbox and what runs when it is imported."""
    names = [each.name for each in pkgutil.walk_packages([str(DIRECTORY)], f"{PACKAGE}.")]
    return [
        import_module(name)
        for name in (PACKAGE, *names)
        if not is_within(name, SANDBOX) and not name.endswith(".__main__")
    ]


def classes() -> list[type[object]]:
    """Return the classes of the package, each once."""
    return [
        each
        for module in modules()
        for each in vars(module).values()
        if isinstance(each, type) and each.__module__ == module.__name__
    ]


def scalars(struct: type[msgspec.Struct]) -> int:
    """Count a struct's fields, and those of the structs in it instead of them."""
    hints = get_type_hints(struct)
    return sum(_scalars_of(hints[name]) for name in struct.__struct_fields__)


def _scalars_of(hint: object) -> int:
    if isinstance(hint, type) and issubclass(hint, msgspec.Struct):
        return scalars(hint)
    parts = [each for each in get_args(hint) if isinstance(each, type)]
    return max([1, *(scalars(each) for each in parts if issubclass(each, msgspec.Struct))])


def _self_targets(node: ast.ClassDef) -> Iterator[str]:
    for target in ast.walk(node):
        if (
            isinstance(target, ast.Attribute)
            and isinstance(target.ctx, ast.Store)
            and isinstance(target.value, ast.Name)
            and target.value.id == "self"
        ):
            yield target.attr


def assigned() -> dict[tuple[str, str], set[str]]:
    """Return what each class of the package assigns to `self`, by its module and name."""
    found: dict[tuple[str, str], set[str]] = {}
    for path in DIRECTORY.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                found[module_of(path), node.name] = set(_self_targets(node))
    return found


def own(kind: type[object], attributes: dict[tuple[str, str], set[str]]) -> set[str]:
    """Return what a class itself stores: its fields, or what its methods assign to `self`."""
    if issubclass(kind, msgspec.Struct):
        return set(kind.__struct_fields__)
    of_dataclass: dict[str, object] = getattr(kind, "__dataclass_fields__", {})
    return set(of_dataclass) or attributes.get((kind.__module__, kind.__name__), set())


def class_figures() -> Iterator[Figure]:
    """Count what the ledger stores, and the class that stores the most."""
    found, attributes = classes(), assigned()
    ledgers = [each for each in found if each.__name__ == "Ledger"]
    if len(ledgers) != 1:
        raise LookupError(f"there are {len(ledgers)} classes named Ledger, not one")
    ledger = ledgers[0]
    if not issubclass(ledger, msgspec.Struct):
        raise TypeError("Ledger is not a Struct, so its scalars cannot be counted")
    yield Figure("fields of Ledger", len(ledger.__struct_fields__), FIELDS)
    yield Figure("scalars of Ledger with its parts", scalars(ledger), LEDGER_SCALARS)
    others = [each for each in found if each is not ledger]
    stored = {
        each: {name for base in each.__mro__ for name in own(base, attributes)} for each in others
    }
    yield _largest("attributes of any other class, with those of its bases", FIELDS, stored)


def _largest(name: str, bound: int, stored: dict[type[object], set[str]]) -> Figure:
    large = [
        f"{Function(kind.__module__, kind.__name__)}: {len(names)}"
        for kind, names in stored.items()
        if len(names) > FIELDS
    ]
    return Figure(name, max(len(names) for names in stored.values()), bound, tuple(large))


# --- Files ---


def lengths() -> dict[str, int]:
    """Return the lines of each file."""
    return {
        path.relative_to(DIRECTORY).as_posix(): len(path.read_text("utf-8").splitlines())
        for path in sorted(DIRECTORY.rglob("*.py"))
    }


def _longest(name: str, lines: dict[str, int], bound: int) -> Figure:
    large = [f"{path}: {count}" for path, count in lines.items() if count > bound]
    return Figure(name, max(lines.values()), bound, tuple(large))


def file_figures() -> Iterator[Figure]:
    """Find the longest files."""
    lines = lengths()
    of_budget = {path: count for path, count in lines.items() if path.startswith("budget/")}
    yield _longest("lines of a file of budget/", of_budget, BUDGET_LINES)
    yield _longest("lines of a file", lines, LINES)


def main() -> int:
    """Print the figures; 1 when a bound is passed."""
    figures = [*call_figures(), *class_figures(), *file_figures()]
    print(*figures, sep="\n")
    return int(any(figure.exceeded for figure in figures))


if __name__ == "__main__":
    sys.exit(main())
