"""Every block of the page about one budget that needs another program's library runs."""

from __future__ import annotations

import asyncio
import re
import textwrap
from importlib import import_module
from typing import Any

import pytest

from binance_insurance.budget import create_budget

from .. import ROOT
from .clients import foreign

URL = "https://fapi.binance.com"
PAGE = (ROOT / "docs" / "one-budget.md").read_text("utf-8")
BLOCKS = re.findall(r"^```py\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)


def names() -> dict[str, Any]:
    """What the blocks take as given, imports included."""
    middleware: Any = import_module("binance_insurance.middleware")
    package = "binance_sdk_derivatives_trading_usds_futures.rest_api"
    foreign("ccxt.async_support")
    return {
        "URL": URL,
        "BudgetAdapter": middleware.BudgetAdapter,
        "BudgetMiddleware": middleware.BudgetMiddleware,
        "BudgetTransport": middleware.BudgetTransport,
        "aiohttp": foreign("aiohttp"),
        "ccxt": foreign("ccxt"),
        "httpx": foreign("httpx"),
        "requests": foreign("requests"),
        "AsyncClient": foreign("binance").AsyncClient,
        "ConfigurationRestAPI": foreign("binance_common.configuration").ConfigurationRestAPI,
        "DerivativesTradingUsdsFuturesRestAPI": foreign(
            package
        ).DerivativesTradingUsdsFuturesRestAPI,
    }


async def close(made: dict[str, Any]) -> None:
    """Close the clients that a block made."""
    exchange, client, session = (made.get(name) for name in ("exchange", "client", "session"))
    if exchange is not None and not exchange.synchronous:
        await exchange.close()
    if client is not None:
        await (client.aclose if hasattr(client, "aclose") else client.close_connection)()
    if session is not None:
        closed = session.close()
        if closed is not None:
            await closed


@pytest.mark.parametrize("block", BLOCKS, ids=[block.splitlines()[0][:40] for block in BLOCKS])
def test_a_client_takes_the_budget(block: str) -> None:
    assert len(block.splitlines()) <= 3

    async def main() -> None:
        async with create_budget("memory://") as budget:
            given = {**names(), "budget": budget, "blocking": budget.blocking()}
            exec(textwrap.dedent(block), given)  # noqa: S102 - our own page
            made = {name: given.get(name) for name in ("exchange", "client", "session", "api")}
            try:
                assert pays(made), "requests of this client would not pay"
            finally:
                await close(made)

    asyncio.run(main())


def pays(made: dict[str, Any]) -> bool:
    """Whether requests to the exchange go through the middleware."""
    client = next(each for each in made.values() if each is not None)
    session = getattr(client, "session", None) or getattr(client, "_session", None) or client
    if hasattr(session, "get_adapter"):
        way: Any = session.get_adapter(f"{URL}/fapi/v1/ping")
    elif hasattr(session, "_transport_for_url"):
        way = session._transport_for_url(foreign("httpx").URL(f"{URL}/fapi/v1/ping"))
    else:
        (way,) = session._middlewares
    return type(way).__module__.startswith("binance_insurance.middleware")
