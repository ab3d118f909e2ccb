"""A budget from a URL, for configuration."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct
from msgspec.structs import replace

from .._address import read_address
from .exchange import DEFAULT_GROUP
from .local import LocalBudget

if TYPE_CHECKING:
    from .._address import Address
    from .spending import Budget


class _Options(Struct, frozen=True):
    """What a budget's URL can say, and what holds where nobody says it."""

    limit: int = 2400
    interval: float = 60.0
    reserve: int = 480


class _SharedOptions(_Options, frozen=True):
    group: str = DEFAULT_GROUP


class _RedisOptions(_SharedOptions, frozen=True):
    share: float | None = 0.25
    timeout: float = 1.0


_T = TypeVar("_T", bound=_Options)


def create_budget(
    url: str,
    limit: int | None = None,
    *,
    interval: float | None = None,
    reserve: int | None = None,
    group: str | None = None,
) -> Budget:
    """Make the budget that a URL names.

    Args:
        url: `memory://` for this process alone; `sqlite:///relative/path` or
            `sqlite:////absolute/path` for the processes of one user on one host;
            `redis://host:6379/0`, `rediss://…` or `unix://…` for many users, or hosts behind one IP
            (extra `redis`). Options follow a `?`, such as `?limit=2400&reserve=480`: `limit`,
            `interval`, `reserve`; but for `memory://` also `group`; for Redis also `share`
            (`null`: none), `timeout`, and options of redis-py, which are passed on.
            A relative path makes no directories, an absolute one does.
        limit: weight that the exchange grants the IP in one window; by default the URL's, else
            2,400.
        interval: seconds of a window, a whole number; by default the URL's, else 60.
        reserve: weight in each window that is left to the other clients on the IP; by default the
            URL's, else 480.
        group: names the egress IP, where processes that share a place leave by several. Budgets of
            different exchanges never meet, whatever their group. By default the URL's, else one for
            all. `memory://` needs none.

    Raises:
        ValueError: invalid URL or number; an option of the URL that this budget cannot have or with
            a wrong value; the directory of a relative path is missing. It names what is wrong, and
            no password.
        ModuleNotFoundError: the extra for this URL is not installed.
    """
    address = read_address(url, "budget")
    given: dict[str, float | str | None]
    given = {"limit": limit, "interval": interval, "reserve": reserve}
    if address.scheme == "memory":
        address.check_names(_Options.__struct_fields__)
        local = _merged(address, _Options, given)
        return LocalBudget(local.limit, interval=local.interval, reserve=local.reserve)
    given["group"] = group
    if address.scheme == "sqlite":
        return _sqlite(address, given)
    if address.scheme in {"redis", "rediss", "unix"}:
        return _redis(address, given)
    raise ValueError(f"a budget is memory://, sqlite:///path or redis://host, not {str(address)!r}")


def _merged(address: Address, kind: type[_T], given: dict[str, float | str | None]) -> _T:
    """Return the URL's options, replaced by the keyword arguments that were given."""
    named = {name: value for name, value in given.items() if value is not None}
    return replace(address.convert(kind), **named)


def _sqlite(address: Address, given: dict[str, float | str | None]) -> Budget:
    from .sqlite import SqliteBudget

    address.check_names(_SharedOptions.__struct_fields__)
    options = _merged(address, _SharedOptions, given)
    return SqliteBudget(
        address.file(),
        options.limit,
        interval=options.interval,
        reserve=options.reserve,
        group=options.group,
    )


def _redis(address: Address, given: dict[str, float | str | None]) -> Budget:
    from . import RedisBudget

    options = _merged(address, _RedisOptions, given)
    return RedisBudget(
        address.without(_RedisOptions.__struct_fields__),
        options.limit,
        interval=options.interval,
        reserve=options.reserve,
        group=options.group,
        share=options.share,
        timeout=options.timeout,
    )
