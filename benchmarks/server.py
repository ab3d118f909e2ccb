"""The exchange of the benchmarks: as fast as can be, so that the clients are what is measured.

It keeps no limits (the sandbox does). It answers with the headers that the exchange sends and with
pools like the documented example: four assets and as many symbols as asked for. It counts requests
and weight: `GET /counts` gives them, `GET /reset` sets them to zero.
Run as `python -m benchmarks.server POOLS SYMBOLS_OF_EACH`, it prints its URL, and ends when its
input does.
"""

from __future__ import annotations

import asyncio
import sys
import time
from email.utils import formatdate
from typing import cast
from urllib.parse import unquote_to_bytes

import msgspec

SNAPSHOT_WEIGHT = 40
_ASSETS = (  # those of the documented example
    ("USDC", 299999998, "6497832"),
    ("USDT", 793930579, "315848"),
    ("BTC", 1061, "73143554"),
    ("BNFCR", 633223, "99396922"),
)


def symbols_of(pool: int, size: int) -> list[str]:
    """Name the symbols that a pool covers."""
    return [f"S{pool:03}X{number}USDT" for number in range(size)]


class Exchange:
    """The answers, built once, and the counts."""

    def __init__(self, pools: int, size: int) -> None:
        self.requests = 0
        self.weight = 0
        documents = [
            {
                "symbols": symbols_of(number, size),
                "assets": [
                    {
                        "asset": asset,
                        "marginBalance": f"{whole - number}.{fraction}",
                        "updateTime": 1745366402000,
                    }
                    for asset, whole, fraction in _ASSETS
                ],
            }
            for number in range(pools)
        ]
        self._snapshot = msgspec.json.encode(documents)
        self._pools = {
            symbol.encode(): msgspec.json.encode(document)
            for number, document in enumerate(documents)
            for symbol in symbols_of(number, size)
        }
        self._head = b""
        self._head_until = 0.0

    def answer(self, request: bytes) -> bytes:
        """Return the whole answer to a request's first line."""
        target = request.split(b" ", 2)[1]
        path, _, query = target.partition(b"?")
        if path not in {b"/fapi/v1/insuranceBalance", b"/fapi/v1/ping"}:
            return self._administer(path)
        self.requests += 1
        if path == b"/fapi/v1/ping":
            self.weight += 1
            return self._respond(b"200 OK", b"{}")
        name, _, symbol = query.partition(b"=")  # no client here sends any other parameter
        if name != b"symbol":
            self.weight += SNAPSHOT_WEIGHT
            return self._respond(b"200 OK", self._snapshot)
        self.weight += 1
        body = self._pools.get(unquote_to_bytes(symbol))
        if body is None:
            return self._respond(b"400 Bad Request", b'{"code":-1121,"msg":"Invalid symbol."}')
        return self._respond(b"200 OK", body)

    def _administer(self, path: bytes) -> bytes:
        if path == b"/reset":
            self.requests = self.weight = 0
        return self._respond(b"200 OK", b"[%d,%d]" % (self.requests, self.weight))

    def _respond(self, status: bytes, body: bytes) -> bytes:
        now = time.time()
        if now >= self._head_until:
            self._head_until = now // 1 + 1
            self._head = b"Content-Type: application/json\r\nDate: %s\r\nServer: benchmark\r\n" % (
                formatdate(now, usegmt=True).encode()
            )
        return b"HTTP/1.1 %s\r\n%sX-MBX-USED-WEIGHT-1M: %d\r\nContent-Length: %d\r\n\r\n%s" % (
            status,
            self._head,
            self.weight,
            len(body),
            body,
        )


class Connection(asyncio.Protocol):
    """One connection that is kept alive."""

    def __init__(self, exchange: Exchange) -> None:
        self._exchange = exchange
        self._pending = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Note where answers go."""
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        """Answer every request whose head is complete; none has a body."""
        *heads, self._pending = (self._pending + data).split(b"\r\n\r\n")
        for head in heads:
            self._transport.write(self._exchange.answer(head))


async def serve(pools: int, size: int) -> None:
    """Serve on a free port of the loopback interface until the input ends."""
    exchange = Exchange(pools, size)
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: Connection(exchange), "127.0.0.1", 0)
    print(f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", flush=True)
    # Whoever started it may be killed; then its input ends.
    await asyncio.to_thread(sys.stdin.read)
    server.close()


if __name__ == "__main__":
    asyncio.run(serve(int(sys.argv[1]), int(sys.argv[2])))
