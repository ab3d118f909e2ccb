"""Faulty answers that the sandbox gives on request."""

from __future__ import annotations

from collections.abc import Iterable, Mapping  # noqa: TC003 - msgspec reads annotations at run time
from enum import Enum, auto
from typing import Self

from msgspec import Struct, field


def checked(faults: Iterable[Fault]) -> list[Fault]:
    """Return the faults; what is none is a `TypeError` here, not in the middle of an answer."""
    found = list(faults)
    for each in found:
        if not isinstance(each, Fault):  # pyright: ignore[reportUnnecessaryIsInstance]
            raise TypeError(f"a fault is a Fault, such as Fault.of_status(503), not {each!r:.100}")
    return found


class FaultKind(Enum):
    """What a fault does to the connection; `NONE` sends a whole answer."""

    NONE = auto()
    RESET = auto()
    STALL = auto()
    CUT_OFF = auto()


class Fault(Struct, frozen=True):
    """One faulty answer. The request counts with its weight unless `counted` is false.

    Make one with `Fault.of_status`, `of_body`, `html`, `not_json`, `order_limit`, `reset`, `stall`,
    `cut_off`.
    """

    status: int = 200
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    kind: FaultKind = FaultKind.NONE
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
        """Answer with a status, a body and additional headers.

        The exchange does not count a 503 "Service Unavailable": `counted=False`.
        """
        return cls(status, body, headers or {}, counted=counted)

    @classmethod
    def of_body(cls, body: bytes) -> Self:
        """Answer 200 with this body."""
        return cls(200, body)

    @classmethod
    def html(cls) -> Self:
        """Answer 200 with an HTML page."""
        return cls(200, b"<!DOCTYPE html><html><body>Be right back</body></html>")

    @classmethod
    def not_json(cls) -> Self:
        """Answer 200 with plain text."""
        return cls(200, b"OK")

    @classmethod
    def order_limit(cls) -> Self:
        """Answer 429 for the order limit of an account: code -1015, without `Retry-After`."""
        notice = b"Too many new orders; current limit is 300 orders per TEN_SECONDS."
        return cls(429, b'{"code":-1015,"msg":"%s"}' % notice)

    @classmethod
    def reset(cls) -> Self:
        """Reset the connection instead of answering."""
        return cls(kind=FaultKind.RESET)

    @classmethod
    def stall(cls) -> Self:
        """Never answer."""
        return cls(kind=FaultKind.STALL)

    @classmethod
    def cut_off(cls, status: int = 200, headers: Mapping[str, str] | None = None) -> Self:
        """Close the connection in the middle of the body."""
        return cls(status, None, headers or {}, kind=FaultKind.CUT_OFF)
