"""Ask a history and the reference the same questions, and say where the answers differ."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from datetime import UTC, datetime, timedelta
from decimal import Context, Decimal
from difflib import unified_diff
from random import Random
from typing import Any, NamedTuple, Protocol, cast

from msgspec.structs import replace

from binance_insurance import InsurancePool, InsuranceSnapshot
from binance_insurance.history import open_history

from .reference import (
    Drawdown,
    Gap,
    Observation,
    Point,
    Reference,
    Regrouping,
    microseconds,
    moment,
    values_of,
)
from .world import World

_MICROSECOND = timedelta(microseconds=1)
_EXACT = Context(prec=400)
_ONE_BY_ONE = 8  # observations that are appended, while the others extend
_REPEATED = 9
_LATE = 3  # observations that come after the merging
_LIMITS = (None, None, 1, 2, 3, 10)


class Answering(Protocol):
    """What can be asked: a history, or the reference in its place."""

    async def append(
        self, snapshot: InsuranceSnapshot, *, since: datetime | None = None
    ) -> int: ...
    async def extend(
        self, observations: Iterable[tuple[InsuranceSnapshot, datetime | None]], /
    ) -> int: ...
    async def latest(self, at: datetime | None = None) -> InsuranceSnapshot | None: ...
    async def series(
        self,
        symbol: str | None,
        asset: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
    ) -> Any: ...
    async def drawdowns(
        self,
        symbol: str | None,
        asset: str,
        *,
        window: float | None = None,
        start: datetime | None = None,
        end: datetime | None = None,
        limit: int | None = 10,
    ) -> Any: ...


class Question(NamedTuple):
    """A call, and the reference's answer in plain values."""

    method: str
    arguments: tuple[Any, ...]
    options: dict[str, Any]
    expected: list[str]

    def ask(self, asked: object) -> Any:
        """Ask; the answer of a history has to be awaited."""
        return getattr(asked, self.method)(*self.arguments, **self.options)

    def __str__(self) -> str:
        shown = [*map(_show, self.arguments)]
        shown += [f"{name}={_show(value)}" for name, value in self.options.items()]
        return f"{self.method}({', '.join(shown)})"


