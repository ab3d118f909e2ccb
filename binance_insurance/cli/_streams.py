"""Standard output that fails in order, and the lines on standard error."""

from __future__ import annotations

import errno
import io
import os
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, TextIO, cast

from ._text import message

if TYPE_CHECKING:
    from typing_extensions import Buffer


class Guarded(io.RawIOBase):
    """A stream below its buffer: after a failure, all that is written to it goes nowhere.

    So the failure is raised once, and not again while the interpreter ends. A pipe that its reader
    has closed is no failure.

    Attributes:
        failure: why it cannot be written, or None.
    """

    def __init__(self, raw: io.RawIOBase, *, silent: bool) -> None:
        super().__init__()
        self.failure: OSError | None = None
        self._raw = raw
        self._silent = silent
        self._ended = False

    def write(self, data: Buffer, /) -> int:
        """Write, or raise the `OSError` of the first failure."""
        size = memoryview(data).nbytes
        if self._ended:
            return size
        try:
            written = self._raw.write(data)
            if written is None:  # it does not block, and its reader is slow
                raise BlockingIOError(errno.EAGAIN, os.strerror(errno.EAGAIN))
        except BrokenPipeError:
            self._ended = True
            return size
        except OSError as error:
            self._ended, self.failure = True, error
            if self._silent:
                return size
            raise
        return written

    def writable(self) -> bool:
        """Return True."""
        return True

    def isatty(self) -> bool:
        """Return whether it is a terminal."""
        return self._raw.isatty()

    def fileno(self) -> int:
        """Return the descriptor."""
        return self._raw.fileno()


def guard_streams() -> Guarded | None:
    """Guard standard output and standard error of this process; None if the output is closed."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        sys.stderr, _ = _guard(sys.stderr, silent=True)
    if sys.stdout is None:  # pyright: ignore[reportUnnecessaryComparison]
        return None
    sys.stdout, guarded = _guard(sys.stdout, silent=False)
    return guarded


def _guard(stream: TextIO, *, silent: bool) -> tuple[TextIO, Guarded]:
    raw = cast(
        "io.RawIOBase", getattr(stream.buffer, "raw", stream.buffer)
    )  # `python -u`: no buffer
    guarded = Guarded(raw, silent=silent)
    return (
        io.TextIOWrapper(
            io.BufferedWriter(guarded),
            encoding=stream.encoding,
            errors="backslashreplace",
            line_buffering=silent or stream.isatty(),
        ),
        guarded,
    )


def encoding() -> str:
    """Return the encoding of standard output."""
    return sys.stdout.encoding or "utf-8"


def say(text: str) -> None:
    """Print one line about what happened on standard error, if there is one."""
    if sys.stderr is not None:  # pyright: ignore[reportUnnecessaryComparison]
        with suppress(OSError):
            print(f"binance-insurance: {message(text)}", file=sys.stderr, flush=True)
