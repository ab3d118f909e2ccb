"""A command in a process of its own, on a terminal or in a pipe."""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
from collections.abc import Mapping

COMMAND = (sys.executable, "-m", "binance_insurance")
_STYLE = re.compile(r"\x1b\[[0-9;]*m")


def environment(**env: str) -> Mapping[str, str]:
    """Return the environment without what changes a terminal's width or colours."""
    names = {"COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR", "PYTHONIOENCODING"}
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return kept | {"TERM": "xterm-256color", "PYTHONUTF8": "1", **env}


class Terminal:
    """A terminal of so many columns, on which a command runs."""

    def __init__(self, columns: int, *arguments: str, **env: str) -> None:
        self._terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", 50, columns, 0, 0))
        self.process = subprocess.Popen(
            [*COMMAND, *arguments],
            stdin=inside,
            stdout=inside,
            stderr=inside,
            env=environment(**env),
        )
        os.close(inside)
        self._read = b""

    def read_until(self, pattern: str) -> str:
        """Read until a pattern is there, or to the end; return all that was written, raw."""
        while not re.search(pattern.encode(), self._read):
            try:
                more = os.read(self._terminal, 1 << 16)
            except OSError:  # the other side is closed
                break
            if not more:
                break
            self._read += more
        return self._read.decode()

    def finish(self) -> tuple[int, str]:
        """Read to the end; return the exit code, and what was written without its styles."""
        written = self.read_until("\x00")
        os.close(self._terminal)
        return self.process.wait(30), _STYLE.sub("", written).replace("\r\n", "\n")


def in_shell(line: str, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a command in a shell, where it is `"$@"`."""
    return subprocess.run(
        ["bash", "-o", "pipefail", "-c", line, "bash", *COMMAND, *arguments],  # noqa: S607
        capture_output=True,
        text=True,
        check=False,
        env=environment(BINANCE_INSURANCE_BUDGET="memory://", **env),
    )
