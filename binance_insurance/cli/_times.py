"""Times, durations and numbers of options: pure."""

from __future__ import annotations

import re
from datetime import datetime, timedelta

import typer

_DURATION = re.compile(r"([0-9]+(?:\.[0-9]+)?)([smhd])")
_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def duration(text: str, option: str) -> timedelta:
    """Return the duration that a number and s, m, h or d say, such as 24h.

    Raises:
        typer.BadParameter: the text is none, or the duration is 0 or too long.
    """
    found = _DURATION.fullmatch(text)
    if found is None:
        raise _bad(f"{text!r} is not a number and s, m, h or d, such as 24h", option)
    try:
        long = timedelta(seconds=float(found[1]) * _SECONDS[found[2]])
    except OverflowError:
        long = timedelta(0)
    if not long:
        raise _bad(f"{text!r} is too short or too long", option)
    return long


def moment(text: str | None, option: str) -> datetime | None:
    """Return a time in ISO 8601 with an offset; None where there is none.

    Raises:
        typer.BadParameter: the text is none, or has no offset.
    """
    if text is None:
        return None
    try:
        time = datetime.fromisoformat(text)
    except ValueError:
        raise _bad(
            f"{text!r} is not a time in ISO 8601, such as 2026-01-31T12:00:00Z", option
        ) from None
    if time.utcoffset() is None:
        raise _bad(f"{text!r} has no offset from UTC; write {time.isoformat()}Z for UTC", option)
    return time


def count(text: str, option: str) -> int | None:
    """Return a number above 0; None for `all`.

    Raises:
        typer.BadParameter: the text is neither.
    """
    if text == "all":
        return None
    if not re.fullmatch("[0-9]{1,18}", text) or not int(text):
        raise _bad(f"{text!r} is neither a whole number above 0 nor all", option)
    return int(text)


def _bad(why: str, option: str) -> typer.BadParameter:
    return typer.BadParameter(why, param_hint=option)
