"""A local exchange for users' own tests, in a thread of its own.

In the top-level `conftest.py`::

    pytest_plugins = ["binance_insurance.testing"]

and in a test, be it blocking or a coroutine::

    async def test_it(insurance_exchange):
        insurance_exchange.set_pools(make_pool("BTCUSDT", USDT="12.50"))
        async with insurance_exchange.client() as client:
            ...

For unittest and scripts, `run_exchange` is the same without pytest. So that a `conftest.py` may
import this module before pytest does: PYTEST_DONT_REWRITE
"""

from __future__ import annotations

import asyncio
import time
from concurrent.futures import Future
from contextlib import contextmanager
from decimal import Decimal, InvalidOperation
from threading import Lock, Thread, current_thread
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar, Unpack

from ._retry import RetryPolicy
from ._runtime import Runtime
from ._text import one_line
from .budget import LocalBudget
from .client import InsuranceClient
from .models import AssetBalance, InsurancePool, normalise_symbol
from .sandbox import Sandbox

if TYPE_CHECKING:
    from collections.abc import Callable, Generator, Iterable, Mapping, Sequence

    from ._transport import ClientSession
    from .budget import WeightBudget
    from .sandbox import Fault, Scenario, SeenRequest

__all__ = [
    "ClientOptions",
    "ExchangeOptions",
    "InsuranceExchange",
    "insurance_exchange",
    "insurance_exchange_options",
    "make_pool",
    "run_exchange",
]

T = TypeVar("T")

_PATIENCE = 10.0  # seconds for the thread to end
_FAST = RetryPolicy(base_delay=0.001, max_delay=0.01)
_REST = 10.0  # seconds of a window that are left to a test


class ExchangeOptions(TypedDict, total=False):
    """The keyword arguments of `Sandbox`."""

    scenario: Literal["documented", "market", "regrouping"] | Scenario | Sequence[InsurancePool]
    limit: int
    interval: int
    snapshot_weight: int
    ban_seconds: float
    tolerated_refusals: int
    clock_offset: float
    latency: float | Callable[[], float]
    other_weight_per_second: float
    used_weight_header: Literal["present", "missing", "minus-one"]
    retry_after: Literal["present", "absent", "zero"]
    node_lag: int
    weights: Mapping[str, int] | None
    inaccurate_used_weight: int
    faults: Iterable[Fault]
    host: str
    port: int
    clock: Callable[[], float]


class ClientOptions(TypedDict, total=False):
    """The keyword arguments of `InsuranceClient`, but for the exchange's address."""

    budget: WeightBudget | None
    retry: RetryPolicy
    attempt_timeout: float
    max_concurrency: int
    session: ClientSession | None
    max_age: float
    runtime: Runtime


class _Serving:
    """A sandbox that serves in a thread with an event loop of its own."""

    def __init__(self, sandbox: Sandbox) -> None:
        self._sandbox = sandbox
        self._started: Future[asyncio.AbstractEventLoop] = Future()
        self._done = asyncio.Event()
        self._lock = Lock()  # of calls into the loop, against its end
        self._ended = False
        # A daemon: if it hangs, it does not keep the process from ending.
        self._thread = Thread(target=self._run, name="insurance-exchange", daemon=True)

    def start(self) -> None:
        """Return when it listens; an error of its start is raised here."""
        self._thread.start()
        self._started.result()

    def end(self) -> None:
        """Return when its thread has ended."""
        with self._lock:
            self._started.result().call_soon_threadsafe(self._done.set)
            self._thread.join(_PATIENCE)
            self._ended = True
        if self._thread.is_alive():
            raise TimeoutError("the thread of the local exchange does not end")

    def call(self, function: Callable[[], T]) -> T:
        """Call a function in that thread; once it has ended, in this one."""
        if current_thread() is self._thread:  # such as in a function that gives the latency
            return function()
        result: Future[T] = Future()
        with self._lock:
            if self._ended:
                return function()
            # The loop calls it even if it is told to end right after.
            self._started.result().call_soon_threadsafe(_call, function, result)
        return result.result()

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except Exception as error:
            if self._started.done():
                raise
            self._started.set_exception(error)

    async def _serve(self) -> None:
        async with self._sandbox:
            self._started.set_result(asyncio.get_running_loop())
            await self._done.wait()


def _call(function: Callable[[], T], result: Future[T]) -> None:
    try:
        result.set_result(function())
    except BaseException as error:
        result.set_exception(error)


