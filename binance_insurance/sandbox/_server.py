"""The HTTP server of the local exchange."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import defaultdict, deque
from email.utils import formatdate
from itertools import chain
from typing import TYPE_CHECKING, Literal, Self

import msgspec
from aiohttp import web

from ._accounting import Accounting, Interval, SeenRequest
from ._bodies import Asked
from ._endpoints import ENDPOINTS, OTHER, Endpoint, Reported, Symbol
from ._faults import Fault, FaultKind, checked
from ._scenarios import Fixed, scenario_of
from ._served import Served

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import TracebackType

    from ..models import InsurancePool
    from ._scenarios import Scenario

_WORTH_COMPRESSING = 1024
_REFUSED, _BANNED = 429, 418
_INVALID_SYMBOL = b'{"code":-1121,"msg":"Invalid symbol."}'
_POOLS = "GET /fapi/v1/insuranceBalance"
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends a TCP reset


class Sandbox:
    """A local exchange on loopback; an async context manager with `.url`.

    Args:
        scenario: `"documented"` (the pools of the exchange's documentation), `"market"` (about
            900 symbols in 60 pools, with balances that change), `"regrouping"` (a day in a minute:
            pools are regrouped, listed, delisted, and the exchange fails), your own `Scenario`, or
            a sequence of pools, which do not change until `set_pools`.
        limit: request weight that the IP is granted in one window.
        interval: seconds of a window, a whole number.
        snapshot_weight: weight of the snapshot request, the one without `symbol`.
        ban_seconds: length of the first ban; it doubles with each further one, up to 3 days.
        tolerated_refusals: 429s in one window after which the next request brings a ban.
        clock_offset: seconds by which the exchange's clock is ahead of the local one.
        latency: seconds between counting and answering a request, or a function that returns them.
        other_weight_per_second: what other clients on the same IP spend, evenly.
        used_weight_header: whether answers report the used weight, report -1, or have no header.
        retry_after: whether refusals carry `Retry-After`, carry it as 0, or do not carry it.
        node_lag: every second answer reports a used weight that is lower by this much, like a
            node of the exchange that lags behind.
        weights: weights of requests by method and path, such as `{"GET /fapi/v1/new": 7}`, instead
            of the documented ones. A path that the sandbox does not know answers `{}` where it is
            given a weight, and 404, which counts nothing, where it is not.
        inaccurate_used_weight: the used weight in answers to `ticker/bookTicker` and
            `v2/ticker/price`, whose header the exchange calls inaccurate.
        faults: faulty answers for the next requests for pools, in order; see `Fault`.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        clock: the local clock in seconds since 1970.

    All settings except host, port and scenario can be changed while it runs: they are attributes
    of the same names (limit, ban and traffic settings are attributes of `accounting`). `set_pools`
    changes the pools.

    Raises:
        ValueError: no scenario has that name, or the interval is no whole number of seconds.
        TypeError: the sequence holds something else than pools, or `faults` than faults.
    """

    def __init__(
        self,
        scenario: Literal["documented", "market", "regrouping"]
        | Scenario
        | Sequence[InsurancePool] = "documented",
        *,
        limit: int = 2400,
        interval: int = 60,
        snapshot_weight: int = 40,
        ban_seconds: float = 120.0,
        tolerated_refusals: int = 5,
        clock_offset: float = 0.0,
        latency: float | Callable[[], float] = 0.0,
        other_weight_per_second: float = 0.0,
        used_weight_header: Literal["present", "missing", "minus-one"] = "present",
        retry_after: Literal["present", "absent", "zero"] = "present",
        node_lag: int = 0,
        weights: Mapping[str, int] | None = None,
        inaccurate_used_weight: int = 1,
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.accounting: Accounting = Accounting(
            limit,
            interval=interval,
            ban_seconds=ban_seconds,
            tolerated_refusals=tolerated_refusals,
            other_weight_per_second=other_weight_per_second,
        )
        self.snapshot_weight = snapshot_weight
        self.clock_offset = clock_offset
        self.latency = latency
        self.used_weight_header = used_weight_header
        self.retry_after = retry_after
        self.node_lag = node_lag
        self.weights: dict[str, int] = dict(weights or {})
        self.inaccurate_used_weight = inaccurate_used_weight
        self.faults: deque[Fault] = deque(checked(faults))
        self._other_faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self._served = Served(scenario_of(scenario))
        self._host = host
        self._port = port
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._interval = Interval.of(interval)

    @property
    def url(self) -> str:
        """The base URL to give to a client, once the sandbox has started."""
        if self._runner is None:
            raise RuntimeError("the sandbox has not started; use it with `async with`")
        host = f"[{self._host}]" if ":" in self._host else self._host
        return f"http://{host}:{self._port}"

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The requests that it received, oldest first (the last 100,000)."""
        return tuple(self.accounting.seen)

    @property
    def now(self) -> float:
        """The exchange's clock, in seconds since 1970."""
        return self._clock() + self.clock_offset

    @property
    def unmet_faults(self) -> tuple[Fault, ...]:
        """The faults that no request has met yet: those for pools first, in order."""
        return tuple(chain(self.faults, *self._other_faults.values()))

    def set_pools(self, *pools: InsurancePool) -> None:
        """Serve these pools, in this order, from the next request on, instead of the scenario.

        When a pool was observed is not part of an answer. Without any pool, the answer is empty.

        Raises:
            TypeError: one of them is no pool.
        """
        self._served = Served(Fixed(pools))

    def inject(self, *faults: Fault, request: str = _POOLS) -> None:
        """Answer the next requests with these faults, in this order.

        Args:
            faults: the answers.
            request: which requests, by method and path, such as `POST /fapi/v1/order`; those for
                pools by default.

        Raises:
            TypeError: one of them is no fault.
        """
        self._faults_of(request).extend(checked(faults))

    def _faults_of(self, request: str) -> deque[Fault]:
        return self.faults if request == _POOLS else self._other_faults[request]

    def spend_elsewhere(self, weight: int) -> None:
        """Spend weight as another client on the same IP.

        Raises:
            ValueError: it is no whole number, or a negative one.
        """
        self.accounting.spend_elsewhere(weight, self.now)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/fapi/v1/insuranceBalance", self._insurance_balance)
        for method, path in map(str.split, ENDPOINTS):
            app.router.add_route(method, path, self._endpoint)
        app.router.add_route("*", "/{path:.*}", self._endpoint)
        # A stalled request must not delay the shutdown.
        self._runner = web.AppRunner(
            app, access_log=None, handler_cancellation=True, shutdown_timeout=0.1
        )
        await self._runner.setup()
        site = web.TCPSite(self._runner, self._host, self._port)
        try:
            await site.start()
        except BaseException:
            await self._runner.cleanup()
            raise
        self._port = self._runner.addresses[0][1]
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _endpoint(self, request: web.Request) -> web.StreamResponse:
        name = _name(request)
        if name not in ENDPOINTS and name not in self.weights:
            raise web.HTTPNotFound
        endpoint = ENDPOINTS.get(name, OTHER)
        form = await request.post()
        parameters = {name: value for name, value in form.items() if isinstance(value, str)}
        parameters |= request.query
        weight = self.weights.get(name, endpoint.weigh(parameters))

        def content(now: float) -> tuple[int, bytes]:
            return self._content(endpoint, parameters, now)

        symbol = parameters.get("symbol")
        return await self._answer(request, weight, content, symbol, endpoint.reported)

    def _content(
        self, endpoint: Endpoint, parameters: Mapping[str, str], now: float
    ) -> tuple[int, bytes]:
        self._served.update(now)
        symbol = parameters.get("symbol", "").upper()
        one = bool(symbol) and endpoint.symbol is not Symbol.UNUSED
        if endpoint.symbol is Symbol.NEEDED and not symbol:
            return 400, b'{"code":-1102,"msg":"Mandatory parameter \'symbol\' was not sent."}'
        if one and symbol not in self._served.pool_of:
            return 400, _INVALID_SYMBOL
        symbols = [symbol] if one else list(self._served.pool_of)
        limits = [self._interval.rate_limit(self.accounting.limit)]
        asked = Asked(parameters, symbols, one, int(now * 1000), limits)
        return 200, msgspec.json.encode(endpoint.body(asked))

    async def _insurance_balance(self, request: web.Request) -> web.StreamResponse:
        symbol = request.query.get("symbol")
        weight = self.snapshot_weight if symbol is None else 1

        def balance(now: float) -> tuple[int, bytes]:
            self._served.update(now)
            if symbol is None:
                return 200, self._served.every_pool
            pool = self._served.pool_of.get(symbol.upper())
            if pool is None:
                return 400, _INVALID_SYMBOL
            return 200, pool

        return await self._answer(request, weight, balance, symbol)

    async def _answer(
        self,
        request: web.Request,
        weight: int,
        content: Callable[[float], tuple[int, bytes]],
        symbol: str | None,
        reported: Reported = Reported.ACCURATE,
    ) -> web.StreamResponse:
        """Count a request, decide its verdict, and send the answer that belongs to the verdict."""
        now = self.now
        faults = self._faults_of(_name(request))
        fault = faults[0] if faults else self._served.scenario.fault(now)
        if fault is not None and not fault.counted:
            weight = 0
        endpoint = request.path.rpartition("/")[2]
        seen = self.accounting.request(endpoint, symbol, weight, now, request.method)
        latency = self.latency() if callable(self.latency) else self.latency
        if latency > 0:
            await asyncio.sleep(latency)
        headers = self._common_headers(seen, reported)
        if seen.verdict != web.HTTPOk.status_code:
            headers |= self._refusal_headers(seen)
            return self._response(request, seen.verdict, self._refusal(seen), headers)
        fault = faults.popleft() if faults else self._served.scenario.fault(now)
        status, body = content(now)
        if fault is None:
            return self._response(request, status, body, headers)
        headers |= fault.headers
        if fault.kind is FaultKind.NONE:
            body = fault.body if fault.body is not None else body
            return self._response(request, fault.status, body, headers)
        if fault.kind is FaultKind.STALL:
            await asyncio.Event().wait()
        return await self._break_off(request, fault, body, headers)

    def _response(
        self,
        request: web.Request,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
    ) -> web.Response:
        response = web.Response(
            status=status,
            body=body,
            headers=headers,
            content_type=None if "Content-Type" in headers else _content_type(body),
            zlib_executor_size=1 << 30,  # compress in this thread
        )
        if len(body) >= _WORTH_COMPRESSING and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _break_off(
        self, request: web.Request, fault: Fault, body: bytes, headers: Mapping[str, str]
    ) -> web.StreamResponse:
        response = web.StreamResponse(status=fault.status, headers=headers)
        in_body = fault.kind is FaultKind.CUT_OFF
        if in_body:
            response.content_length = len(body)
            await response.prepare(request)
            await response.write(body[: len(body) // 2])
        transport = request.transport
        if transport is not None:
            if not in_body:
                connection: socket.socket = transport.get_extra_info("socket")
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
                transport.abort()
            else:
                transport.close()
        return response

    def _common_headers(self, seen: SeenRequest, reported: Reported) -> dict[str, str]:
        headers = {"Date": formatdate(self.now, usegmt=True)}
        used = self._reported_weight(seen, reported)
        if used is not None:
            headers[self._interval.weight_header] = str(used)
        return headers

    def _reported_weight(self, seen: SeenRequest, reported: Reported) -> int | None:
        """Return the used weight that an answer reports; None where it has no such header."""
        if reported is Reported.MISSING or self.used_weight_header == "missing":
            return None
        if reported is Reported.MINUS_ONE or self.used_weight_header == "minus-one":
            return -1
        if reported is Reported.INACCURATE:
            return self.inaccurate_used_weight
        used = seen.used_weight
        if self.node_lag and used > 0 and len(self.accounting.seen) % 2:
            return max(1, used - self.node_lag)
        return used

    def _refusal(self, seen: SeenRequest) -> bytes:
        if seen.verdict == _REFUSED:
            limit = self.accounting.limit
            return b'{"code":-1003,"msg":"Too many requests; current limit is %d."}' % limit
        until = int(self.accounting.banned_until * 1000)
        return (
            b'{"code":-1003,"msg":"Way too many requests; IP(127.0.0.1) banned until %d. '
            b'Please use the websocket for live updates to avoid bans."}' % until
        )

    def _refusal_headers(self, seen: SeenRequest) -> dict[str, str]:
        if self.retry_after == "absent":
            return {}
        if self.retry_after == "zero":
            return {"Retry-After": "0"}
        accounting = self.accounting
        banned = seen.verdict == _BANNED
        end = accounting.banned_until if banned else accounting.resets_at(seen.at)
        return {"Retry-After": str(max(1, int(end - self.now) + 1))}


def _name(request: web.Request) -> str:
    return f"{request.method} {request.path}"


def _content_type(body: bytes) -> str:
    if body.startswith(b"<"):
        return "text/html"
    return "application/json" if body[:1] in {b"{", b"["} else "text/plain"
