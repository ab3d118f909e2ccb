"""An exchange on which money moves with symbols and in no other way.

Each symbol has a fixed share, and a pool holds the shares of its symbols. Symbols without a share
are listed and delisted.
"""

from __future__ import annotations

from random import Random

from .exchange import Exchange, Held, Manner, Pool, State


class MovingExchange(Exchange):
    """Money leaves with the symbols: in the same update, or in the next one.

    Attributes:
        looks: seconds in which somebody must look: what was updated and then moved before anybody
            looked is reported by the new pools alone, with the money of the old ones.
    """

    def __init__(self, chance: Random, manner: Manner) -> None:
        self.looks: list[int] = []
        self._shares: dict[str, int] = {}
        self._pending = False
        self._happened = 0  # the second of the last event
        super().__init__(chance, manner)

    def _begin(self) -> None:
        super()._begin()
        for name in (name for pool in self._pools for name in pool.symbols):
            self._shares[name] = self.chance.choice([0, 1, 2, 3, 5])
        self._happened = self.second - 1
        self._settle(self._pools)
        self.states.clear()
        self._show()

    def play(self) -> list[State]:
        for _ in range(self.manner.events):
            self._happened = self.second
            self._wait()
            if self._pending or self.chance.random() > self.manner.restless:
                self._settle(self._pools)
            else:
                self._regroup()
            self._show()
        return self.states

    def _update_time(self) -> int:
        """Since the last event, or in this second."""
        return self.chance.randrange(self._happened * 1000 + 1000, self.second * 1000 + 1000)

    def _settle(self, pools: list[Pool]) -> None:
        """Update pools: each holds the shares of its symbols."""
        at = self._update_time()
        for pool in pools:
            share = sum(self._shares.get(name, 0) for name in pool.symbols)
            pool.held = {a: Held(at, self._units(a, share)) for a in self.manner.assets}
        self._pending = False

    def _regroup(self) -> None:
        before = {id(pool): sorted(pool.symbols) for pool in self._pools}
        self.chance.choice(self._regroupings())()
        vanished = before.keys() - {id(pool) for pool in self._pools}
        touched = [p for p in self._pools if before.get(id(p)) != sorted(p.symbols)]
        if vanished or self.chance.random() < 0.4:
            self._settle(touched)
            return
        self.looks.append(self.second - 1)
        self._pending = True

    def _split(self) -> None:
        origin = self.chance.choice(self._pools)
        if len(origin.symbols) > 1 and len(self._pools) < 7:
            gone = self.chance.sample(
                origin.symbols, self.chance.randint(1, len(origin.symbols) - 1)
            )
            origin.symbols = [name for name in origin.symbols if name not in gone]
            self._pools.append(Pool(gone, self._nothing(origin)))

    def _nothing(self, like: Pool) -> dict[str, Held]:
        return {a: Held(held.update_time, self._units(a, 0)) for a, held in like.held.items()}

    def _follow(self, origin: Pool, target: Pool) -> None:
        """Money follows when the pools are settled."""

    def _add_symbol(self, name: str) -> None:
        pool = self.chance.choice(self._pools)
        if self.chance.random() < 0.3:
            self._pools.append(Pool([name], self._nothing(pool)))
        else:
            pool.symbols.append(name)

    def _delist(self) -> None:
        pool = self.chance.choice(self._pools)
        light = [name for name in pool.symbols if not self._shares.get(name)]
        if light and (len(pool.symbols) > 1 or len(self._pools) > 1):
            name = self.chance.choice(light)
            pool.symbols.remove(name)
            self._spare.append(name)
            self._drop_empty()
