"""What a world is made of: drawn from its seed, before anything happens."""

from __future__ import annotations

from random import Random
from typing import Literal

from msgspec import Struct

from binance_insurance import RetryPolicy

# Of ten seeds in a row, three have a budget that processes share.
_SHARED_OF_TEN = 3
SYMBOLS = 60

Style = Literal["text", "seconds", "both", "later text", "later seconds", "http date", "neither"]
_BAN_STYLES: tuple[Style, ...] = (
    "text",
    "seconds",
    "both",
    "later text",
    "later seconds",
    "http date",
    "neither",
)
Event = Literal[
    "close client", "close budget", "kill", "pause", "lose ledger", "step clock", "reboot"
]
Way = Literal["alone", "all", "renamed"]  # of losing the ledger's files
_WAYS: tuple[Way, ...] = ("alone", "all", "renamed")
Kind = Literal["pool", "pools", "snapshot", "weight"]


class Call(Struct, frozen=True):
    """One call of a caller: when, by which process and client, and of what kind."""

    at: float
    process: int
    client: int
    kind: Kind
    symbols: tuple[str, ...]
    timeout: float | None
    max_age: float
    cancel_after: float | None
    as_values: bool  # fetch_pools(return_exceptions=True)


class Refusing(Struct, frozen=True):
    """From a time on, the exchange refuses for reasons of its own."""

    at: float
    status: Literal[418, 429]
    seconds: float
    style: Style


class Happening(Struct, frozen=True):
    """What happens to processes and clocks."""

    at: float
    kind: Event
    process: int = 0
    client: int = 0
    seconds: float = 0.0
    how: Way = "all"


class Plan(Struct, frozen=True, kw_only=True):
    """A world before it begins. Times are seconds from its start; shares are from 0 to 1."""

    seed: int
    shared: bool
    limit: int
    interval: int
    reserve: int
    seconds: float  # of traffic
    offset: float  # the exchange's clock against the local wall clock
    phase: float  # of the exchange's window at the start
    processes: int
    clients: int  # of each process
    max_concurrency: int
    attempt_timeout: float
    retry: RetryPolicy
    latency: tuple[float, float]
    node_lag: float  # so old are the sums that are reported at most
    snapshot_weight: int
    pools: int
    others: tuple[tuple[float, int], ...]  # (time, weight) of other clients on the IP
    changes: tuple[float, ...]  # times at which balances change
    calls: tuple[Call, ...]
    refusing: tuple[Refusing, ...]
    tolerated_refusals: int
    ban_style: Style
    freeze_style: Style
    happenings: tuple[Happening, ...]
    faults: float  # share of answers with a status or body that is not good, or that are lost
    odd: float  # share of odd headers
    lies: float  # share of dates that name another time
    dated: bool  # False: no answer has a date
    slow_bodies: float


