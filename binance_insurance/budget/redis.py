"""One budget for many hosts behind one IP. The redis library is imported with the first one."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .._runtime import Runtime
from .._text import one_line
from .exchange import DEFAULT_GROUP
from .fallback import Fallback
from .settings import Settings
from .shared import SharedBudget

if TYPE_CHECKING:
    from .store import Store


class RedisBudget(SharedBudget):
    """The weight budget that processes on many hosts behind one IP share through Redis.

    Args:
        url: such as `redis://host:6379/0` or `rediss://…`; Redis 6 or later, or Valkey. Options of
            redis-py may follow, such as `?health_check_interval=30`.
        limit: weight that the exchange grants the IP in one window.
        interval: seconds of a window, a whole number.
        reserve: weight in each window that is left to the other clients on the IP.
        group: names the egress IP, where processes on one server leave by several.
        share: the part of limit - reserve up to which each process goes on by itself while Redis
            is out of reach; it comes back by itself. None fails with `StoreError` instead.
        timeout: seconds after which Redis counts as out of reach.
        runtime: clocks and sleep, for tests.

    Raises:
        ValueError: unless 0 <= reserve < limit, interval is a whole number >= 1, and share is
            above 0 and at most 1; or the url is none, or an option of it is unknown or wrong.
        ModuleNotFoundError: the extra `redis` is not installed.

    Every decision is one atomic script, and one round trip unless another process decides in the
    same moment. Times are those of the Redis server, so the hosts' clocks do not matter. Keys
    begin with `binance-insurance:budget` and expire. Close it with `aclose()` or `async with`.
    """

    def __init__(
        self,
        url: str,
        limit: int = 2400,
        *,
        interval: float = 60.0,
        reserve: int = 480,
        group: str = DEFAULT_GROUP,
        share: float | None = 0.25,
        timeout: float = 1.0,
        runtime: Runtime = Runtime(),  # noqa: B008 - it is immutable
    ) -> None:
        settings = Settings(limit, interval, reserve)
        if not timeout > 0:
            raise ValueError(f"timeout must be above 0 seconds, not {timeout}")
        try:
            from .redis_server import Server
        except ModuleNotFoundError as error:
            if error.name is None or error.name.partition(".")[0] != "redis":
                raise
            raise ModuleNotFoundError(
                "RedisBudget needs redis: pip install 'binance-insurance[redis]'", name="redis"
            ) from error
        store: Store = Server(url, timeout, runtime)
        if share is not None:
            store = Fallback(store, settings, share, runtime.monotonic)
        super().__init__(settings, store, runtime, group)

    @property
    def _place(self) -> str:
        return f"{one_line(str(self._store), 100)!r}, "
