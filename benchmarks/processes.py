"""Processes that end when whoever started them fails."""

from __future__ import annotations

import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence


@contextmanager
def running(
    command: Sequence[str], env: Mapping[str, str] | None = None
) -> Generator[subprocess.Popen[str]]:
    """Start a process with pipes for input and output, and kill it however the body ends.

    `Popen` as a context manager waits instead, and a server runs on for as long as it is let.
    """
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=env
    ) as process:
        try:
            yield process
        finally:
            process.kill()
