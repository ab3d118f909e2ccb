"""Python code that runs in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence


def script(code: str, *arguments: str, options: Sequence[str] = (), timeout: float = 50) -> str:
    """Run Python code in a process of its own, and return what it prints, errors included."""
    return subprocess.run(
        [sys.executable, "-P", *options, "-c", code, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        timeout=timeout,
    ).stdout
