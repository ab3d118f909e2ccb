"""What comes from outside as text to show: on one line, and without passwords. Pure."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

if TYPE_CHECKING:
    from collections.abc import Collection

_LONGEST = 300
# Up to the last "@", since one in a password that is not percent-encoded can be anywhere.
_USER = re.compile(r"([a-z][a-z0-9+.-]*:/*)?([^:@/?#]*)(:?).*@", re.DOTALL | re.IGNORECASE)
# A password whose "@host" is missing stands where the port would.
_NO_PORT = re.compile(r"([a-z][a-z0-9+.-]*://[^:/?#\[]*:)(?!\d*(?:[/?#]|\Z))[^/?#]*", re.IGNORECASE)
_SECRET = re.compile(r"pass|pw|secret|token|auth|cred", re.IGNORECASE)


def printable(text: str) -> str:
    """Escape what is not printable, as Python does."""
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode("ascii")
        for each in text
    )


def iso(time: datetime) -> str:
    """Write an aware datetime as ISO 8601 in UTC."""
    return time.astimezone(UTC).isoformat().replace("+00:00", "Z")


def one_line(text: str, longest: int = _LONGEST) -> str:
    """Escape what is not printable, and cut at so many characters."""
    escaped = printable(text[: longest + 1])
    return escaped if len(escaped) <= longest else f"{escaped[: longest - 1]}…"


def without_password(url: str) -> str:
    """Return a URL, valid or not, with `***` in place of each password."""
    user = _USER.match(url)
    if user is None:
        url = _NO_PORT.sub(r"\1***", url, count=1)
    else:
        scheme, name, colon = user.groups("")
        url = f"{scheme}{name if colon else ''}{colon}***@{url[user.end() :]}"
    before, mark, query = url.partition("?")
    return before + mark + "&".join(_hidden(option) for option in query.split("&"))


def repeats(error: BaseException | None, secrets: Collection[str]) -> bool:
    """Whether an error, or one that led to it, has a secret in its text."""
    while error is not None:
        if any(secret in str(error) for secret in secrets):
            return True
        error = error.__cause__ or error.__context__
    return False


def _hidden(option: str) -> str:
    name, sign, _ = option.partition("=")
    return f"{name}=***" if sign and _SECRET.search(unquote_plus(name)) else option
