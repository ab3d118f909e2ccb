"""Scenarios: the pools that the local exchange serves."""

from __future__ import annotations

from abc import ABC, abstractmethod
from decimal import Decimal
from importlib.resources import files
from random import Random
from typing import TYPE_CHECKING

import msgspec

from ..models import AssetBalance, InsurancePool
from ._faults import Fault

if TYPE_CHECKING:
    from collections.abc import Iterable

_CENTS = Decimal("0.00000001")
_CHINESE = ("币安人生", "龙马", "我踏马来了", "哈基米", "客服小何")
_DELIVERIES = ("261225", "270326")
_LETTERS = "ABCDEFGHIJKLMNOPRSTUVWXYZ"
_MAJORS = ("BTC", "ETH", "BNB")
_HOURS = 24
# What each of six pools covers from an hour of the day on; one that covers nothing is not there.
_GROUPINGS = (
    (0, "BTC ETH BNB", "SOL XRP ADA DOGE", "LINK AVAX DOT", "OM", "TRX LTC", ""),
    (3, "BTC ETH BNB", "SOL XRP ADA", "LINK AVAX DOT DOGE", "OM", "TRX LTC", ""),  # a move
    (6, "BTC ETH BNB", "SOL XRP ADA", "LINK AVAX DOT DOGE", "OM HYPE", "TRX LTC", ""),  # a listing
    (9, "BTC ETH BNB", "SOL XRP ADA", "LINK AVAX DOT DOGE", "OM HYPE", "TRX", "LTC"),  # a split
    (13, "BTC ETH BNB XRP", "SOL ADA", "LINK AVAX DOT DOGE", "OM HYPE", "TRX", "LTC"),  # unseen
    (16, "BTC ETH BNB XRP", "SOL ADA", "LINK AVAX DOT DOGE", "OM", "TRX", "LTC"),  # a delisting
    (18, "BTC ETH BNB XRP", "SOL ADA", "LINK AVAX DOT DOGE", "OM LTC", "TRX", ""),  # a merger
    (21, "BTC ETH BNB", "SOL XRP ADA DOGE", "LINK AVAX DOT", "OM", "TRX LTC", ""),  # as before
)
_OUTAGE = range(12, 14)  # hours
_UPDATE_HOURS = 4


class Scenario(ABC):
    """The pools of an exchange over time."""

    @abstractmethod
    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools at a time, in seconds since 1970 by the exchange's clock."""

    def fault(self, at: float) -> Fault | None:
        """Return how the exchange fails at a time; None, which is the default: it does not.

        A fault that the sandbox was given goes first.
        """
        return None


class Fixed(Scenario):
    """Pools that do not change.

    Args:
        pools: in the exchange's order.

    Raises:
        TypeError: one of them is no pool.
    """

    def __init__(self, pools: Iterable[InsurancePool]) -> None:
        self._pools = tuple(pools)
        for pool in self._pools:
            if not isinstance(pool, InsurancePool):  # pyright: ignore[reportUnnecessaryIsInstance]
                raise TypeError(f"a pool is an InsurancePool, not {type(pool).__name__}")

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools; the same object each time."""
        return self._pools


class Documented(Fixed):
    """Exactly the pools that the exchange's documentation shows. They do not change."""

    def __init__(self) -> None:
        folder = files("binance_insurance.sandbox") / "documented"
        one = msgspec.json.decode((folder / "pool.json").read_bytes(), type=InsurancePool)
        several = msgspec.json.decode(
            (folder / "pools.json").read_bytes(), type=tuple[InsurancePool, ...]
        )
        super().__init__((one, *several))


