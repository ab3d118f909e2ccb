"""A weight budget for every request of a `requests.Session`."""

from __future__ import annotations

import threading
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any

import requests
from requests.adapters import HTTPAdapter

from ..budget import Budget
from ..errors import InsuranceError
from ._paying import ORDERS, HeldBackError, Payer, check_arguments, needs_body

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from requests import PreparedRequest, Response

    from ..budget.blocking import BlockingBudget
    from ..budget.calling import Caller
    from ._paying import Payment


class NotSentError(requests.ConnectionError):
    """The budget let the request not be sent; the cause says why."""


class BudgetAdapter(HTTPAdapter):
    """An adapter: `session.mount("https://fapi.binance.com", BudgetAdapter(budget.blocking()))`.

    Each request of the session to the exchange waits for weight, takes it and reports its answer;
    redirects and resends too. The exchange is the origin of its first request; a request to
    another origin passes untouched.

    Args:
        blocking: what the requests spend from, from any thread but that of its event loop.
        weigh: what a request weighs, from method and URL; where it returns None, and by default,
            the table of `binance_insurance.weights` holds, corrected by what answers report.
        orders: what POST, PUT and DELETE spend from, such as `budget.view(reserve=0).blocking()`.
        timeout: seconds that a request may wait for weight; None for no bound: the timeouts of
            requests do not count that wait.

    Raises:
        TypeError: a budget is not a blocking one, or another argument is of the wrong type.
        ValueError: an argument is wrong; at the first request, if the budget serves another
            exchange.

    A request that is not sent raises a subclass of `requests.ConnectionError`, whose `__cause__`
    is `IPBannedError`, `BudgetTimeoutError` or `StoreError`.
    """

    def __init__(
        self,
        blocking: BlockingBudget,
        *,
        weigh: Callable[[str, str], int | None] | None = None,
        orders: BlockingBudget | None = None,
        timeout: float | None = None,
    ) -> None:
        budget = self._budget = _budget_of(blocking)
        self._orders = None if orders is None else _budget_of(orders)
        check_arguments(budget, weigh, self._orders, timeout)
        self._caller = self._orders_caller = blocking.caller
        if orders is not None and orders.budget.whole is not budget.whole:
            self._orders_caller = orders.caller  # it can be in use in another loop
        self._weigh = weigh
        self._timeout = timeout
        self._payer: Payer | None = None
        self._refusal = threading.Lock()
        super().__init__()

    def init_poolmanager(
        self, connections: int, maxsize: int, block: bool = False, **pool_kwargs: Any
    ) -> None:
        """Make the pools of connections, which ask before they send."""
        super().init_poolmanager(connections, maxsize, block, **pool_kwargs)
        _let_ask(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **proxy_kwargs: Any) -> Any:
        """Return the pools of connections to a proxy, which ask before they send."""
        known = proxy in self.proxy_manager
        manager = super().proxy_manager_for(proxy, **proxy_kwargs)
        if not known:
            _let_ask(manager)
        return manager

    def send(
        self,
        request: PreparedRequest,
        stream: bool = False,
        timeout: Any = None,
        verify: bool | str = True,
        cert: Any = None,
        proxies: Mapping[str, str] | None = None,
    ) -> Response:
        """Pay for a request and send it."""

        def send() -> Response:
            given = dict(proxies or {})
            return super(BudgetAdapter, self).send(request, stream, timeout, verify, cert, given)

        url = request.url or ""
        payer = self._paying(url)
        if not payer.concerns(url):
            return send()
        method = (request.method or "GET").upper()
        caller = self._orders_caller if method in ORDERS else self._caller
        call = _Call(payer.payment(method, url), caller, self._refusal)
        try:
            response = call.send(send)
        except InsuranceError as error:
            raise NotSentError(str(error), request=request) from error
        call.report(response)
        return response

    def _paying(self, url: str) -> Payer:
        if self._payer is None:
            self._payer = Payer(
                self._budget,
                url,
                weigh=self._weigh,
                orders=self._orders,
                timeout=self._timeout,
            )
        return self._payer


class _Call:
    """One request of a thread, whose payment is made in the budget's event loop.

    A body that is read to its end hands its connection to the next thread. So while the body of a
    refusal is read, and until that is reported, no other request of the adapter asks: `refusal`.
    """

    def __init__(self, payment: Payment, caller: Caller, refusal: threading.Lock) -> None:
        self._payment = payment
        self._caller = caller
        self._refusal = refusal

    def send(self, send: Callable[[], Response]) -> Response:
        """Send it once there is weight for it; again where the budget holds it back.

        Raises:
            InsuranceError: it was not sent.
        """
        while True:
            self._take()
            before = _ask.set(self._confirm)
            try:
                return send()
            except HeldBackError:
                self._caller.call(self._payment.end)
            except BaseException:
                self._caller.call(self._payment.end)
                raise
            finally:
                _ask.reset(before)

    def report(self, response: Response) -> None:
        """Report an answer; the body of a refusal is read, and kept to be read again."""
        status, headers, payment = response.status_code, response.headers, self._payment
        if not needs_body(status):
            self._caller.call(lambda: payment.report(status, headers))
            return
        body = b""
        with self._refusal:
            try:
                body = response.content
            except requests.RequestException:
                pass  # the program reads it again, and gets an error too
            finally:
                lease = self._caller.call(lambda: payment.report(status, headers, body))
        self._caller.finish(lambda: payment.recorded(lease))

    def _confirm(self) -> None:
        """Ask the budget again, now that the request has its connection.

        Raises:
            HeldBackError: it must not be sent.
        """
        if self._payment.sent:  # urllib3 sends it again
            self._caller.call(self._payment.end)
            self._take()
        with self._refusal:
            confirmed = self._caller.call(self._payment.confirm)
        if not confirmed:
            raise HeldBackError

    def _take(self) -> None:
        self._caller.run(self._payment.take, self._payment.end)


def _budget_of(blocking: BlockingBudget) -> Budget:
    budget = getattr(blocking, "budget", None)
    if not isinstance(budget, Budget):
        raise TypeError(f"a thread needs `budget.blocking()`, not {type(blocking).__name__}")
    return budget


# What a connection of this thread asks before it sends.
_ask: ContextVar[Callable[[], None] | None] = ContextVar("_ask", default=None)


class _Asks:
    """A connection of urllib3 that asks before it sends, once it is connected."""

    sock: object
    connect: Callable[[], None]

    def request(self, *args: Any, **kwargs: Any) -> Any:
        ask = _ask.get()
        if ask is not None:
            if self.sock is None:
                self.connect()
            ask()
        return super().request(*args, **kwargs)  # type: ignore[misc]


def _let_ask(manager: Any) -> None:
    """Let the connections of a pool manager of urllib3 ask before they send."""
    manager.pool_classes_by_scheme = {
        scheme: _asking(pool) for scheme, pool in manager.pool_classes_by_scheme.items()
    }


def _asking(pool: type[Any]) -> type[Any]:
    connection: type[Any] = pool.ConnectionCls
    asking = type(connection.__name__, (_Asks, connection), {})
    return type(pool.__name__, (pool,), {"ConnectionCls": asking})
