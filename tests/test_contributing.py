"""CONTRIBUTING shows every file of the package, each with its one job."""

from __future__ import annotations

import re

from . import ROOT

PACKAGE = ROOT / "binance_insurance"
TREE = re.compile(r"^```\nbinance_insurance/\n(.*?)^```$", re.DOTALL | re.MULTILINE)
LINE = re.compile(r"( *)(\S+?)(/?)(?: {2,}(\S.*))?")


def shown() -> list[str]:
    """The files of the tree in CONTRIBUTING; directories end in `/`, what they hold is indented."""
    tree = TREE.search((ROOT / "CONTRIBUTING.md").read_text("utf-8"))
    assert tree, "CONTRIBUTING.md shows no tree"
    files: list[str] = []
    above: list[str] = []
    for line in tree[1].splitlines():
        parts = LINE.fullmatch(line)
        assert parts, f"not of the form `name   its one job`: {line!r}"
        depth = len(parts[1]) // 4 - 1
        assert 0 <= depth <= len(above), f"indented by more than one directory: {line!r}"
        above[depth:] = [parts[2]]
        if parts[3]:
            continue
        assert parts[4], f"without its one job: {line!r}"
        above.pop()
        files.append("/".join([*above, parts[2]]))
    return files


def test_the_tree_shows_every_file_once() -> None:
    there = [path.relative_to(PACKAGE).as_posix() for path in PACKAGE.rglob("*.py")]
    assert sorted(shown()) == sorted(there)