class Market(Scenario):
    """A generated exchange: about 900 symbols in 60 pools, with balances that change.

    Args:
        seed: the same seed gives the same exchange at the same times.
        move_every: seconds between two changes of the balances.

    Some symbols are Chinese, some are delivery contracts. One pool holds several assets, one has
    a negative balance and one a balance of zero.
    """

    def __init__(self, seed: int = 0, *, move_every: float = 60.0) -> None:
        self._seed = seed
        self._move_every = move_every
        chance = Random(seed)  # noqa: S311 - a generated market, not a secret
        bases: set[str] = set(_CHINESE)
        while len(bases) < 850:
            name = "".join(chance.choices(_LETTERS, k=chance.randint(2, 7)))
            bases.add(chance.choice(("", "", "", "", "1000")) + name)
        others = sorted(bases - set(_MAJORS))
        chance.shuffle(others)
        first = [f"{base}{quote}" for base in _MAJORS for quote in ("USDT", "USDC")]
        first += [f"{base}USDT_{day}" for base in _MAJORS for day in _DELIVERIES]
        self._groups = [[*first, "ETHBTC"]]
        # A few pools cover many symbols, most cover a few, some cover only one.
        sizes = [180, 120, 90, 70, 50, 40, 30, 25, 20, 15] + [1] * 15
        spread = len(others) - sum(sizes)
        sizes += [spread // 34] * 33
        sizes.append(len(others) - sum(sizes))
        rest = iter(others)
        for size in sizes:
            group = [f"{next(rest)}USDT" for _ in range(size)]
            if size > 60:
                group += [f"{name[:-4]}USDC" for name in group[:8]]
                group += [f"{name}_{day}" for name in group[:2] for day in _DELIVERIES]
            self._groups.append(sorted(group))
        self._bases = [
            {"USDT": Decimal(f"{10 ** chance.uniform(5.5, 8.5):.8f}")} for _ in self._groups
        ]
        self._bases[0] |= {
            "USDC": Decimal("299999998.6497832"),
            "BTC": Decimal("61.73143554"),
            "BNFCR": Decimal("633223.99396922"),
        }
        self._bases[-1]["USDT"] = Decimal("0E-8")
        self._bases[-2]["USDT"] = Decimal("-1250.12345678")
        self._step = -1
        self._pools: tuple[InsurancePool, ...] = ()

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools at a time; the same object while no balance has changed."""
        step = int(at // self._move_every)
        if step != self._step:
            updated = int(step * self._move_every * 1000)
            self._pools = tuple(
                InsurancePool(
                    tuple(group),
                    tuple(
                        AssetBalance(asset, self._moved(base, number, asset, step), updated)
                        for asset, base in bases.items()
                    ),
                )
                for number, (group, bases) in enumerate(zip(self._groups, self._bases, strict=True))
            )
            self._step = step
        return self._pools

    def _moved(self, base: Decimal, pool: int, asset: str, step: int) -> Decimal:
        chance = Random(f"{self._seed}/{pool}/{asset}/{step}")  # noqa: S311
        return (base * Decimal(chance.uniform(0.98, 1.02))).quantize(_CENTS)


class Regrouping(Scenario):
    """A day of an exchange in a minute: pools are updated, regrouped, listed, delisted, not there.

    Args:
        seed: the same seed gives the same exchange at the same times.
        day: seconds of a day. Days begin at multiples of it since 1970 by the exchange's clock.

    Each pool is updated every fourth hour. A symbol takes its part of the balance with it. At 3
    o'clock a symbol moves, at 6 one is listed, at 9 a pool is split, at 12 the exchange answers 503
    for two hours, in which another symbol moves, at 16 the listed one is delisted, at 18 two pools
    are merged, and at 21 all is grouped as at first.
    """

    def __init__(self, seed: int = 0, *, day: float = 60.0) -> None:
        self._seed = seed
        self._hour = day / _HOURS
        self._now = -1
        self._pools: tuple[InsurancePool, ...] = ()

    def pools(self, at: float) -> tuple[InsurancePool, ...]:
        """Return the pools at a time; the same object for an hour."""
        now = int(at // self._hour)
        if now != self._now:
            midnight = now - now % _HOURS
            began, *groups = next(each for each in reversed(_GROUPINGS) if each[0] <= now % _HOURS)
            self._pools = tuple(
                self._pool(group.split(), number, now, midnight + began)
                for number, group in enumerate(groups)
                if group
            )
            self._now = now
        return self._pools

    def fault(self, at: float) -> Fault | None:
        """Return a 503 from 12 to 14 o'clock."""
        if int(at // self._hour) % _HOURS in _OUTAGE:
            return Fault.of_status(503, b"Service Unavailable.", counted=False)
        return None

    def _pool(self, bases: list[str], number: int, now: int, grouped: int) -> InsurancePool:
        updated = now - (now - number) % _UPDATE_HOURS
        time = int(max(updated, grouped) * self._hour * 1000)
        change = Decimal(Random(f"{self._seed}/{number}/{updated}").uniform(0.9, 1.05))  # noqa: S311
        total = sum(map(self._part, bases), Decimal(0))
        assets = [AssetBalance("USDT", (total * change).quantize(_CENTS), time)]
        if number == 0:
            assets.append(AssetBalance("BTC", Decimal("61.73143554"), time))
        return InsurancePool(tuple(f"{base}USDT" for base in bases), tuple(assets))

    def _part(self, base: str) -> Decimal:
        """Return what a pool holds for a symbol, in USDT, before changes."""
        return Decimal(10 ** Random(f"{self._seed}/{base}").uniform(5.5, 8.0))  # noqa: S311


_SCENARIOS: dict[str, type[Scenario]] = {
    "documented": Documented,
    "market": Market,
    "regrouping": Regrouping,
}


def scenario_of(given: str | Scenario | Iterable[InsurancePool]) -> Scenario:
    """Return the scenario of a name or of some pools; one that is given is returned as it is.

    Raises:
        ValueError: no scenario has that name.
        TypeError: what is given holds something else than pools.
    """
    if isinstance(given, Scenario):
        return given
    if not isinstance(given, str):
        return Fixed(given)
    if given not in _SCENARIOS:
        raise ValueError(f"scenario must be one of {list(_SCENARIOS)}, not {given!r}")
    return _SCENARIOS[given]()
