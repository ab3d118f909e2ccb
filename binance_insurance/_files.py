"""Directories and files that a store makes, or finds replaced."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from os import PathLike
    from pathlib import Path

Identity: TypeAlias = "tuple[int, int] | None"  # device and number; None if it is not there


def make_directory(directory: Path) -> None:
    """Make a directory and those above it, for this user alone."""
    missing = [each for each in (directory, *directory.parents) if not each.exists()]
    for each in reversed(missing):
        each.mkdir(mode=0o700, exist_ok=True)


def identity(name: str | PathLike[str]) -> Identity:
    """Return what tells a file from another that takes its place."""
    try:
        found = os.stat(name)  # noqa: PTH116 - with each transaction, and a Path takes its time
    except FileNotFoundError:
        return None
    return found.st_dev, found.st_ino
