"""What a forked child does with what its parent uses, and what is never closed.

An object that is dropped closes what it holds. In a child of the process that opened a connection,
that would disturb the parent; through an event loop that has ended, it fails.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Any, TypeVar
from weakref import WeakKeyDictionary

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")

_in_use: WeakKeyDictionary[object, Callable[[Any], None]] = WeakKeyDictionary()
_kept: list[object] = []


def keep(leftover: object) -> None:
    """Never drop an object, since another process or an ended loop has what it holds."""
    _kept.append(leftover)


def in_children(holder: T, do: Callable[[T], None]) -> None:
    """Do something with an object in each forked child, if this process has it when it forks."""
    _in_use[holder] = do


def _forked() -> None:
    for holder, do in list(_in_use.items()):
        do(holder)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
