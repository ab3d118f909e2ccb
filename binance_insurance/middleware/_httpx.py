"""A weight budget for every request of an `httpx.AsyncClient`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Self

import httpx

from ._paying import HeldBackError, Payer, needs_body

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from ..budget import Budget
    from ._paying import Payment

_ABOUT_TO_SEND = "send_request_headers.started"  # of HTTP/1.1 and HTTP/2
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout)


class NotSentError(httpx.ConnectError):
    """The budget let the request not be sent; the cause says why."""


class BudgetTransport(httpx.AsyncBaseTransport):
    """A transport: `httpx.AsyncClient(transport=BudgetTransport(budget))`.

    Each request of the client to the exchange waits for weight, takes it and reports its answer;
    redirects too. A request to another origin passes untouched.

    Args:
        budget: what the requests spend from.
        transport: what sends them; by default an `httpx.AsyncHTTPTransport`. It is closed with
            this one.
        base_url: the exchange; scheme, host and port count.
        weigh: what a request weighs, from method and URL; where it returns None, and by default,
            the table of `binance_insurance.weights` holds, corrected by what answers report.
        orders: what POST, PUT and DELETE spend from, such as `budget.view(reserve=0)`.
        timeout: seconds that a request may wait for weight; None for no bound: the client's own
            timeouts do not count that wait.

    Raises:
        TypeError: an argument is of the wrong type, such as a budget that is a blocking one.
        ValueError: the budget serves another exchange, or an argument is wrong.

    A request that is not sent raises a subclass of `httpx.ConnectError`, whose `__cause__` is
    `IPBannedError`, `BudgetTimeoutError` or `StoreError`.
    """

    def __init__(
        self,
        budget: Budget,
        transport: httpx.AsyncBaseTransport | None = None,
        *,
        base_url: str = "https://fapi.binance.com",
        weigh: Callable[[str, str], int | None] | None = None,
        orders: Budget | None = None,
        timeout: float | None = None,
    ) -> None:
        self._payer = Payer(budget, base_url, weigh=weigh, orders=orders, timeout=timeout)
        self._transport = httpx.AsyncHTTPTransport() if transport is None else transport
        # Others may not say when they are about to send.
        self._says_when = isinstance(self._transport, httpx.AsyncHTTPTransport)

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Pay for a request and send it."""
        url = str(request.url)
        if not self._payer.concerns(url):
            return await self._transport.handle_async_request(request)
        payment = self._payer.payment(request.method, url)
        response = await payment.pay_for(
            lambda: self._send(request, payment),
            lambda text: NotSentError(text, request=request),
        )
        if needs_body(response.status_code):
            return await _report_refusal(response, payment)
        payment.report(response.status_code, response.headers)
        return response

    async def _send(self, request: httpx.Request, payment: Payment) -> httpx.Response:
        """Send a request, and ask the budget again once the request has its connection."""
        given = request.extensions
        users: Callable[[str, object], Any] | None = given.get("trace")

        async def trace(name: str, info: dict[str, Any]) -> None:
            if name.endswith(_ABOUT_TO_SEND) and info["request"].method != b"CONNECT":
                _confirm(payment)
            if users is not None:
                await users(name, info)

        if not self._says_when:
            _confirm(payment)
        request.extensions = {**given, "trace": trace}
        try:
            return await self._transport.handle_async_request(request)
        except _NEVER_SENT:
            payment.end(sent=False)
            raise
        finally:
            request.extensions = given

    async def aclose(self) -> None:
        """Close the transport that sends."""
        await self._transport.aclose()

    async def __aenter__(self) -> Self:
        await self._transport.__aenter__()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None = None,
        exc_value: BaseException | None = None,
        traceback: TracebackType | None = None,
    ) -> None:
        await self._transport.__aexit__(exc_type, exc_value, traceback)


def _confirm(payment: Payment) -> None:
    if not payment.confirm():
        raise HeldBackError


async def _report_refusal(response: httpx.Response, payment: Payment) -> httpx.Response:
    """Read the body of a refusal, report it, and give it on to be read again."""
    status, body = response.status_code, b""
    try:
        raw = b"".join([part async for part in response.aiter_raw()])
        response = httpx.Response(
            status,
            headers=response.headers,
            stream=httpx.ByteStream(raw),
            extensions=response.extensions,
        )
        body = _decoded(response, raw)
    except BaseException:
        await response.aclose()
        raise
    finally:
        await payment.report_refusal(status, response.headers, body)
    return response


def _decoded(response: httpx.Response, raw: bytes) -> bytes:
    try:
        return httpx.Response(response.status_code, headers=response.headers, content=raw).content
    except httpx.DecodingError:
        return b""  # the program gets the same error
