"""How the exchange counts one IP: windows, weight, refusals, bans. Pure: the caller gives the time.

Rules (from the exchange's documentation and third-party measurements): the weight of all clients
on the IP is added up in windows of the exchange's UTC clock. Every request counts, refused ones
too. A request beyond the limit gets a 429. An IP that goes on after 429s is banned (418), longer
each time, from 2 minutes up to 3 days.
"""

from __future__ import annotations

from collections import Counter, deque
from typing import Self

from msgspec import Struct

_LONGEST_BAN = 3 * 86_400.0
_REMEMBERED = 100_000
_OK, _REFUSED, _BANNED = 200, 429, 418
_UNITS = {1: "SECOND", 60: "MINUTE", 3_600: "HOUR", 86_400: "DAY"}


class SeenRequest(Struct, frozen=True):
    """One request as the exchange saw it.

    Attributes:
        at: seconds since 1970 by the exchange's clock.
        endpoint: the last part of the path.
        symbol: the query parameter as it was sent, or None.
        weight: the weight that it was charged.
        verdict: 200 if it was allowed (whatever the answer was then), 429 or 418.
        used_weight: used weight of the IP, this request included.
        method: the HTTP method.
    """

    at: float
    endpoint: str
    symbol: str | None
    weight: int
    verdict: int
    used_weight: int
    method: str = "GET"


def _check_whole(rule: str, value: object, least: int) -> None:
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{rule}, at least {least}, not {value!r}")


class Interval(Struct, frozen=True):
    """The length of a window in the exchange's words: a number of units."""

    number: int
    unit: str

    @classmethod
    def of(cls, seconds: int) -> Self:
        """Say a whole number of seconds in the largest unit that fits."""
        _check_whole("interval is a whole number of seconds", seconds, 1)
        size = max(unit for unit in _UNITS if seconds % unit == 0)
        return cls(seconds // size, _UNITS[size])

    @property
    def weight_header(self) -> str:
        """The header that reports the used weight."""
        return f"X-MBX-USED-WEIGHT-{self.number}{self.unit[0]}"

    def rate_limit(self, limit: int) -> dict[str, object]:
        """Return the limit as `exchangeInfo` lists it."""
        return {
            "rateLimitType": "REQUEST_WEIGHT",
            "interval": self.unit,
            "intervalNum": self.number,
            "limit": limit,
        }


class Accounting:
    """Counts the weight, refusals and bans of one IP, on the exchange's clock.

    Args:
        limit: weight granted in one window.
        interval: seconds of a window.
        ban_seconds: length of the first ban; it doubles with each further one.
        tolerated_refusals: 429s in one window after which the next request brings a ban.
        other_weight_per_second: what other clients on the IP spend, evenly.
    """

    def __init__(
        self,
        limit: int,
        *,
        interval: int,
        ban_seconds: float,
        tolerated_refusals: int,
        other_weight_per_second: float,
    ) -> None:
        self.limit = limit
        self.interval = interval
        self.ban_seconds = ban_seconds
        self.tolerated_refusals = tolerated_refusals
        self.other_weight_per_second = other_weight_per_second
        self.banned_until: float = 0.0
        self.seen: deque[SeenRequest] = deque(maxlen=_REMEMBERED)
        self.verdicts: Counter[int] = Counter()
        self.weight: int = 0
        self._bans = 0
        self._window = -1
        self._counted = 0
        self._refusals = 0

    def used_weight(self, now: float) -> int:
        """Return the used weight of the window at `now`: all clients on the IP together."""
        window = int(now // self.interval)
        if window != self._window:
            self._window, self._counted, self._refusals = window, 0, 0
        passed = now - window * self.interval
        return self._counted + int(passed * self.other_weight_per_second)

    def resets_at(self, now: float) -> float:
        """Return when the next window begins."""
        return (now // self.interval + 1) * self.interval

    def spend_elsewhere(self, weight: int, now: float) -> None:
        """Count weight that another client on the same IP has spent."""
        _check_whole("weight is a whole number", weight, 0)
        self.used_weight(now)
        self._counted += weight

    def request(
        self, endpoint: str, symbol: str | None, weight: int, now: float, method: str = "GET"
    ) -> SeenRequest:
        """Count a request and decide: 200, 429 or 418."""
        used = self.used_weight(now)
        if now < self.banned_until:
            verdict = _BANNED
        else:
            self._counted += weight
            used += weight
            verdict = _OK if used <= self.limit else self._refuse(now)
        seen = SeenRequest(now, endpoint, symbol, weight, verdict, used, method)
        self.seen.append(seen)
        self.verdicts[verdict] += 1
        self.weight += weight
        return seen

    def _refuse(self, now: float) -> int:
        self._refusals += 1
        if self._refusals <= self.tolerated_refusals:
            return _REFUSED
        self.banned_until = now + min(_LONGEST_BAN, self.ban_seconds * 2**self._bans)
        self._bans += 1
        self._refusals = 0
        return _BANNED
