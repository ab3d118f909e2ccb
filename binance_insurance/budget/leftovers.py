"""Connections that must not be closed here, since another process or an ended loop has them.

An object that is dropped closes what it holds. In a child of the process that opened a connection,
that would disturb the parent; through an event loop that has ended, it fails.
"""

from __future__ import annotations

import os
from weakref import WeakSet

_in_use: WeakSet[object] = WeakSet()
_kept: list[object] = []


def keep(leftover: object) -> None:
    """Never drop an object."""
    _kept.append(leftover)


def keep_in_children(holder: object) -> None:
    """Let no forked child drop an object, if this process has it when it forks."""
    _in_use.add(holder)


def _forked() -> None:
    _kept.extend(_in_use)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)
