"""What can go wrong with an answer, to be programmed into the sandbox."""

from __future__ import annotations

from collections.abc import Mapping  # noqa: TC003 - msgspec reads annotations at run time
from enum import Enum, auto
from typing import Self

from msgspec import Struct, field


class Mishap(Enum):
    """What happens to the connection."""

    NONE = auto()
    RESET = auto()
    STALL = auto()
    CUT_OFF = auto()


class Fault(Struct, frozen=True):
    """One faulty answer. The request counts with its weight unless `counted` is false.

    Make one with `Fault.of_status`, `of_body`, `html`, `not_json`, `reset`, `stall`, `cut_off`.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    mishap: Mishap = Mishap.NONE
    counted: bool = True

    @classmethod
    def of_status(
        cls,
        status: int,
        body: bytes = b"",
        headers: Mapping[str, str] | None = None,
        *,
        counted: bool = True,
    ) -> Self:
        """Answer with a status, a body and further headers.

        The exchange does not count a 503 "Service Unavailable": `counted=False`.
        """
        return cls(status, body, headers or {}, counted=counted)

    @classmethod
    def of_body(cls, body: bytes) -> Self:
        """Answer 200 with this body."""
        return cls(200, body)

    @classmethod
    def html(cls) -> Self:
        """Answer 200 with a page."""
        return cls(200, b"<!DOCTYPE html><html><body>Be right back</body></html>")

    @classmethod
    def not_json(cls) -> Self:
        """Answer 200 with plain text."""
        return cls(200, b"OK")

    @classmethod
    def reset(cls) -> Self:
        """Reset the connection instead of answering."""
        return cls(mishap=Mishap.RESET)

    @classmethod
    def stall(cls) -> Self:
        """Never answer."""
        return cls(mishap=Mishap.STALL)

    @classmethod
    def cut_off(cls, status: int = 200, headers: Mapping[str, str] | None = None) -> Self:
        """Break the connection in the middle of the body."""
        return cls(status, None, headers or {}, mishap=Mishap.CUT_OFF)