class InsuranceExchange:
    """A local exchange in a thread with an event loop of its own.

    The fixture `insurance_exchange` is one, and `run_exchange` gives one. Everything here can be
    called from any thread, and has taken effect when the call returns.
    """

    def __init__(self, sandbox: Sandbox, serving: _Serving) -> None:
        self._sandbox = sandbox
        self._call = serving.call

    @property
    def url(self) -> str:
        """The base URL to give to a client."""
        return self._sandbox.url

    @property
    def requests(self) -> tuple[SeenRequest, ...]:
        """The requests that it received, oldest first."""
        return self._call(lambda: self._sandbox.requests)

    @property
    def unmet_faults(self) -> tuple[Fault, ...]:
        """The faults that no request has met yet."""
        return self._call(lambda: self._sandbox.unmet_faults)

    def inject(self, *faults: Fault, request: str = "GET /fapi/v1/insuranceBalance") -> None:
        """Answer the next requests with these faults, in this order.

        Args:
            faults: the answers. One that no request has met at the end of a test is an error.
            request: which requests, by method and path; those for pools by default.

        Raises:
            TypeError: one of them is no fault, such as a list of them.
        """
        self._call(lambda: self._sandbox.inject(*faults, request=request))

    def spend_elsewhere(self, weight: int) -> None:
        """Spend weight as another program on the same IP.

        Raises:
            ValueError: it is no whole number, or a negative one.
        """
        self._call(lambda: self._sandbox.spend_elsewhere(weight))

    def set_pools(self, *pools: InsurancePool) -> None:
        """Serve these pools from the next request on, instead of all others.

        Raises:
            TypeError: one of them is no pool; see `make_pool`.
        """
        self._call(lambda: self._sandbox.set_pools(*pools))

    def client(self, **options: Unpack[ClientOptions]) -> InsuranceClient:
        """Make a client of this exchange; use it as an async context manager.

        Its budget is a `LocalBudget` of the exchange's limit and interval without a reserve, and it
        retries within milliseconds: a 503 whose `Retry-After` is longer ends the call. After a 429
        it waits for the end of the freeze, as every client does.

        Args:
            options: keyword arguments of `InsuranceClient`; they win.
        """
        if options.get("budget") is None:
            accounting = self._sandbox.accounting
            options["budget"] = LocalBudget(
                accounting.limit,
                interval=accounting.interval,
                reserve=0,
                runtime=options.get("runtime", Runtime()),
            )
        options.setdefault("retry", _FAST)
        return InsuranceClient(self.url, **options)


@contextmanager
def run_exchange(**options: Unpack[ExchangeOptions]) -> Generator[InsuranceExchange]:
    """Run a local exchange in a thread, for unittest and scripts; pytest has a fixture for it.

    No window ends in the first 10 s (of a window shorter than a minute: a sixth), so that weight
    does not come back in the middle of a short test. For that, the exchange's clock may be as much
    ahead of the local one; not so where `clock` or `clock_offset` is given.

    Args:
        options: keyword arguments of `Sandbox`.

    Raises:
        AssertionError: at the end, if no request met an injected fault. Not if the block raises.
    """
    with _exchange(options) as exchange:
        yield exchange
    if exchange.unmet_faults:
        raise AssertionError(_complaint(exchange))


@contextmanager
def _exchange(options: ExchangeOptions) -> Generator[InsuranceExchange]:
    any_time = not options.keys() & {"clock", "clock_offset"}
    if any_time:
        options = {**options, "clock": time.time}
    sandbox = Sandbox(**options)
    if any_time:
        sandbox.clock_offset = _to_next_window(sandbox.accounting.interval, sandbox.now)
    serving = _Serving(sandbox)
    serving.start()
    try:
        yield InsuranceExchange(sandbox, serving)
    finally:
        serving.end()


def _complaint(exchange: InsuranceExchange) -> str:
    first, *others = exchange.unmet_faults
    more = f" and {len(others)} more" if others else ""
    return f"no request met an injected fault: {one_line(repr(first), 200)}{more}"


def _to_next_window(interval: int, now: float) -> float:
    """Return the seconds to the next window, or 0.0 while enough of this one is left."""
    left = interval - now % interval
    return left if left < min(_REST, interval / 6) else 0.0


def make_pool(
    *symbols: str, update_time: int = 0, **balances: str | int | Decimal
) -> InsurancePool:
    """Make a pool: `make_pool("BTCUSDT", "ETHUSDT", USDT="12.50")`.

    Args:
        symbols: what it covers, in upper or lower case.
        update_time: of each balance, in milliseconds since 1970 UTC.
        balances: what it holds, by asset.

    Raises:
        TypeError: a balance is a float, which is not exact, or anything else; `update_time` is no
            int.
        ValueError: no symbol or no balance; an invalid symbol; a balance that is no number.
    """
    if not symbols:
        raise ValueError("a pool covers at least one symbol")
    if not balances:
        raise ValueError('a pool holds at least one asset, such as USDT="12.50"')
    if not isinstance(update_time, int):  # pyright: ignore[reportUnnecessaryIsInstance]
        kind = type(update_time).__name__
        raise TypeError(f"update_time is an int, in milliseconds, not a {kind}")
    return InsurancePool(
        tuple(map(normalise_symbol, symbols)),
        tuple(
            AssetBalance(asset.upper(), _amount(asset, balance), update_time)
            for asset, balance in balances.items()
        ),
    )


def _amount(asset: str, balance: object) -> Decimal:
    if not isinstance(balance, str | int | Decimal) or isinstance(balance, bool):
        kind = type(balance).__name__
        raise TypeError(f"the balance of {asset} is a str, an int or a Decimal, not a {kind}")
    try:
        return Decimal(balance)
    except InvalidOperation:
        raise ValueError(f"the balance of {asset} is no number: {balance!r}") from None


try:
    import pytest
except ModuleNotFoundError:  # unittest and scripts do without the fixtures
    pass
else:

    @pytest.fixture
    def insurance_exchange_options() -> ExchangeOptions:
        """Keyword arguments of `Sandbox`; override it in a module or a class."""
        return {}

    @pytest.fixture
    def insurance_exchange(
        insurance_exchange_options: ExchangeOptions,
    ) -> Generator[InsuranceExchange]:
        """A local exchange of this test; an injected fault that no request met is an error."""
        with _exchange(insurance_exchange_options) as exchange:
            yield exchange
        if exchange.unmet_faults:
            pytest.fail(_complaint(exchange), pytrace=False)
