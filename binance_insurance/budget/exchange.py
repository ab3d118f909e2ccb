"""Which exchange a budget serves: the origin of a base URL. Pure."""

from __future__ import annotations

from urllib.parse import urlsplit

from .._text import one_line, without_password

DEFAULT_EXCHANGE = "https://fapi.binance.com"
DEFAULT_GROUP = "default"  # of processes that all leave by one IP
_DEFAULT_PORTS = {"http": 80, "https": 443}
# Two names of the demo exchange, which has one used-weight counter.
_OTHER_NAMES = {"https://testnet.binancefuture.com": "https://demo-fapi.binance.com"}


def exchange_of(base_url: str) -> str:
    """Return scheme, host and port of a base URL; user, path and a default port do not count.

    Raises:
        ValueError: it has no scheme or host.
    """
    try:
        parts = urlsplit(base_url)
        given = parts.port
    except ValueError:  # whose text may have a part of a password
        parts, given = urlsplit(""), None
    if not parts.scheme or not parts.hostname:
        shown = one_line(without_password(base_url))
        raise ValueError(f"base_url must be a URL with scheme and host, not {shown!r}")
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    port = "" if given in {None, _DEFAULT_PORTS.get(parts.scheme)} else f":{given}"
    exchange = f"{parts.scheme}://{host}{port}"
    return _OTHER_NAMES.get(exchange, exchange)


def agreed_exchange(served: str | None, base_url: str) -> str:
    """Return the exchange of a base URL, for a budget that serves one, or None yet.

    Raises:
        ValueError: the budget serves another, or base_url is no URL.
    """
    exchange = exchange_of(base_url)
    if served not in {None, exchange}:
        raise ValueError(
            f"this budget serves {served}, not {exchange}; "
            "one budget serves one exchange, so make another"
        )
    return exchange
