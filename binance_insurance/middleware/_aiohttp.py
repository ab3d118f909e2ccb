"""A weight budget for every request of an aiohttp session."""

from __future__ import annotations

from typing import TYPE_CHECKING

import aiohttp

from .._transport import PaysWeight
from ._paying import HeldBackError, Payer, needs_body

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import ClientHandlerType, ClientRequest, ClientResponse
    from aiohttp.connector import Connection

    from ..budget import Budget
    from ._paying import Payment


class NotSentError(aiohttp.ClientConnectionError):
    """The budget let the request not be sent; the cause says why."""


class BudgetMiddleware(PaysWeight):
    """A client middleware: `aiohttp.ClientSession(middlewares=[BudgetMiddleware(budget)])`.

    Each request of the session to the exchange waits for weight, takes it and reports its answer;
    redirects and resends too. A request to another origin passes untouched. Put it last, so that
    what other middlewares send again pays again.

    Args:
        budget: what the requests spend from.
        base_url: the exchange; scheme, host and port count.
        weigh: what a request weighs, from method and URL; where it returns None, and by default,
            the table of `binance_insurance.weights` holds, corrected by what answers report.
        orders: what POST, PUT and DELETE spend from, such as `budget.view(reserve=0)`.
        timeout: seconds that a request may wait for weight; None for as long as the session's own
            timeouts let it, which run meanwhile.

    Raises:
        TypeError: an argument is of the wrong type, such as a budget that is a blocking one.
        ValueError: the budget serves another exchange, or an argument is wrong.

    A request that is not sent raises a subclass of `aiohttp.ClientConnectionError`, whose
    `__cause__` is `IPBannedError`, `BudgetTimeoutError` or `StoreError`.
    """

    def __init__(
        self,
        budget: Budget,
        *,
        base_url: str = "https://fapi.binance.com",
        weigh: Callable[[str, str], int | None] | None = None,
        orders: Budget | None = None,
        timeout: float | None = None,
    ) -> None:
        self._payer = Payer(budget, base_url, weigh=weigh, orders=orders, timeout=timeout)

    async def __call__(self, request: ClientRequest, send: ClientHandlerType) -> ClientResponse:
        """Pay for a request and send it."""
        url = str(request.url)
        if not self._payer.concerns(url):
            return await send(request)
        payment = self._payer.payment(request.method, url)
        write = request.send

        async def confirm(connection: Connection) -> ClientResponse:
            """Ask the budget again, now that the request has its connection."""
            if not payment.confirm():
                connection.release()
                raise HeldBackError
            return await write(connection)

        # aiohttp has no other place between a connection and the first byte.
        setattr(request, "send", confirm)  # noqa: B010 - it is a method
        try:
            response = await payment.pay_for(lambda: send(request), NotSentError)
        finally:
            del request.send
        if not payment.sent:  # another middleware has answered
            payment.end()
        elif needs_body(response.status):
            await _report_refusal(response, payment)
        else:
            payment.report(response.status, response.headers)
        return response


async def _report_refusal(response: ClientResponse, payment: Payment) -> None:
    """Read the body of a refusal, which is kept to be read again, and report it."""
    body = b""
    try:
        body = await response.read()
    except aiohttp.ClientError:
        pass  # the program reads it again, and gets the same error
    except BaseException:
        response.close()
        raise
    finally:
        await payment.report_refusal(response.status, response.headers, body)
