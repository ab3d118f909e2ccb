"""The exchange of a world: a script of what its pools hold, second by second.

What it shows is a function of the whole second.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Context, Decimal
from random import Random
from typing import NamedTuple

from msgspec import Struct

from binance_insurance import AssetBalance, InsurancePool

NAMES = (
    *("BTCUSDT", "ETHUSDT", "BNBUSDT", "ADAUSDT", "SOLUSDT", "XRPUSDT", "DOGEUSDT", "LINKUSDT"),
    *("BTCUSDT_250627", "币安人生USDT", "我踏马来了USDT", "1000PEPEUSDT", "ATOMUSDT", "BTCUSDC"),
    *("ETHUSDC", "TRXUSDT", "LTCUSDT", "龙虾USDT", "AVAXUSDT", "DOTUSDT"),
)
ASSETS = ("USDT", "USDC", "BTC", "BNFCR")
_UNITS = tuple(
    Decimal(text)
    for text in (
        *("1", "0.01", "12.5", "1E+2", "1E-30", "-3"),
        "123456789012345678901234567890.123456789012345678",
    )
)
_EXACT = Context(prec=400)
START = 1_790_000_040


class Held(NamedTuple):
    """What a pool holds of an asset."""

    update_time: int
    balance: Decimal


class Pool(Struct):
    """A pool of the exchange, as it is now."""

    symbols: list[str]
    held: dict[str, Held]


class Manner(Struct, frozen=True):
    """What the exchange of a world is like."""

    pace: int  # seconds; what happens does so at multiples of a quarter of it, mostly
    events: int
    symbols: int
    pools: int
    assets: tuple[str, ...]
    units: dict[str, Decimal]
    lowest: int  # the least balance, in units
    lag: int  # seconds from an update to its publication, at most
    ahead: int  # seconds that an update time may be later than its publication, at most
    all_at_once: bool  # all pools are updated at one time
    restless: float  # share of events that change which symbols are in which pools


class State(NamedTuple):
    """What the exchange shows from a second on."""

    second: int
    pools: tuple[InsurancePool, ...]


class Transfer(NamedTuple):
    """Money that follows its symbols at the next update."""

    origin: Pool
    target: Pool
    asset: str
    units: int


def draw_manner(chance: Random, pace: int) -> Manner:
    assets = tuple(chance.sample(ASSETS, chance.choice([1, 1, 2, 2, 3])))
    units = {asset: chance.choice(_UNITS) for asset in assets}
    return Manner(
        pace=pace,
        events=chance.randint(8, 30),
        symbols=chance.randint(4, 15),
        pools=chance.randint(1, 5),
        assets=assets,
        units=units,
        lowest=chance.choice([0, 1, 1, -6]),
        lag=chance.choice([0, 0, pace // 3, 3 * pace]),
        ahead=chance.choice([0, 0, 0, 2, 2 * pace]),
        all_at_once=chance.random() < 0.5,
        restless=chance.choice([0.1, 0.3, 0.6]),
    )


class Exchange:
    """Pools whose symbols and balances change, for no reason."""

    def __init__(self, chance: Random, manner: Manner) -> None:
        self.chance = chance
        self.manner = manner
        self.second = START
        self.states: list[State] = []
        self._pools: list[Pool] = []
        self._transfers: list[Transfer] = []
        self._replaced: list[tuple[Pool, str, Held]] = []
        self._lost: list[tuple[Pool, str, Held]] = []
        self._begin()

    def _begin(self) -> None:
        chance, manner = self.chance, self.manner
        names = chance.sample(NAMES, manner.symbols)
        self._spare = [name for name in NAMES if name not in names]
        count = min(manner.pools, len(names))
        self._pools = [Pool([name], {}) for name in names[:count]]
        for name in names[count:]:
            chance.choice(self._pools).symbols.append(name)
        for pool in self._pools:
            for asset in self._some_assets():
                pool.held[asset] = Held(self._update_time(), self._amount(asset))
        self._show()

    def play(self) -> list[State]:
        """Let all events happen; return what it shows."""
        for _ in range(self.manner.events):
            self._wait()
            if self.chance.random() < self.manner.restless:
                self.chance.choice(self._regroupings())()
            else:
                self.chance.choice(self._others())()
            self._show()
        return self.states

    def _regroupings(self) -> list[Callable[[], None]]:
        listings = [self._list, self._delist, self._relist]
        return [self._move, self._move, self._split, self._merge, *listings]

    def _others(self) -> list[Callable[[], None]]:
        if self._lost and self.chance.random() < 0.4:
            return [self._return_assets]
        rare = [self._correct_back, self._gain_asset, self._lose_asset, self._stale]
        return [*[self._update] * 6, *[self._correct] * 2, *rare]

    # Time

    def _wait(self) -> None:
        chance, quarter = self.chance, max(1, self.manner.pace // 4)
        if chance.random() < 0.1:
            self.second += chance.randint(1, 3)
            return
        second = self.second + quarter * chance.choice([1, 2, 4, 4, 4, 8])
        self.second = second - second % quarter + (chance.random() < 0.1)

    def _update_time(self) -> int:
        """When the exchange says that it updated what it shows now: in this second or before.

        Where its clocks differ, it may say later.
        """
        second = self.second - self.chance.randint(-self.manner.ahead, self.manner.lag)
        return second * 1000 + self.chance.choice([0, 0, 2, 999, self.chance.randrange(1000)])

    # Amounts

    def _amount(self, asset: str) -> Decimal:
        return self._units(asset, self.chance.randint(self.manner.lowest, 7))

    def _units(self, asset: str, count: int) -> Decimal:
        return _EXACT.multiply(self.manner.units[asset], Decimal(count))

    def _written(self, amount: Decimal) -> Decimal:
        """The same amount in one of the ways of writing it: 12.5, 12.50, or 1E+2 for 100."""
        style = self.chance.randrange(8)
        if style == 0:
            return Decimal(f"{amount:f}" + ("0" if "." in f"{amount:f}" else ".0"))
        return amount.normalize(_EXACT) if style == 1 else amount

    def _some_assets(self) -> list[str]:
        assets = self.manner.assets
        return self.chance.sample(assets, self.chance.randint(1, len(assets)))

    # What happens

    def _update(self) -> None:
        for origin, target, asset, units in self._transfers:
            self._add(origin, asset, -units)
            self._add(target, asset, units)
        self._transfers.clear()
        at = self._update_time()
        for pool in self._pools:
            if self.manner.all_at_once or self.chance.random() < 0.6:
                for asset, held in pool.held.items():
                    stays = self.chance.random() < 0.3
                    amount = held.balance if stays else self._amount(asset)
                    own = at if self.chance.random() < 0.9 else self._update_time()
                    pool.held[asset] = Held(own, amount)

    def _add(self, pool: Pool, asset: str, units: int) -> None:
        if asset in pool.held:
            balance = _EXACT.add(pool.held[asset].balance, self._units(asset, units))
            pool.held[asset] = Held(self._update_time(), balance)

    def _correct(self) -> None:
        pool = self.chance.choice(self._pools)
        asset = self.chance.choice(list(pool.held))
        self._replaced.append((pool, asset, pool.held[asset]))
        pool.held[asset] = Held(pool.held[asset].update_time, self._amount(asset))

    def _correct_back(self) -> None:
        """Show again what was corrected: an older update time, or the same."""
        for pool, asset, held in self._replaced[-1:]:
            if asset in pool.held:
                pool.held[asset] = held

    def _gain_asset(self) -> None:
        pool = self.chance.choice(self._pools)
        asset = self.chance.choice(self.manner.assets)
        pool.held.setdefault(asset, Held(self._update_time(), self._amount(asset)))

    def _lose_asset(self) -> None:
        """Let a pool, or all, hold an asset no more."""
        if len(self.manner.assets) > 1:
            asset, other = self.chance.sample(self.manner.assets, 2)
            everywhere = self.chance.random() < 0.5
            for pool in self._pools if everywhere else [self.chance.choice(self._pools)]:
                if asset in pool.held:
                    self._lost.append((pool, asset, pool.held.pop(asset)))
                    pool.held = pool.held or {other: Held(self._update_time(), self._amount(other))}

    def _return_assets(self) -> None:
        """Let all pools hold again what they have lost, as it was."""
        for pool, asset, held in self._lost:
            pool.held.setdefault(asset, held)
        self._lost.clear()

    def _stale(self) -> None:
        """Show for some seconds what was there before, as a node does that is behind."""
        now = self.states[-1]
        self.states.append(State(self.second, self.chance.choice(self.states[-3:]).pools))
        self.second += self.chance.choice([1, 2, self.manner.pace])
        self.states.append(State(self.second, now.pools))
        self._wait()

    def _move(self) -> None:
        target = self.chance.choice(self._pools)
        origin = self.chance.choice(self._pools)
        if origin is not target:
            mover = self.chance.choice(origin.symbols)
            origin.symbols.remove(mover)
            target.symbols.append(mover)
            self._follow(origin, target)
            self._drop_empty()

    def _split(self) -> None:
        origin = self.chance.choice(self._pools)
        if len(origin.symbols) < 2 or len(self._pools) > 6:
            return
        count = self.chance.randint(1, len(origin.symbols) - 1)
        gone = self.chance.sample(origin.symbols, count)
        origin.symbols = [name for name in origin.symbols if name not in gone]
        times = {asset: held.update_time for asset, held in origin.held.items()}
        target = Pool(gone, {a: Held(times[a], self._amount(a)) for a in times})
        self._pools.append(target)
        self._follow(origin, target)

    def _merge(self) -> None:
        if len(self._pools) > 1:
            origin, target = self.chance.sample(self._pools, 2)
            target.symbols += origin.symbols
            origin.symbols.clear()
            self._follow(origin, target)
            self._drop_empty()

    def _follow(self, origin: Pool, target: Pool) -> None:
        """Let money go with symbols: in the same update, in the next one, or not at all."""
        way = self.chance.choice(["same", "next", "next", "never"])
        for asset in set(origin.held) & set(target.held):
            units = self.chance.randint(0, 3)
            if way == "next":
                self._transfers.append(Transfer(origin, target, asset, units))
            elif way == "same":
                self._add(origin, asset, -units)
                self._add(target, asset, units)

    def _list(self) -> None:
        if self._spare:
            self._add_symbol(self._spare.pop(self.chance.randrange(len(self._spare))))

    def _relist(self) -> None:
        """List the symbol that was delisted last."""
        if self._spare:
            self._add_symbol(self._spare.pop())

    def _add_symbol(self, name: str) -> None:
        if self.chance.random() < 0.3:
            held = {a: Held(self._update_time(), self._amount(a)) for a in self._some_assets()}
            self._pools.append(Pool([name], held))
        else:
            self.chance.choice(self._pools).symbols.append(name)

    def _delist(self) -> None:
        pool = self.chance.choice(self._pools)
        if len(pool.symbols) > 1 or len(self._pools) > 1:
            self._spare.append(pool.symbols.pop(self.chance.randrange(len(pool.symbols))))
            self._drop_empty()

    def _drop_empty(self) -> None:
        self._pools = [pool for pool in self._pools if pool.symbols]

    # What it shows

    def _show(self) -> None:
        chance = self.chance
        pools = [
            InsurancePool(
                tuple(chance.sample(pool.symbols, len(pool.symbols))),
                tuple(
                    AssetBalance(asset, self._written(held.balance), held.update_time)
                    for asset, held in items
                ),
            )
            for pool in chance.sample(self._pools, len(self._pools))
            for items in (chance.sample(list(pool.held.items()), len(pool.held)),)
        ]
        self.states.append(State(self.second, tuple(pools)))
