"""The HTTP server of the local exchange."""

from __future__ import annotations

import asyncio
import socket
import struct
import time
from collections import deque
from email.utils import formatdate
from typing import TYPE_CHECKING, Literal, Self

import msgspec
from aiohttp import web

from ._accounting import Accounting, SeenRequest
from ._faults import Fault, FaultKind
from ._scenarios import Documented, Market, Scenario

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping
    from types import TracebackType

    from ..models import InsurancePool

_SCENARIOS: dict[str, type[Scenario]] = {"documented": Documented, "market": Market}
_LETTERS = {1: "S", 60: "M", 3_600: "H", 86_400: "D"}
_NAMES = {1: "SECOND", 60: "MINUTE", 3_600: "HOUR", 86_400: "DAY"}
_WORTH_COMPRESSING = 1024
_REFUSED, _BANNED = 429, 418
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)  # SO_LINGER of 0 s: closing sends a TCP reset


class Sandbox:
    """A local exchange on loopback; an async context manager with `.url`.

    Args:
        scenario: `"documented"` (the pools of the exchange's documentation), `"market"` (about
            900 symbols in 60 pools, with balances that change) or your own `Scenario`.
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
        faults: faulty answers for the next requests for pools, in order; see `Fault`.
        host: address to listen on.
        port: port to listen on; 0 takes a free one.
        clock: the local clock in seconds since 1970.

    All settings except host, port and scenario can be changed while it runs: they are attributes
    of the same names (limit, ban and traffic settings are attributes of `accounting`).
    """

    def __init__(
        self,
        scenario: Literal["documented", "market"] | Scenario = "documented",
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
        faults: Iterable[Fault] = (),
        host: str = "127.0.0.1",
        port: int = 0,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.accounting = Accounting(
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
        self.faults = deque(faults)
        if isinstance(scenario, str) and scenario not in _SCENARIOS:
            raise ValueError(f"scenario must be one of {list(_SCENARIOS)}, not {scenario!r}")
        self._scenario = _SCENARIOS[scenario]() if isinstance(scenario, str) else scenario
        self._host = host
        self._port = port
        self._clock = clock
        self._runner: web.AppRunner | None = None
        self._pools: tuple[InsurancePool, ...] = ()
        self._all_pools = b""
        self._pool_of: dict[str, bytes] = {}
        size = max(unit for unit in _LETTERS if interval % unit == 0)
        self._unit, self._units = size, interval // size
        self._weight_header = f"X-MBX-USED-WEIGHT-{self._units}{_LETTERS[size]}"

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

    def inject(self, *faults: Fault) -> None:
        """Answer the next requests for pools with these faults, in this order."""
        self.faults.extend(faults)

    def spend_elsewhere(self, weight: int) -> None:
        """Spend weight as another client on the same IP."""
        self.accounting.spend_elsewhere(weight, self.now)

    async def __aenter__(self) -> Self:
        app = web.Application()
        app.router.add_get("/fapi/v1/ping", self._ping)
        app.router.add_get("/fapi/v1/time", self._time)
        app.router.add_get("/fapi/v1/exchangeInfo", self._exchange_info)
        app.router.add_get("/fapi/v1/insuranceBalance", self._insurance_balance)
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

    async def _ping(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, 1, lambda _: (200, b"{}"))

    async def _time(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(
            request, 1, lambda now: (200, b'{"serverTime":%d}' % int(now * 1000))
        )

    async def _exchange_info(self, request: web.Request) -> web.StreamResponse:
        return await self._answer(request, 1, self._info)

    async def _insurance_balance(self, request: web.Request) -> web.StreamResponse:
        symbol = request.query.get("symbol")
        weight = self.snapshot_weight if symbol is None else 1

        def balance(now: float) -> tuple[int, bytes]:
            self._encode_pools(now)
            if symbol is None:
                return 200, self._all_pools
            pool = self._pool_of.get(symbol.upper())
            if pool is None:
                return 400, b'{"code":-1121,"msg":"Invalid symbol."}'
            return 200, pool

        return await self._answer(request, weight, balance, symbol=symbol, faulty=True)

    async def _answer(
        self,
        request: web.Request,
        weight: int,
        content: Callable[[float], tuple[int, bytes]],
        *,
        symbol: str | None = None,
        faulty: bool = False,
    ) -> web.StreamResponse:
        """Count a request, decide its verdict, and send the answer that belongs to the verdict."""
        now = self.now
        endpoint = request.path.rpartition("/")[2]
        if faulty and self.faults and not self.faults[0].counted:
            weight = 0
        seen = self.accounting.request(endpoint, symbol, weight, now)
        latency = self.latency() if callable(self.latency) else self.latency
        if latency > 0:
            await asyncio.sleep(latency)
        if seen.verdict != web.HTTPOk.status_code:
            status, body = seen.verdict, self._refusal(seen)
            return self._response(request, seen, status, body, self._refusal_headers(seen))
        fault = self.faults.popleft() if faulty and self.faults else None
        status, body = content(now)
        if fault is None:
            return self._response(request, seen, status, body, {})
        if fault.kind is FaultKind.NONE:
            body = fault.body if fault.body is not None else body
            return self._response(request, seen, fault.status, body, fault.headers)
        if fault.kind is FaultKind.STALL:
            await asyncio.Event().wait()
        return await self._break_off(request, seen, body, fault)

    def _response(
        self,
        request: web.Request,
        seen: SeenRequest,
        status: int,
        body: bytes,
        headers: Mapping[str, str],
    ) -> web.Response:
        response = web.Response(
            status=status,
            body=body,
            headers={**self._common_headers(seen), **headers},
            content_type=None if "Content-Type" in headers else _content_type(body),
            zlib_executor_size=1 << 30,  # compress in this thread
        )
        if len(body) >= _WORTH_COMPRESSING and "gzip" in request.headers.get("Accept-Encoding", ""):
            response.enable_compression(web.ContentCoding.gzip)
        return response

    async def _break_off(
        self, request: web.Request, seen: SeenRequest, body: bytes, fault: Fault
    ) -> web.StreamResponse:
        headers = {**self._common_headers(seen), **fault.headers}
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

    def _common_headers(self, seen: SeenRequest) -> dict[str, str]:
        headers = {"Date": formatdate(self.now, usegmt=True)}
        if self.used_weight_header != "missing":
            used = seen.used_weight if self.used_weight_header == "present" else -1
            if self.node_lag and used > 0 and len(self.accounting.seen) % 2:
                used = max(1, used - self.node_lag)
            headers[self._weight_header] = str(used)
        return headers

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

    def _encode_pools(self, now: float) -> None:
        pools = self._scenario.pools(now)
        if pools is self._pools:
            return
        self._pools = pools
        self._all_pools = msgspec.json.encode(pools)
        self._pool_of = {}
        for pool in pools:
            body = msgspec.json.encode(pool)
            for symbol in pool.symbols:
                self._pool_of.setdefault(symbol, body)

    def _info(self, now: float) -> tuple[int, bytes]:
        self._encode_pools(now)
        info = {
            "timezone": "UTC",
            "serverTime": int(now * 1000),
            "rateLimits": [
                {
                    "rateLimitType": "REQUEST_WEIGHT",
                    "interval": _NAMES[self._unit],
                    "intervalNum": self._units,
                    "limit": self.accounting.limit,
                }
            ],
            "symbols": [
                {
                    "symbol": symbol,
                    "contractType": "CURRENT_QUARTER" if "_" in symbol else "PERPETUAL",
                    "status": "TRADING",
                }
                for symbol in self._pool_of
            ],
        }
        return 200, msgspec.json.encode(info)


def _content_type(body: bytes) -> str:
    if body.startswith(b"<"):
        return "text/html"
    return "application/json" if body[:1] in {b"{", b"["} else "text/plain"
