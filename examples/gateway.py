"""Let programs in any language spend from one budget: `python examples/gateway.py --help`.

It listens on loopback, and passes public GET requests on to the exchange as soon as there is weight
for them. Point a program at it by its base URL. A request with a key or a signature gets 403.
"""

from __future__ import annotations

import argparse
import asyncio
from collections.abc import AsyncIterator  # noqa: TC003
from math import ceil

import aiohttp
from aiohttp import web
from yarl import URL

from binance_insurance import Budget, InsuranceError, IPBannedError, create_budget
from binance_insurance.middleware import BudgetMiddleware

PASSED_ON = ("CONTENT-TYPE", "DATE", "RETRY-AFTER", "LOCATION", "X-MBX-")
SESSION = web.AppKey("SESSION", aiohttp.ClientSession)


def make_app(budget: Budget, base_url: str) -> web.Application:
    """Make the gateway's application; its requests spend from the budget."""

    async def keep_session(app: web.Application) -> AsyncIterator[None]:
        pays = BudgetMiddleware(budget, base_url=base_url)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=30)  # not the wait
        async with aiohttp.ClientSession(middlewares=[pays], timeout=timeout) as app[SESSION]:
            yield

    async def pass_on(request: web.Request) -> web.Response:
        if "X-MBX-APIKEY" in request.headers or "signature" in request.query:
            raise web.HTTPForbidden(text="no keys and no signatures: this is for public data")
        if not request.raw_path.startswith("/"):
            raise web.HTTPForbidden(text="this is no proxy: point the program's base URL at it")
        url = URL(base_url.rstrip("/") + request.raw_path, encoded=True)
        try:
            async with request.app[SESSION].get(url, allow_redirects=False) as answer:
                found = answer.headers.items()
                kept = {name: text for name, text in found if name.upper().startswith(PASSED_ON)}
                return web.Response(status=answer.status, headers=kept, body=await answer.read())
        except aiohttp.ClientError as error:
            return explain(error)

    app = web.Application()
    app.cleanup_ctx.append(keep_session)
    app.router.add_get("/{path:.*}", pass_on, allow_head=False)
    return app


def explain(error: aiohttp.ClientError) -> web.Response:
    """Say that nothing was sent and when to come back, or that the connection broke."""
    cause = error.__cause__
    if not isinstance(cause, InsuranceError):
        return web.json_response({"msg": str(error)}, status=502)
    wait = {} if cause.retry_after is None else {"Retry-After": str(ceil(cause.retry_after))}
    status = 418 if isinstance(cause, IPBannedError) else 503
    return web.json_response({"code": -1003, "msg": str(cause)}, status=status, headers=wait)


async def main() -> None:
    """Serve until Ctrl-C."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--base-url", default="https://fapi.binance.com")
    parser.add_argument("--budget", default="memory://", help="such as sqlite:////tmp/b.sqlite")
    parser.add_argument("--port", type=int, default=8418)
    given = parser.parse_args()
    async with create_budget(given.budget) as budget:
        runner = web.AppRunner(make_app(budget, given.base_url), handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", given.port).start()
        print("http://{}:{}".format(*runner.addresses[0]), flush=True)
        await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main())
