"""The workflow, `.ci/run` and pre-commit run the same checks, on the Pythons of the classifiers."""

from __future__ import annotations

import ast
import re
import tomllib
from typing import Any

import msgspec

from . import ROOT

WORKFLOW = ROOT / ".github" / "workflows" / "ci.yml"
SESSIONS = re.compile(r"-s ((?:[a-z]+ )*)(?:\"\$\{others\[@\]\}\" )?((?:[a-z]+ ?)+)$", re.MULTILINE)
PINNED = re.compile(r"[\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def of_workflow() -> Any:
    return msgspec.yaml.decode(WORKFLOW.read_bytes())


def of_pre_commit() -> list[Any]:
    (repo,) = msgspec.yaml.decode((ROOT / ".pre-commit-config.yaml").read_bytes())["repos"]
    assert repo["repo"] == "local", "its versions are those of the session"
    hooks: list[Any] = repo["hooks"]
    return hooks


def of_ci_run() -> list[str]:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    return " ".join(" ".join(found.groups()) for found in SESSIONS.finditer(script)).split()


def of_session(name: str) -> tuple[list[str], list[str]]:
    """What a session of the noxfile installs, and the commands that it runs."""
    tree = ast.parse((ROOT / "noxfile.py").read_text("utf-8"))
    session = next(
        each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == name
    )
    names: dict[str, str] = {}
    found: dict[str, list[str]] = {"install": [], "run": []}
    for line in session.body:
        match line:
            case ast.Assign(targets=[ast.Name(name)], value=ast.Constant(str(text))):
                names[name] = text
            case ast.Expr(ast.Call(func=ast.Attribute(attr=verb), args=args)):
                texts = [
                    names[e.id] if isinstance(e, ast.Name) else str(ast.literal_eval(e))
                    for e in args
                ]
                found[verb] += [" ".join(texts)] if verb == "run" else texts
            case _:
                pass
    return found["install"], found["run"]


def test_the_workflow_runs_the_sessions_of_ci_run() -> None:
    jobs = of_workflow()["jobs"]
    sessions = jobs["session"]["strategy"]["matrix"]["session"]
    assert {"lint", "examples", "campaign"} <= set(sessions)
    assert sorted(sessions) == sorted(of_ci_run())


def test_the_workflow_runs_the_tests_on_the_pythons_of_the_classifiers() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    named = re.findall(r"Python :: (3\.\d+)", "\n".join(project["classifiers"]))
    assert of_workflow()["jobs"]["tests"]["strategy"]["matrix"]["python"] == named
    assert project["requires-python"] == f">={named[0]}"


def test_a_python_that_is_named_and_missing_fails() -> None:
    script = (ROOT / ".ci" / "run").read_text("utf-8")
    assert "--error-on-missing-interpreters" in script
    for job in of_workflow()["jobs"].values():
        assert "nox --error-on-missing-interpreters -s" in job["steps"][-1]["run"]


def test_the_workflow_may_read_the_code_and_nothing_else() -> None:
    workflow = of_workflow()
    assert workflow["permissions"] == {}
    for job in workflow["jobs"].values():
        assert job["permissions"] == {"contents": "read"}


def test_actions_are_pinned_to_one_commit() -> None:
    used = re.findall(r"uses: (.*)", WORKFLOW.read_text("utf-8"))
    assert used
    for action in used:
        assert PINNED.fullmatch(action), action


def test_pre_commit_runs_what_lint_runs() -> None:
    installed, run = of_session("lint")
    hooks = of_pre_commit()
    assert [hook["entry"] for hook in hooks] == run
    own = {"-e", ".[cli,metrics,parquet,plot,postgres,redis]", "httpx", "requests"}
    tools = [hook for hook in hooks if hook["language"] == "python"]
    assert {each for hook in tools for each in hook["additional_dependencies"]} | own == {
        *installed
    }
    for hook in tools:
        (requirement,) = hook["additional_dependencies"]
        assert requirement.startswith(f"{hook['entry'].split()[0]}>=")
    assert [hook["id"] for hook in hooks if hook not in tools] == ["house"]
