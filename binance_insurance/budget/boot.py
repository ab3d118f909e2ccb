"""From which start of which machine the monotonic clock counts, and how long it stood still."""

from __future__ import annotations

import time
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING
from uuid import getnode

if TYPE_CHECKING:
    from collections.abc import Callable

_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@cache
def boot_id() -> str:
    """Name the start of this machine; where the system has no name for it, the machine alone.

    That is enough: after a restart, a monotonic clock shows less than before.
    """
    try:
        return _BOOT_ID.read_text("ascii").strip()
    except OSError:
        return f"{getnode():x}"


def slept(monotonic: Callable[[], float]) -> float:
    """Return for how many seconds this machine has slept: its monotonic clock stood still then.

    0 where the system does not count that, or the clock is another one.
    """
    if monotonic is not time.monotonic or not hasattr(time, "CLOCK_BOOTTIME"):
        return 0.0
    return time.clock_gettime(time.CLOCK_BOOTTIME) - time.monotonic()
