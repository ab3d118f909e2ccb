"""A world of a seed: an exchange, and what three recorders saw of it."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta, timezone
from itertools import pairwise
from random import Random

from msgspec import Struct

from binance_insurance import InsuranceSnapshot

from .exchange import Exchange, Manner, State, draw_manner
from .moving import MovingExchange
from .reference import Observation

# Of five seeds in a row, one has an exchange on which money only moves with symbols.
_MOVING_OF_FIVE = 0
_MINUTES, _HOURS, _DAYS = 60, 3_600, 86_400
_SHANGHAI = timezone(timedelta(hours=8))


class World(Struct, frozen=True):
    """What was appended by all recorders, one recorder after the other."""

    seed: int
    manner: Manner
    only_moves: bool  # money moves with symbols and in no other way
    states: tuple[State, ...]
    observations: tuple[Observation, ...]

    @property
    def symbols(self) -> list[str]:
        """All that were observed in a pool."""
        return sorted({s for seen, _ in self.observations for pool in seen for s in pool.symbols})

    @property
    def assets(self) -> list[str]:
        """All that were observed in a pool."""
        return sorted({a.asset for seen, _ in self.observations for p in seen for a in p.assets})

    def story(self) -> str:
        """Show the observations, by time."""
        return "\n".join(tell(self.observations))


def draw(seed: int) -> World:
    """Draw the world of a seed."""
    chance = Random(seed)
    manner = draw_manner(chance, chance.choice([_MINUTES, _MINUTES, _HOURS, _DAYS]))
    only_moves = seed % 5 == _MOVING_OF_FIVE
    exchange = (MovingExchange if only_moves else Exchange)(chance, manner)
    states = exchange.play()
    looks: list[int] = exchange.looks if isinstance(exchange, MovingExchange) else []
    observations: list[Observation] = []
    for zone in (UTC, UTC, chance.choice([UTC, _SHANGHAI])):
        seconds = sorted({*_ticks(chance, manner, states), *looks})
        looks = []  # one recorder is enough
        observations += _observe(chance, states, seconds, zone)
    return World(seed, manner, only_moves, tuple(states), tuple(observations))


def _ticks(chance: Random, manner: Manner, states: list[State]) -> Iterator[int]:
    """When a recorder looks, while it runs."""
    first, last = states[0].second, states[-1].second + manner.pace
    tick = chance.choice([manner.pace // 2, manner.pace, manner.pace, 2 * manner.pace])
    tick = max(tick, (last - first) // 20)
    offset = chance.choice([0, 0, 1, chance.randrange(tick)])
    outages = [
        (begin, begin + chance.randint(1, 6) * manner.pace)
        for begin in (chance.randint(first, last) for _ in range(chance.randint(0, 3)))
    ]
    for second in range(first - first % tick + tick + offset, last, tick):
        if not any(begin <= second < end for begin, end in outages):
            yield second


def _observe(
    chance: Random, states: list[State], seconds: list[int], zone: timezone
) -> Iterator[Observation]:
    """Look, and say since when nothing was missed."""
    begins = [state.second for state in states]
    usual = min((b - a for a, b in pairwise(seconds)), default=0)
    before: int | None = None
    for second in seconds:
        pools = states[bisect_right(begins, second) - 1].pools
        observed_at = datetime.fromtimestamp(second, zone)
        since = before if before is not None and second - before <= usual else None
        oddly = chance.random()
        if oddly < 0.04:
            since = second - chance.choice([0, 1, 30, 4 * usual])
        elif oddly < 0.1:
            since = None
        yield Observation(
            InsuranceSnapshot(pools, observed_at),
            None if since is None else datetime.fromtimestamp(since, zone),
        )
        before = second


def tell(observations: tuple[Observation, ...] | list[Observation]) -> Iterator[str]:
    """Say what was observed, in a line for each pool."""
    for snapshot, since in sorted(observations, key=lambda each: each.snapshot.observed_at):
        yield f"{snapshot.observed_at:%m-%d %H:%M:%S} ({snapshot.observed_at.timestamp():.0f})" + (
            "" if since is None else f", since {since:%m-%d %H:%M:%S}"
        )
        for pool in sorted(snapshot, key=lambda pool: sorted(pool.symbols)):
            held = (f"{a.margin_balance} {a.asset} @{a.update_time}" for a in pool.assets)
            yield f"    {' '.join(sorted(pool.symbols))}: {', '.join(held)}"
