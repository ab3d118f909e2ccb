"""The store in Redis or Valkey: one script decides, and what is published wakes the others."""

from __future__ import annotations

import asyncio
import itertools
import re
from math import inf
from ssl import TLSVersion
from typing import TYPE_CHECKING, Protocol, cast
from uuid import uuid4

import redis.asyncio as aioredis
from msgspec.structs import replace
from redis.asyncio.connection import URL_QUERY_ARGUMENT_PARSERS
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff
from redis.exceptions import RedisError

from .._address import read_address
from .._forks import in_children, keep
from .._text import one_line, repeats
from ..errors import StoreError
from .boot import boot_id, slept
from .change import ClockBounds
from .change_script import CHANGE
from .ending import Ending
from .shared import is_ending

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from .._address import Address
    from .._runtime import Runtime
    from .change import Change, Written

_PREFIX = "binance-insurance:budget"
_DRIFT = 5e-4  # seconds per second by which two clocks may part until they are compared again
_WRITTEN, _RESERVED = 1, 2
_UNREACHABLE = (RedisError, OSError, TimeoutError)
_ARGUMENTS = "limit", "interval", "reserve", "group", "share", "timeout"
_PASSWORDS = "password", "ssl_password"
_TEXTS = "username", "client_name", "lib_name", "lib_version", "protocol"
_TLS = "ssl_keyfile", "ssl_certfile", "ssl_cert_reqs", "ssl_ca_certs", "ssl_ca_path", "ssl_ciphers"
# Besides these texts, what redis-py converts; the rest is set by the budget itself.
_OPTIONS = {*URL_QUERY_ARGUMENT_PARSERS, *_PASSWORDS, *_TEXTS, *_TLS, "ssl_ca_data"}
_OPTIONS.difference_update({"timeout", "retry_on_timeout"})

_PATIENCE = 0.05  # after so many seconds of lost races, a process reserves the next write
_LONGEST_RESERVATION = 0.25


class _Script(Protocol):
    def __call__(
        self, keys: list[str], args: list[bytes | str | int]
    ) -> Awaitable[list[int | bytes]]: ...


def _checked(url: str) -> Address:
    """Take a URL apart; refuse what redis-py would ignore, or fail with at its first connection."""
    address = read_address(url, "budget")
    number = address.scheme in {"redis", "rediss"} and re.fullmatch(r"/?\d*", address.path)
    if not number and address.scheme != "unix":
        raise ValueError(f"a budget's Redis is redis://host:6379/0 or unix:///path, not {address}")
    for name in [each for each in _ARGUMENTS if each in address.options]:
        address.refuse(name, "is an argument of RedisBudget; create_budget reads it from a URL")
    address.check_names(_OPTIONS)
    try:
        pool = aioredis.ConnectionPool.from_url(url)  # pyright: ignore[reportUnknownMemberType]
        pool.connection_class(**pool.connection_kwargs)
        TLSVersion(int(address.options.get("ssl_min_version", TLSVersion.TLSv1_2)))
    except TypeError as error:
        address.refuse(str(error).rpartition("argument ")[2].strip("'"), "is not one of its scheme")
    except (ValueError, RedisError) as error:
        raise ValueError(f"{one_line(str(error).rstrip('.'))}: {address}") from None
    return address


class _Client:
    """redis-py in one event loop, which closes its connections when it ends."""

    def __init__(self, url: str, timeout: float) -> None:
        self.redis: aioredis.Redis = aioredis.Redis.from_url(  # pyright: ignore[reportUnknownMemberType]
            url,
            socket_timeout=timeout,
            socket_connect_timeout=timeout,
            # The next change finds out what a lost answer did, so redis-py must not ask again.
            retry=Retry(NoBackoff(), 0),
        )
        found = self.redis.connection_pool.connection_kwargs
        self.secrets = {str(found[name]) for name in _PASSWORDS if found.get(name)}
        self.script = cast("_Script", self.redis.register_script(CHANGE))
        self.listening: asyncio.Task[None] | None = None
        self.ending = Ending(self.redis.aclose)

    async def begin(self) -> None:
        """Belong to the loop that runs."""
        if not self.ending.begun:
            in_children(self, keep)
            await self.ending.begin()

    def deafen(self) -> None:
        """Listen no more."""
        if self.listening is not None:
            self.listening.cancel()
            self.listening = None

    def leave(self) -> None:
        """Touch nothing more of the loop, which has ended."""
        if self.ending.begun and not self.ending.came:
            keep(self)  # that loop ended without closing anything


