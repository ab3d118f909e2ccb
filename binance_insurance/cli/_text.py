"""Texts from outside, made safe to print: pure."""

from __future__ import annotations

import json
import re

from .._text import one_line, printable

_USER = re.compile(r"(?<=://)[^\s'\"]*@")
_PASSWORD = re.compile(r"(?<=password=)[^&\s'\"]*", re.IGNORECASE)


def shown(text: str, encoding: str = "utf-8") -> str:
    """Escape what is not printable, and what an encoding lacks, as Python does."""
    return printable(text).encode(encoding, "backslashreplace").decode(encoding)


def name(text: str, encoding: str = "utf-8") -> str:
    """Escape a symbol or an asset; blanks too, since they stand between two of them."""
    return shown(text, encoding).replace(" ", "\\x20")


def message(text: str) -> str:
    """Make one line of a message, without the passwords of URLs, and cut it at 300 characters."""
    # Whoever builds a message leaves passwords out; this is for a URL in the wrong place.
    secret = _PASSWORD.sub("***", _USER.sub("***@", " ".join(text.split())))
    return one_line(secret)


def json_text(value: object, encoding: str = "utf-8") -> str:
    """Write a value as JSON, with the escapes of JSON for what `shown` would escape."""
    text = json.dumps(value, ensure_ascii=False, indent=2)
    return "\n".join(_escaped(line, encoding) for line in text.split("\n"))


def _escaped(line: str, encoding: str) -> str:
    if line.isascii() and line.isprintable():
        return line
    return "".join(
        each if each.isprintable() and each.encode(encoding, "ignore") else json.dumps(each)[1:-1]
        for each in line
    )
