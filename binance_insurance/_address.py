"""The URL of a budget or a history, taken apart."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Never, TypeVar
from urllib.parse import parse_qsl, unquote, unquote_plus, urlsplit

import msgspec
from msgspec import Struct

from ._text import one_line, without_password

if TYPE_CHECKING:
    from collections.abc import Collection

T = TypeVar("T", bound=Struct)

_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


class Address(Struct, frozen=True):
    """A URL and its parts.

    Attributes:
        kind: what it is the URL of: "budget" or "history".
        url: as it was given; it may have a password.
        scheme: in lower case.
        host: all that stands between `//` and the path.
        path: decoded, with the slash that it begins with.
        options: the query, decoded.
    """

    kind: str
    url: str
    scheme: str
    host: str
    path: str
    options: dict[str, str]

    def __str__(self) -> str:
        """Return the URL on one line and without passwords."""
        return one_line(without_password(self.url))

    def __repr__(self) -> str:
        return f"Address({str(self)!r})"

    def check_names(self, known: Collection[str]) -> None:
        """Refuse options that are not known.

        Raises:
            ValueError: names the first of them.
        """
        for name in self.options:
            if name not in known:
                self.refuse(name, f"is not one of this {self.kind}")

    def convert(self, kind: type[T]) -> T:
        """Return the options that `kind` has as a struct of that type.

        Raises:
            ValueError: a value has the wrong type, and which.
        """
        mine = {
            name: value for name, value in self.options.items() if name in kind.__struct_fields__
        }
        try:
            return msgspec.convert(mine, kind, strict=False)
        except msgspec.ValidationError as error:
            name = str(error).rpartition("$.")[2].rstrip("`")
            self.refuse(name, "has a wrong value")

    def refuse(self, name: str, why: str) -> Never:
        """Raise the error for an option.

        Raises:
            ValueError: always. What may be a part of a password is not named.
        """
        shown = str(self)
        name = name if name in unquote_plus(shown) else "***"
        raise ValueError(f"the option {name!r} of {shown} {why}")

    def file(self) -> Path:
        """Return the path of a file, absolute, so that a process can change its directory.

        Raises:
            ValueError: it is none, or relative and its directory or the working one is missing.
        """
        name = self.path.removeprefix("/")
        if self.host or not name or "///" not in self.url:
            raise ValueError(f"a {self.kind} file is sqlite:///path, not {str(self)!r}")
        path = Path(name)
        if path.is_absolute():
            return path
        try:
            here = Path.cwd()
        except FileNotFoundError:
            raise ValueError(
                f"the directory in which this process works was removed, so {self} leads nowhere"
            ) from None
        if not path.parent.is_dir():
            # To make it would give each working directory a file of its own.
            meant = str(self).replace("///", "////", 1)
            raise ValueError(
                f"there is no directory {str(path.parent)!r} in {str(here)!r} for {self}; "
                f"an absolute path has one slash more: {meant}"
            )
        return here / path

    def without(self, names: Collection[str]) -> str:
        """Return the URL without some of its options."""
        before, _, query = self.url.partition("?")
        left = [
            each for each in query.split("&") if unquote_plus(each.partition("=")[0]) not in names
        ]
        return f"{before}?{'&'.join(left)}" if any(left) else before


def read_address(url: str, kind: str) -> Address:
    """Take a URL apart.

    Args:
        url: as it was given.
        kind: what it is the URL of.

    Raises:
        ValueError: it is none, or has an option twice or without a value.
    """
    shown = one_line(without_password(url))
    try:
        parts = urlsplit(url)
        port, query = parts.port, parse_qsl(parts.query, keep_blank_values=True, errors="strict")
        path = unquote(parts.path, errors="surrogateescape")  # as file names are in Python
    except ValueError:  # whose text may have a part of a password
        port, parts, path, query = 0, urlsplit(""), "", []
    if port == 0 or parts.fragment or _CONTROL.search(url) or "\0" in path:
        raise ValueError(
            f"{shown} is not a valid URL of a {kind}: its port must be a number, and special "
            "characters in a user name, password, path or option must be percent-encoded"
        )
    address = Address(kind, url, parts.scheme, parts.netloc, path, dict(query))
    for number, (name, value) in enumerate(query):
        if not value:
            address.refuse(name, "has no value")
        if name in dict(query[:number]):
            address.refuse(name, "is given twice")
    return address