def _show(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else repr(value)


# Plain values


def plain(answer: object) -> list[str]:
    """Return an answer in lines that compare; the types are part of the contract."""
    if answer is None:
        return ["None"]
    if isinstance(answer, InsuranceSnapshot):
        pools = sorted(_plain_pool(pool) for pool in answer)
        return [f"{_plain(answer.observed_at)}, complete {answer.complete}", *pools]
    if hasattr(answer, "points"):
        return [
            *("points:", *_plain_structs(getattr(answer, "points", None), Point)),
            *("gaps:", *_plain_structs(getattr(answer, "gaps", None), Gap)),
            *("regroupings:", *_plain_structs(getattr(answer, "regroupings", None), Regrouping)),
        ]
    return ["drawdowns:", *_plain_structs(answer, Drawdown)]


def _plain_pool(pool: InsurancePool) -> str:
    held = sorted(
        f"{a.asset} {_plain(a.margin_balance)} at {_plain(a.update_time)}" for a in pool.assets
    )
    return f"    {' '.join(sorted(pool.symbols))}: {', '.join(held)}"


def _plain_structs(structs: object, kind: type[NamedTuple]) -> list[str]:
    if not isinstance(structs, tuple):
        return [f"    not a tuple: {structs!r}"]
    return [
        "    " + ", ".join(f"{name} {_plain(getattr(each, name))}" for name in kind._fields)
        for each in cast("tuple[object, ...]", structs)
    ]


def _plain(value: object) -> str:
    """Return one text for equal values of one type; a naive datetime has no `+`."""
    if isinstance(value, Decimal):
        return f"{_EXACT.add(value, Decimal(0)).normalize(_EXACT):f}"  # 0 for -0
    if isinstance(value, datetime) and value.tzinfo is not None:
        return value.astimezone(UTC).isoformat()
    return repr(value)


# Questions


class Questions:
    """Draws what to ask about a world: each symbol with each asset, the whole fund, and `latest`.

    Times are those at which something changes, or just beside them.
    """

    def __init__(self, world: World, reference: Reference | None = None) -> None:
        self._chance = Random(world.seed)
        self._world = world
        self._reference = reference or Reference(world.observations)
        self._times = [moment(time) for time in self._reference.times]
        self._asked: list[Question] = []

    def draw(self, symbols: int | None = None) -> list[Question]:
        """Draw all, or those about a few symbols."""
        for symbol in [*self._world.symbols[:symbols], None]:
            for asset in self._world.assets:
                self._ask_about(symbol, asset)
        self._ask("series", "NEVERUSDT", self._world.assets[0])
        self._ask("drawdowns", self._world.symbols[0], "NEVER")
        for at in self._ats():
            self._ask("latest", at)
        return self._asked

    def _ask(self, method: str, *arguments: object, **options: object) -> Any:
        answer = getattr(self._reference, method)(*arguments, **options)
        self._asked.append(Question(method, arguments, options, plain(answer)))
        return answer

    def _ask_about(self, symbol: str | None, asset: str) -> None:
        series = self._ask("series", symbol, asset)
        self._ask("drawdowns", symbol, asset, limit=None)
        edges = [moment(point.update_time * 1000) for point in series.points]
        edges += [time for gap in series.gaps for time in gap]
        edges += [time for each in series.regroupings for time in (each.since, each.observed_at)]
        self._ask("series", symbol, asset, **self._range(edges or self._times))
        window = self._window(series.points)
        self._ask("drawdowns", symbol, asset, window=window, limit=None)
        self._ask(
            "drawdowns",
            symbol,
            asset,
            window=self._chance.choice([None, window, self._window(series.points)]),
            limit=self._chance.choice(_LIMITS),
            **self._range(edges or self._times),
        )

    def _range(self, edges: Sequence[datetime]) -> dict[str, datetime]:
        """From one edge to another, or without one of them."""
        chance = self._chance
        start, end = sorted(self._beside(chance.choice(edges)) for _ in range(2))
        bounds = {"start": start, "end": end}
        if chance.random() < 0.5:
            del bounds[chance.choice(["start", "end"])]
        return bounds

    def _beside(self, time: datetime) -> datetime:
        """At the time, just before or after it, or at the end of its second."""
        steps = [0, 0, 0, -1, 1, 1_000, -1_000, 999_000, 1_000_000]
        return time + self._chance.choice(steps) * _MICROSECOND

    def _window(self, points: Sequence[Point]) -> float:
        """The distance of two points, or nearly that, or something else."""
        chance = self._chance
        if len(points) > 1 and chance.random() < 0.8:
            first, second = chance.sample(points, 2)
            distance = abs(first.update_time - second.update_time)
            distance += chance.choice([0, 0, 0, 1, -1])
            if distance > 0:
                return distance // 1000 if distance % 1000 == 0 else distance / 1000
        return chance.choice([0.001, 1, 60.0, 7 * self._world.manner.pace])

    def _ats(self) -> list[datetime | None]:
        chance, times = self._chance, self._times
        some = chance.sample(times, min(8, len(times)))
        return [None, times[0] - timedelta(days=1), times[0] - _MICROSECOND, *times[-1:]] + [
            self._beside(each) for each in some
        ]


async def differences(history: Answering, questions: Iterable[Question]) -> list[str]:
    """Ask a history; return in which answers it differs from the reference."""
    found: list[str] = []
    for question in questions:
        got = plain(await question.ask(history))
        if got != question.expected:
            lines = unified_diff(question.expected, got, "expected", "answered", "", "", 99, "")
            found.append("\n    ".join([str(question), *lines]))
    return found


# Stores


class Counting:
    """Writes to a history, and sees whether it counts the new values as the reference does."""

    def __init__(self, name: str, history: Any) -> None:
        self.history = history
        self.values: set[tuple[Any, ...]] = set()
        self.wrong: list[str] = []
        self.name = name

    async def append(self, observation: Observation) -> None:
        snapshot, since = observation
        got = await self.history.append(snapshot, since=since)
        self._compare(f"append of {snapshot.observed_at}", got, values_of(snapshot))

    async def extend(self, observations: Sequence[Observation]) -> None:
        got = await self.history.extend((snapshot, since) for snapshot, since in observations)
        values = {value for snapshot, _ in observations for value in values_of(snapshot)}
        self._compare(f"extend by {len(observations)} observations", got, values)

    async def merge(self, other: Counting) -> None:
        """Merge, and again: that adds nothing."""
        got = await self.history.merge(other.history)
        self._compare(f"merge of {other.name}", got, other.values)
        got = await self.history.merge(other.history)
        self._compare(f"second merge of {other.name}", got, set())

    def _compare(self, what: str, got: object, values: Iterable[tuple[Any, ...]]) -> None:
        new = set(values) - self.values
        self.values |= new
        if type(got) is not int or got != len(new):
            self.wrong.append(f"{self.name}: {what}: {got!r} new values, expected {len(new)}")


def opened(url: str, *, read_only: bool = False) -> AbstractAsyncContextManager[Any]:
    """Open a history by its public name."""
    return open_history(url, read_only=read_only)


async def check(world: World, url: str) -> list[str]:
    """Append what was observed as it came; return how the answers differ from the reference.

    They are asked of the history that appended, and some of one that is opened to read.
    """
    questions = Questions(world).draw()
    in_turn = sorted(world.observations, key=lambda each: microseconds(each.snapshot.observed_at))
    earlier, rest = in_turn[:-_ONE_BY_ONE], in_turn[-_ONE_BY_ONE:]
    found: list[str] = []
    async with opened(url) as history:
        store = Counting("store", history)
        await store.extend(earlier)
        if earlier:
            some = Questions(replace(world, observations=tuple(earlier))).draw(symbols=1)
            found += await differences(history, some)
        for observation in rest:
            await store.append(observation)
        found += await differences(history, questions)
    async with opened(url, read_only=True) as history:
        found += await differences(history, questions[::7])
    return store.wrong + found


async def check_order(world: World, first: str, second: str, third: str) -> list[str]:
    """Shuffle what was observed, repeat some, split it over two stores, and merge either way.

    Some come later still. The third store gets all of it from the second alone. Each store has its
    part of the questions.
    """
    chance = Random(world.seed)
    observations = [*world.observations, *chance.choices(world.observations, k=_REPEATED)]
    chance.shuffle(observations)
    late, observations = observations[:_LATE], observations[_LATE:]
    cut = chance.randint(0, len(observations))
    names, questions = ("first", "second", "third"), Questions(world).draw()
    async with opened(first) as a, opened(second) as b, opened(third) as c:
        stores = [Counting(name, each) for name, each in zip(names, (a, b, c), strict=True)]
        for observation in observations[:cut][:_ONE_BY_ONE]:
            await stores[0].append(observation)
        await stores[0].extend(observations[:cut][_ONE_BY_ONE:])
        await stores[1].extend(observations[cut:])
        await stores[0].merge(stores[1])
        await stores[1].merge(stores[0])
        for observation in late:
            await stores[0].append(observation)
        await stores[1].extend(late)
        await stores[2].merge(stores[1])
        found = [line for store in stores for line in store.wrong]
        for number, store in enumerate(stores):
            asked = questions[number :: len(stores)]
            found += [f"{store.name}: {each}" for each in await differences(store.history, asked)]
    return found
