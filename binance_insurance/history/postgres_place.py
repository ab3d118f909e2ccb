"""Where a history in PostgreSQL is, read from its URL. Pure."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote, unquote, urlencode

from msgspec import Struct

from .._text import one_line

if TYPE_CHECKING:
    from .._address import Address

_HOST = re.compile(r"(\[[^\],]*\]|[^:,]*)(?::(\d*))?")
_SSL_MODES = "disable", "allow", "prefer", "require", "verify-ca", "verify-full"
_TLS_VERSIONS = "TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"
_TLS_FILES = "sslcert", "sslkey", "sslrootcert", "sslcrl"
_SECRETS = "password", "sslpassword"
_FILES = *_TLS_FILES, "passfile"
_TLS: dict[str, tuple[str, ...]] = {  # options of TLS, with the values that they can have
    **dict.fromkeys((*_TLS_FILES, "sslpassword"), ()),
    "sslmode": _SSL_MODES,
    "ssl_min_protocol_version": _TLS_VERSIONS,
    "ssl_max_protocol_version": _TLS_VERSIONS,
}
_OPTIONS = "host", "port", "user", "password", "passfile", "application_name", *_TLS


class Place(Struct, frozen=True):
    """Where a history is, and how to get there.

    Attributes:
        host: a name, an address or the directory of a socket; None: the usual ones.
        port: None: the usual one.
        user: None: the one of this process.
        password: None: from the environment or a file of passwords.
        database: its name.
        application: how the server names its sessions; None: as this package.
        tls: a URL with the options of TLS, and nothing else.
        passfile: a file of passwords.
        files: that must be there.
        secrets: what no message shows.
    """

    host: str | None
    port: int | None
    user: str | None
    password: str | None
    database: str
    application: str | None
    tls: str
    passfile: str | None
    files: tuple[str, ...]
    secrets: tuple[str, ...]

    def __repr__(self) -> str:
        return f"Place({str(self)!r})"

    def __str__(self) -> str:
        """Return how messages name it."""
        return one_line(f"PostgreSQL at {self.host or 'localhost'}, database {self.database}")


def find_place(address: Address) -> Place:
    """Read a URL.

    Raises:
        ValueError: a part is missing or wrong, or an option is not known.
    """
    address.check_names(_OPTIONS)
    options = address.options
    for name, known in _TLS.items():
        if known and options.get(name, known[0]) not in known:
            address.refuse(name, f"is none of {', '.join(known)}")
    if not re.fullmatch(r"\d{1,5}", port := options.get("port", "1")) or not 0 < int(port) < 65536:
        address.refuse("port", "must be a number from 1 to 65535")
    login, _, server = address.host.rpartition("@")
    found = _HOST.fullmatch(server)
    database = address.path.removeprefix("/")
    if found is None or not database or "/" in database:
        raise ValueError(
            f"a history in PostgreSQL is postgresql://user@host/database, not {str(address)!r}"
        )
    user, _, password = map(unquote, login.partition(":"))
    number = found[2] or options.get("port")
    tls = {name: value for name, value in options.items() if name in _TLS}
    return Place(
        host=unquote(found[1].strip("[]")) or options.get("host"),
        port=int(number) if number else None,
        user=user or options.get("user"),
        password=password or options.get("password"),
        database=database,
        application=options.get("application_name"),
        tls=f"postgresql:///?{urlencode(tls, quote_via=quote)}" if tls else "postgresql://",
        passfile=options.get("passfile"),
        secrets=tuple(each for each in (password, *map(options.get, _SECRETS)) if each),
        files=tuple(options[name] for name in _FILES if name in options),
    )
