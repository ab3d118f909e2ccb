"""A budget from a URL, for configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from .exchange import DEFAULT_GROUP
from .local import LocalBudget

if TYPE_CHECKING:
    from .protocol import WeightBudget


def create_budget(
    url: str,
    limit: int = 2400,
    *,
    interval: float = 60.0,
    reserve: int = 480,
    group: str = DEFAULT_GROUP,
) -> WeightBudget:
    """Make the budget that a URL names.

    Args:
        url: `memory://` for this process alone; `sqlite:///relative/path` or
            `sqlite:////absolute/path` for the processes of one host; `redis://host:6379/0`,
            `rediss://…` or `unix://…` for many hosts behind one IP (extra `redis`).
        limit: weight that the exchange grants the IP in one window.
        interval: seconds of a window, a whole number.
        reserve: weight in each window that is left to the other clients on the IP.
        group: names the egress IP, where processes that share a place leave by several. Budgets of
            different exchanges never meet, whatever their group.

    Raises:
        ValueError: invalid URL or number.
        ModuleNotFoundError: the extra for this URL is not installed.
    """
    parts = urlsplit(url)
    if parts.scheme == "memory":
        return LocalBudget(limit, interval=interval, reserve=reserve)
    if parts.scheme == "sqlite":
        path = unquote(parts.path).removeprefix("/")
        if parts.netloc or not path:
            raise ValueError(f"a budget file is sqlite:///path, not {url!r}")
        from .sqlite import SqliteBudget

        return SqliteBudget(path, limit, interval=interval, reserve=reserve, group=group)
    if parts.scheme in {"redis", "rediss", "unix"}:
        from . import RedisBudget

        return RedisBudget(url, limit, interval=interval, reserve=reserve, group=group)
    raise ValueError(f"a budget is memory://, sqlite:///path or redis://host, not {url!r}")