def draw(seed: int) -> Plan:
    """Draw a world."""
    chance = Random(seed)
    shared = seed % 10 >= 10 - _SHARED_OF_TEN
    interval = chance.choice([2, 3, 5, 10] if shared else [2, 4, 5, 10, 60])
    limit = chance.choice([10, 20, 41, 60, 100, 100, 400, 2400])
    reserve = chance.choice([0, 0, 0, limit // 10, limit // 5, limit // 2])
    seconds = interval * chance.uniform(2.5, 6.0)
    processes = chance.choice([2, 2, 3, 4]) if shared else 1
    clients = chance.choice([1, 1, 2] if shared else [1, 1, 2, 3])
    dated = shared or chance.random() > 0.06
    attempt_timeout = chance.choice([0.5, 1.0, 3.0, 10.0])
    most = min(chance.choice([0.002, 0.02, 0.1, 0.5, 1.0]), 0.2 * interval, 0.4 * attempt_timeout)
    cruel = chance.random() < 0.7  # the others are calm in most respects
    return Plan(
        seed=seed,
        shared=shared,
        limit=limit,
        interval=interval,
        reserve=reserve,
        seconds=seconds,
        # Without any date only the local clock can say when a ban ends: right, or far ahead.
        offset=chance.uniform(-60.0, 60.0) if dated else chance.choice([0.0, 30.0, -7_200.0]),
        phase=chance.uniform(0.0, interval),
        processes=processes,
        clients=clients,
        max_concurrency=chance.choice([1, 2, 4, 32]),
        attempt_timeout=attempt_timeout,
        retry=RetryPolicy(
            max_attempts=chance.choice([1, 2, 4]),
            base_delay=chance.choice([0.0, 0.05, 0.5]),
            max_delay=chance.choice([1.0, 8.0]),
        ),
        latency=(most * chance.uniform(0.1, 1.0), most),
        node_lag=chance.choice([0.0, 0.0, 0.0, 0.3]),
        snapshot_weight=chance.choice([40, 40, 40, 40, 20, 5, 1]),
        pools=chance.choice([1, 3, 10, 30, SYMBOLS]),
        others=_draw_others(chance, limit, interval, seconds),
        changes=tuple(sorted(chance.uniform(0, seconds) for _ in range(chance.choice([0, 3, 20])))),
        calls=_draw_calls(chance, seconds, processes, clients),
        refusing=_draw_refusing(chance, seconds, shared=shared, dated=dated) if cruel else (),
        tolerated_refusals=chance.choice([0, 2, 10]),
        ban_style=_draw_ban_style(chance, dated=dated),
        freeze_style=chance.choice(["seconds", "neither", "http date"]),
        happenings=_draw_happenings(chance, seconds, processes, clients, shared=shared),
        faults=chance.choice([0.0, 0.05, 0.3]) if cruel else 0.0,
        odd=chance.choice([0.0, 0.0, 0.05, 0.4]) if cruel else 0.0,
        lies=chance.choice([0.0, 0.0, 0.05]) if cruel and dated else 0.0,
        dated=dated,
        slow_bodies=chance.choice([0.0, 0.1]),
    )


def _draw_others(
    chance: Random, limit: int, interval: int, seconds: float
) -> tuple[tuple[float, int], ...]:
    rate = chance.choice([0.0, 0.0, 0.3, 1.0]) * limit / interval  # weight per second
    size = max(1, limit // 100)
    others = [(chance.uniform(0, seconds), size) for _ in range(int(rate * seconds / size))]
    bursts = chance.choice([0, 0, 1, 4])
    others += [(chance.uniform(0, seconds), chance.randint(1, limit)) for _ in range(bursts)]
    if chance.random() < 0.3:  # the first window is nearly full at the start
        others.append((0.0, max(1, limit - chance.choice([1, 5, 30, 39, 41, 45]))))
    return tuple(sorted(others))


def _draw_calls(chance: Random, seconds: float, processes: int, clients: int) -> tuple[Call, ...]:
    calls: list[Call] = []
    bursts = [chance.uniform(0, seconds) for _ in range(chance.choice([1, 3, 6]))]
    hurry = chance.choice([0.0, 0.5, 1.0])  # share of the calls that come in bursts
    known = chance.choice([5, 20, SYMBOLS])
    patient = chance.choice([0.2, 0.5, 1.0])
    remembering = chance.choice([0.0, 0.3])
    for _ in range(chance.choice([10, 40, 80, 150])):
        kind: Kind = chance.choices(("pool", "pools", "snapshot", "weight"), (60, 18, 14, 8))[0]
        count = {"pool": 1, "pools": chance.choice([2, 5, 30, 50])}.get(kind, 0)
        symbols = tuple(_draw_symbol(chance, known) for _ in range(count))
        calls.append(
            Call(
                at=chance.choice(bursts) if chance.random() < hurry else chance.uniform(0, seconds),
                process=chance.randrange(processes),
                client=chance.randrange(clients),
                kind=kind,
                symbols=symbols,
                timeout=None if chance.random() < patient else chance.choice([0.1, 1.0, 3.0, 30.0]),
                max_age=chance.choice([0.3, 2.5]) if chance.random() < remembering else 0.0,
                cancel_after=chance.choice([0.0, 0.01, 0.3, 2.0])
                if chance.random() < 0.1
                else None,
                as_values=chance.random() < 0.5,
            )
        )
    return tuple(sorted(calls, key=lambda call: call.at))


def _draw_symbol(chance: Random, known: int) -> str:
    if chance.random() < 0.03:
        return f"NONE{chance.randrange(3)}USDT"
    name = symbol_name(chance.randrange(known))
    return name.lower() if chance.random() < 0.1 else name


def symbol_name(number: int) -> str:
    """Name one of the exchange's symbols; not all are ASCII, and some are delivery contracts."""
    return {0: "币安人生USDT", 1: "S1USDT_250627"}.get(number, f"S{number}USDT")


def _draw_ban_style(chance: Random, *, dated: bool) -> Style:
    """Draw how a ban that is short names its end; without dates not by the local clock."""
    return chance.choice(_BAN_STYLES if dated else ["seconds"])


def _draw_refusing(
    chance: Random, seconds: float, *, shared: bool, dated: bool
) -> tuple[Refusing, ...]:
    refusing: list[Refusing] = []
    for _ in range(chance.choice([0, 1, 1, 2, 4])):
        if chance.random() < 0.4:
            length = chance.choice([1.0, 2.0, 5.0, 20.0])
            refusing.append(
                Refusing(
                    chance.uniform(0, seconds), 418, length, _draw_ban_style(chance, dated=dated)
                )
            )
        else:
            lengths = [0.2, 0.4, 1.0, 2.0, 8.0] if shared else [0.2, 0.4, 1.0, 2.0, 8.0, 300.0]
            length = chance.choice(lengths)
            style: Style = chance.choice(["seconds", "neither", "http date"])
            refusing.append(Refusing(chance.uniform(0, seconds), 429, length, style))
    if chance.random() < 0.2:  # a long ban ends what can be seen, so it comes late
        length = chance.choice([600.0, 1_800.0] if not dated else [600.0, 10_800.0, 4 * 86_400.0])
        at = chance.uniform(0.5, 1.0) * seconds
        refusing.append(Refusing(at, 418, length, chance.choice(_BAN_STYLES)))
    return tuple(sorted(refusing, key=lambda each: each.at))


def _draw_happenings(
    chance: Random, seconds: float, processes: int, clients: int, *, shared: bool
) -> tuple[Happening, ...]:
    happenings: list[Happening] = []

    def add(
        kind: Event, share: float, most: int = 1, *, seconds_of: tuple[float, ...] = ()
    ) -> None:
        if chance.random() < share:
            happenings.extend(
                Happening(
                    chance.uniform(0.05, 1.0) * seconds,
                    kind,
                    chance.randrange(processes),
                    chance.randrange(clients),
                    chance.choice(seconds_of) if seconds_of else 0.0,
                    chance.choice(_WAYS),
                )
                for _ in range(chance.randint(1, most))
            )

    add("close client", 0.2)
    add("close budget", 0.15)
    add("pause", 0.35 if shared else 0.15, 3, seconds_of=(0.1, 0.6, 3.0, 12.0))
    if shared:
        add("kill", 0.35, 2)
        add("lose ledger", 0.3, 2)
        add("step clock", 0.3, 2, seconds_of=(-3_600.0, -10.0, -1.5, 1.5, 10.0, 3_600.0))
        add("reboot", 0.08)
    return tuple(sorted(happenings, key=lambda each: each.at))