class Server:
    """A server, and one value in it."""

    polling = inf
    apart = False
    least_reserve = 0
    look_at = inf

    def __init__(self, url: str, timeout: float, runtime: Runtime) -> None:
        self._key = ""
        self._monotonic = runtime.monotonic
        self._address = _checked(url)
        self._make_client: Callable[[], _Client] = lambda: _Client(url, timeout)
        self._client = self._make_client()
        self._me = ""  # made with the first change, for a process that is forked until then
        self._versions = (f"{self._me}:{number}" for number in itertools.count(1))
        self._sleep = runtime.sleep
        self._round_trip = 0.0
        self._version = ""
        self._value: bytes | None = None
        self._bounds = ClockBounds(0.0, 0.0)
        self._read_at = -inf

    def __str__(self) -> str:
        return str(self._address)

    async def change(self, change: Change) -> None:
        """Apply a change to the value, as `Store.change`."""
        client = self._client
        if client.ending.came and not change.wanted:
            raise asyncio.CancelledError  # the loop is about to end: the next one does it
        self._go_to(f"{_PREFIX}:{{{change.place}}}")
        await client.begin()
        try:
            with client.ending.used():
                await self._change(change)
        except _UNREACHABLE as error:
            self._read_at = -inf  # whether the last change was made is not known
            if _is_cancelled():
                raise asyncio.CancelledError from error  # which redis-py took for a timeout
            # What a server says can repeat a password that was sent to it.
            cause = None if repeats(error, client.secrets) else error
            raise StoreError(self._outage(error)) from cause

    def _outage(self, error: Exception) -> str:
        reason = " ".join(str(error).split()) or "no answer"
        for secret in self._client.secrets:
            reason = reason.replace(secret, "***")
        reason = one_line(reason.rstrip("."))  # more may follow in the same line
        return f"the budget's Redis is out of reach ({self}): {reason}"

    async def _change(self, change: Change) -> None:
        began, newest = self._monotonic(), self._read_at == -inf
        if newest:
            await self._run()
        while True:
            now = self._monotonic()
            written = change(self._value, now, self._bounds_at(now))
            if written is not None:
                newest = True
                patient = self._monotonic() - began <= _PATIENCE
                if await self._run(written, reserve=not patient):
                    return
            elif newest:
                return
            else:  # what is known here may be old
                await self._run()
                newest = True

    def restart(self) -> None:
        """Leave an event loop that has ended."""
        self._client.leave()
        self._client = self._make_client()
        self._read_at = -inf  # whether the last change was made is not known

    def watch(self, wake: Callable[[], None]) -> None:
        """Listen for the other processes."""
        client = self._client
        if client.ending.came or not (client.listening is None or client.listening.done()):
            return
        if not is_ending():
            client.listening = asyncio.get_running_loop().create_task(self._listen(wake))

    async def aclose(self) -> None:
        """Close the connections."""
        if self._client.ending.begun:
            await self._client.ending.aclose()

    def _go_to(self, key: str) -> None:
        """Know nothing of the value at a key that is another one than before."""
        self._me = self._me or uuid4().hex
        if key != self._key:
            self._key, self._version = key, ""
            self._value, self._read_at = None, -inf
            self._client.deafen()

    async def _run(self, written: Written | None = None, *, reserve: bool = False) -> bool:
        """Run the script; return whether it wrote. If not, the newest value is known after it."""
        version, value, lifetime, wake = "", b"", 0, 0
        if written is not None:
            version, value = next(self._versions), written.value
            lifetime, wake = int(written.lifetime * 1000), int(written.wake)
        reservation = 0.0
        if reserve:
            reservation = min(_LONGEST_RESERVATION, 2.0 * self._round_trip + 0.005)
        sent = self._monotonic()
        reply = await self._client.script(
            keys=[self._key],
            args=[self._version, version, value, lifetime, wake, self._me, int(reservation * 1000)],
        )
        received = self._monotonic()
        self._round_trip = received - sent
        time = int(reply[1]) + int(reply[2]) / 1e6
        self._bounds = ClockBounds(time - received, time - sent, boot_id(), slept(self._monotonic))
        self._read_at = received
        if reply[0] == _WRITTEN:
            self._version, self._value = version, value
            return True
        if reply[0] == _RESERVED:
            await self._sleep(int(reply[3]) / 1000)
            return False
        newest, state = reply[3:]
        if isinstance(newest, bytes) and isinstance(state, bytes):
            self._version, self._value = newest.decode(), state or None
        return False

    def _bounds_at(self, now: float) -> ClockBounds:
        drift = _DRIFT * (now - self._read_at)
        bounds = self._bounds
        return replace(bounds, low=bounds.low - drift, high=bounds.high + drift)

    async def _listen(self, wake: Callable[[], None]) -> None:
        """Pass on what others publish, until the connection breaks."""
        client = self._client
        try:
            with client.ending.used():
                async with client.redis.pubsub() as channel:  # pyright: ignore[reportUnknownMemberType]
                    await channel.subscribe(self._key)
                    if _is_cancelled():
                        return  # on Python 3.11, a command that was just sent swallows that
                    while True:
                        await channel.get_message(timeout=None)  # pyright: ignore[reportUnknownMemberType]
                        wake()
        except _UNREACHABLE:
            return  # the next change meets the same trouble, and says so


def _is_cancelled() -> bool:
    """Whether the current task was asked to end, even if something swallowed that."""
    task = asyncio.current_task()
    return task is not None and task.cancelling() > 0
