"""The exchange of a world, and the session through which a client asks it.

It counts with the sandbox's accounting. Beside that it has its own reasons to refuse, and answers
that are lost, late, cut off, or odd.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal
from email.utils import formatdate
from math import ceil, floor
from random import Random
from typing import TYPE_CHECKING, Any

import aiohttp
import msgspec
from aiohttp.client_reqrep import ConnectionKey
from multidict import CIMultiDict
from yarl import URL

from binance_insurance import AssetBalance, InsurancePool
from binance_insurance.budget.report import used_weight_header
from binance_insurance.sandbox._accounting import Accounting

from .loop import START, Process
from .plan import SYMBOLS, Plan, Refusing, Style, symbol_name
from .referee import Referee, Refusal, Sent

if TYPE_CHECKING:
    from .loop import WorldLoop

EPOCH = 1_790_000_000
_HTML = b"<html><head><title>Not now</title></head><body>Not now</body></html>"
_OURS_BANNED = 10.0
_UNKNOWN_END = 120.0
_LATE_NODES = 0.3  # share of answers by a node that reports late, where there are such
_REFUSED_CONNECTION = ConnectionKey("fapi.binance.com", 443, True, True, None, None, None)

# What goes wrong with an answer: (status, body), or a name of what becomes of the connection.
_FAULTS: tuple[tuple[int, bytes] | str, ...] = (
    "no connection",
    "request lost",
    "answer lost",
    "answer lost",
    "broken",
    "body broken",
    "body cut",
    "bad pool",
    (200, _HTML),
    (200, b'{"code":-1000,"msg":"An unknown error occurred."}'),
    (200, b"[]"),
    (200, b""),
    (400, b'{"code":-1100,"msg":"Illegal characters."}'),
    (400, _HTML),
    (403, _HTML),
    (451, b""),
    (408, b'{"code":-1007,"msg":"Timeout waiting for response."}'),
    (500, _HTML),
    (502, _HTML),
    (503, b'{"code":-1000,"msg":"Unknown error, please check your request or try again later."}'),
    (503, b"Service Unavailable."),
    (503, b'{"code":-1008,"msg":"Server is currently overloaded."}'),
)
_ODD_DATES = (
    None,
    "",
    "-1",
    "0",
    "x" * 5_000,
    "Thu, 01 Jan 99999999999 00:00:00 GMT",
    "Mon, 01 Jan 0001 00:00:00 +9959",
    "Thu, 24 Sep 2026 00:00:00 +99999999999999",
    "Thu, 99 Sep 2026 99:99:99 GMT",
    "\udcff\udcfe",
    "١٢٣",
)
_FALSE_DATES = ("Fri, 31 Dec 9999 23:59:59 GMT", -86_400.0, -7_200.0, 7_200.0, 86_400.0, "window")
_ODD_WEIGHTS = (None, None, "", "-1", "0", "x", "9" * 5_000, "1e3", "٣", "\udcff", "3.5", "0x10")
_ODD_PAUSES = ("", "0", "-1", "x" * 5_000, "9" * 5_000, "1.5", "\udcff", "Fri, 31 Dec 9999", "٣")


class _Answer(msgspec.Struct):
    status: int
    headers: CIMultiDict[str]
    body: bytes
    date: float | None = None
    lie: bool = False
    refusal: Refusal | None = None
    slow: float = 0.0
    broken: bool = False


class Version(msgspec.Struct):
    """All pools from a time on."""

    since: float
    pools: tuple[InsurancePool, ...]
    by_symbol: dict[str, InsurancePool]


class Exchange:
    """What all sessions of a world ask."""

    def __init__(self, plan: Plan, loop: WorldLoop) -> None:
        self.epoch = EPOCH // plan.interval * plan.interval + plan.phase - START
        self.referee = Referee(plan, loop, self.epoch)
        self.calm = False
        self.versions: list[Version] = []
        self.false_dates = 0
        self._plan = plan
        self._loop = loop
        self._chance = Random(plan.seed)
        self._accounting = Accounting(
            plan.limit,
            interval=plan.interval,
            ban_seconds=_OURS_BANNED,
            tolerated_refusals=plan.tolerated_refusals,
            other_weight_per_second=0.0,
        )
        self._ban_style: Style = plan.ban_style
        self._frozen: tuple[float, Style] = (0.0, "seconds")
        self._sums: list[tuple[float, int, int]] = []  # (time, window, sum)
        self._true_dates: list[Sent] = []  # read since the last false one
        self._last_lie = float("-inf")
        self._header = used_weight_header(plan.interval)
        self.change_pools()

    @property
    def now(self) -> float:
        """Seconds since 1970 by the exchange's clock."""
        return self._loop.time() + self.epoch

    # What happens by itself

    def change_pools(self) -> None:
        """Change some balances, and perhaps move a symbol."""
        chance, count = self._chance, self._plan.pools
        if not self.versions:
            groups = [[symbol_name(n) for n in range(i, SYMBOLS, count)] for i in range(count)]
        else:
            groups = [list(pool.symbols) for pool in self.versions[-1].pools]
            mover = chance.choice(groups)
            if len(mover) > 1 and chance.random() < 0.5:
                chance.choice(groups).append(mover.pop())
        pools: list[InsurancePool] = []
        for number, group in enumerate(groups):
            if self.versions and chance.random() < 0.5:
                assets = self.versions[-1].pools[number].assets
            else:
                amount = Decimal(chance.randrange(10**12)).scaleb(-8)
                assets = (AssetBalance("USDT", amount, 1_790_000_000_000),)
            pools.append(InsurancePool(tuple(dict.fromkeys(group)), assets))
        by_symbol = {symbol: pool for pool in pools for symbol in pool.symbols}
        self.versions.append(Version(self._loop.time(), tuple(pools), by_symbol))

    def spend_elsewhere(self, weight: int) -> None:
        """Let another client on the IP spend."""
        self._accounting.spend_elsewhere(weight, self.now)
        self.referee.others_spend(self.now, weight)
        self._note_sum()

    def refuse(self, refusing: Refusing) -> None:
        """Refuse from now on, for reasons of its own."""
        if refusing.status == 418:
            seconds = refusing.seconds
            if refusing.style == "neither":
                seconds = min(seconds, _UNKNOWN_END)
            self._ban_style = refusing.style
            self._accounting.banned_until = max(self._accounting.banned_until, self.now + seconds)
        else:
            self._frozen = (self.now + refusing.seconds, refusing.style)
        self.referee.log(f"from now on {refusing}")

    # Asking

    async def ask(self, session: Session, url: URL) -> Response:
        """Send a request and return when the head of its answer is there."""
        chance, plan, referee = self._chance, self._plan, self.referee
        fault = None if self.calm or chance.random() >= plan.faults else chance.choice(_FAULTS)
        if fault == "no connection":
            session.faults += 1
            await asyncio.sleep(chance.choice([0.0, 0.01]))
            raise aiohttp.ClientConnectorError(_REFUSED_CONNECTION, OSError("refused"))
        endpoint, symbol = url.name, url.query.get("symbol")
        heavy = endpoint == "insuranceBalance" and symbol is None
        weight = plan.snapshot_weight if heavy else 1
        sent = Sent(
            len(referee.sent), session.process, session, endpoint, symbol, weight, self._loop.time()
        )
        referee.left(sent)
        session.in_flight.append(sent)
        answer: asyncio.Future[_Answer] = self._loop.create_future()
        latency = chance.uniform(*plan.latency)
        up = latency * chance.random()
        if fault != "request lost":
            self._at(up, lambda: self._arrive(sent, fault, answer, latency - up))
        try:
            got = await answer
        except BaseException:
            session.faults += 1
            self._end(session, sent)
            raise
        return Response(self, session, sent, got)

    def read(self, session: Session, sent: Sent, answer: _Answer) -> None:
        """An answer was read to its end, or as far as it goes."""
        session.in_flight.remove(sent)
        if answer.lie:
            self._last_lie = self._loop.time()
            self._true_dates.clear()
        elif answer.date is not None:
            self._true_dates.append(sent)
        session.faults += not sent.good
        self.referee.reads(sent, answer.date, answer.refusal, lie=answer.lie)

    def give_up(self, session: Session, sent: Sent) -> None:
        """An answer is closed before its end."""
        if sent in session.in_flight:
            session.faults += 1
            self._end(session, sent)

    def forget(self) -> None:
        """Nobody knows the clock any more."""
        self._true_dates.clear()

    def _end(self, session: Session, sent: Sent) -> None:
        session.in_flight.remove(sent)
        self.referee.ends(sent)

    def _at(self, seconds: float, happen: Callable[[], None]) -> None:
        self._loop.call_later(seconds, happen, context=self._loop.world)

    def _note_sum(self) -> None:
        used = self._accounting.used_weight(self.now)
        self._sums.append((self.now, floor(self.now / self._plan.interval), used))

    def _arrive(
        self,
        sent: Sent,
        fault: tuple[int, bytes] | str | None,
        answer: asyncio.Future[_Answer],
        down: float,
    ) -> None:
        accounting, now = self._accounting, self.now
        banned_before = accounting.banned_until
        seen = accounting.request(sent.endpoint, sent.symbol, sent.weight, now)
        self._note_sum()
        sent.arrived, sent.counted, sent.used = self._loop.time(), now, seen.used_weight
        sent.window = floor(now / self._plan.interval)
        sent.status = seen.verdict
        caused = seen.verdict == 429 or accounting.banned_until != banned_before
        if accounting.banned_until != banned_before:
            self._ban_style = self._plan.ban_style
            if self._ban_style == "neither":
                accounting.banned_until = now + _UNKNOWN_END
        freeze_style = self._plan.freeze_style
        if sent.status == 200 and now < self._frozen[0] and not self.calm:
            sent.status, freeze_style = 429, self._frozen[1]
        if sent.status == 200 and isinstance(fault, tuple):
            sent.status = fault[0]
        self.referee.arrived(sent, caused=caused)
        made = self._make(sent, fault, freeze_style)
        if fault == "answer lost":
            return
        if fault == "broken" and self._chance.random() < 0.5:
            self._at(down, lambda: _fail(answer, aiohttp.ServerDisconnectedError()))
        elif fault == "broken":
            self._at(down, lambda: _fail(answer, aiohttp.ClientOSError(104, "reset by peer")))
        else:
            self._at(down, lambda: _give(answer, made))

    # Answers

    def _make(
        self, sent: Sent, fault: tuple[int, bytes] | str | None, freeze_style: Style
    ) -> _Answer:
        made = _Answer(sent.status, CIMultiDict(), b"")
        self._date(sent, made)
        self._weigh(sent, made)
        if sent.status == 418:
            self._ban(sent, made)
        elif sent.status == 429:
            self._freeze(sent, made, freeze_style)
        elif isinstance(fault, tuple):
            made.body = fault[1]
            if fault[0] >= 500 and self._chance.random() < 0.3:
                made.headers["Retry-After"] = self._chance.choice(["1", "2", "30", *_ODD_PAUSES])
        else:
            self._fill(sent, made, fault)
        if not self.calm and self._chance.random() < self._plan.slow_bodies:
            made.slow = self._chance.uniform(0.0, 0.5) * self._plan.attempt_timeout
        sent.good = made.status == 200 and fault is None
        return made

    def _date(self, sent: Sent, made: _Answer) -> None:
        """Add a date: the true one, an odd one, a false one, or none."""
        chance, plan = self._chance, self._plan
        if not plan.dated:
            return
        refuses = sent.status in {418, 429}
        free = not self.calm and (not refuses or self._is_time_known())
        date: float | None = float(floor(self.now))
        text: str | None = formatdate(date, usegmt=True)
        if free and chance.random() < plan.odd:
            date, text = None, chance.choice(_ODD_DATES)
        elif free and chance.random() < plan.lies:
            by = chance.choice(_FALSE_DATES)
            by = chance.choice([-1, 1]) * plan.interval if by == "window" else by
            # A freeze without an end is waited for as long as its date says.
            if refuses and (plan.shared or isinstance(by, str)):
                by = -plan.interval
            text = by if isinstance(by, str) else formatdate(floor(self.now) + by, usegmt=True)
            made.lie, date = True, None
            self.false_dates += 1
            self._last_lie = self._loop.time()
        if text is not None:
            made.headers["Date"] = text
        made.date = date

    def _is_time_known(self) -> bool:
        """Return whether three answers since the last false date have named the true time."""
        before = self._loop.time() - 0.5
        true = [
            sent
            for sent in self._true_dates
            if sent.ended is not None
            and sent.ended < before
            and (sent.arrived or 0.0) > self._last_lie
        ]
        return len(true) >= 3

    def _weigh(self, sent: Sent, made: _Answer) -> None:
        """Add the used weight, which a node may report late, or an odd one."""
        if not self.calm and self._chance.random() < self._plan.odd:
            odd = self._chance.choice(_ODD_WEIGHTS)
            if odd is not None:
                made.headers[self._header] = odd
            return
        since, used = sent.counted, sent.used
        if not self.calm and self._chance.random() < _LATE_NODES * (self._plan.node_lag > 0):
            since -= self._chance.uniform(0, self._plan.node_lag)
            used = max(
                (
                    total
                    for at, window, total in self._sums
                    if at <= since and window == sent.window
                ),
                default=0,
            )
        made.headers[self._header] = str(used)
        made.headers["X-MBX-USED-WEIGHT-1H"] = "7"
        if used > 0 and made.date is not None:
            sent.reported = since

    def _ban(self, sent: Sent, made: _Answer) -> None:
        end, style = self._accounting.banned_until, self._ban_style
        left = end - self.now
        named, pause = end, float(ceil(left))
        if style == "later text":
            pause = max(1.0, pause // 2)
        elif style == "later seconds":
            named = self.now + left / 2
        if style in {"text", "both", "later text", "later seconds"}:
            text = f"Way too many requests; IP(1.2.3.4) banned until {ceil(named * 1000)}. Please"
            made.body = self._chance.choice(
                [f'{{"code":-1003,"msg":"{text} use the websocket."}}', f"<p>{text}</p>"]
            ).encode()
        else:
            made.body = self._chance.choice(
                [b"", _HTML, b'{"code":-1003,"msg":"Way too many requests."}', b'{"code":-1003,"ms']
            )
        if style in {"seconds", "both", "later text", "later seconds"}:
            made.headers["Retry-After"] = str(int(pause))
        elif style == "http date":
            made.headers["Retry-After"] = formatdate(ceil(end), usegmt=True)
        elif not self.calm and self._chance.random() < self._plan.odd:
            made.headers["Retry-After"] = self._chance.choice(_ODD_PAUSES[:5])
        made.refusal = self.referee.refuses(sent, end - self.epoch)

    def _freeze(self, sent: Sent, made: _Answer, style: Style) -> None:
        end, _ = self._frozen
        until = self._accounting.resets_at(self.now)
        pause = max(1, ceil((end if end > self.now else until) - self.now))
        if style == "seconds":
            made.headers["Retry-After"] = str(pause)
            until = self.now + pause
        elif style == "http date" and made.date is not None:
            made.headers["Retry-After"] = formatdate(made.date + pause, usegmt=True)
            until = made.date + pause
        elif not self.calm and self._chance.random() < self._plan.odd:
            made.headers["Retry-After"] = self._chance.choice(_ODD_PAUSES[:4])
        made.body = self._chance.choice(
            [b'{"code":-1003,"msg":"Way too much request weight used."}', _HTML, b""]
        )
        made.refusal = self.referee.refuses(sent, until - self.epoch)

    def _fill(self, sent: Sent, made: _Answer, fault: object) -> None:
        """Add the body of a good answer, or of one that is nearly good."""
        version = self.versions[-1]
        if sent.endpoint == "ping":
            made.body = b"{}"
        elif sent.endpoint == "exchangeInfo":
            limit = {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "SECOND",
                "intervalNum": self._plan.interval,
                "limit": self._plan.limit,
            }
            made.body = msgspec.json.encode({"rateLimits": [limit]})
        elif sent.symbol is None:
            pools: list[Any] = [msgspec.to_builtins(pool) for pool in version.pools]
            if fault == "bad pool":
                del self._chance.choice(pools)["assets"]
            made.body = msgspec.json.encode(pools)
        elif (pool := version.by_symbol.get(sent.symbol.upper())) is not None:
            made.body = msgspec.json.encode(pool)
        else:
            made.status = sent.status = 400
            made.body = b'{"code":-1121,"msg":"Invalid symbol."}'
        if fault == "body cut":
            made.body = made.body[: len(made.body) // 2]
        made.broken = fault == "body broken"


class Session:
    """What a client uses of an aiohttp session.

    Attributes:
        process: the client's.
        closed: never.
        in_flight: what was sent and has not ended.
        faults: how often something was not as it should be.
    """

    closed = False

    def __init__(self, exchange: Exchange, process: Process) -> None:
        self.process = process
        self.in_flight: list[Sent] = []
        self.faults = 0
        self._exchange = exchange

    async def request(self, method: str, url: URL, **options: object) -> Response:
        """Ask the exchange."""
        assert method == "GET"
        assert options["allow_redirects"] is False
        return await self._exchange.ask(self, url)


class Response:
    """What a client uses of an aiohttp response, and of its content."""

    def __init__(self, exchange: Exchange, session: Session, sent: Sent, answer: _Answer) -> None:
        self.status = answer.status
        self.headers = answer.headers
        self.content = self
        self.closed = False
        self._exchange = exchange
        self._session = session
        self._sent = sent
        self._answer = answer
        self._slow = answer.slow > 0 or answer.broken
        self._half = len(answer.body) // 2 if self._slow else 0
        self._begun = False

    def is_eof(self) -> bool:
        return not self._slow

    def at_eof(self) -> bool:
        return self.closed

    def read_nowait(self) -> bytes:
        self._finish()
        return self._answer.body

    async def readany(self) -> bytes:
        if not self._begun:
            self._begun = True
            return self._answer.body[: self._half]
        await asyncio.sleep(self._answer.slow)
        self._finish()
        if self._answer.broken:
            raise aiohttp.ClientPayloadError("the response is not complete")
        return self._answer.body[self._half :]

    def close(self) -> None:
        self.closed = True
        self._exchange.give_up(self._session, self._sent)

    def _finish(self) -> None:
        self.closed = True
        self._exchange.read(self._session, self._sent, self._answer)


def _give(future: asyncio.Future[_Answer], answer: _Answer) -> None:
    if not future.done():
        future.set_result(answer)


def _fail(future: asyncio.Future[_Answer], error: Exception) -> None:
    if not future.done():
        future.set_exception(error)
