"""From which start of which machine the monotonic clock counts."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from uuid import getnode

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """Name the start of this machine; where the system has no name for it, the machine alone.

    That is enough: a monotonic clock that starts anew shows less than before.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"{getnode():x}"
