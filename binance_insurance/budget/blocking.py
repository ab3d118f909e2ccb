"""The same budget for threads: a caller blocks while the event loop waits for its weight."""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING, Any, Protocol, Self, TypeVar
from weakref import WeakKeyDictionary

from .report import Report

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine, Mapping
    from types import TracebackType

T = TypeVar("T")


class _Spending(Protocol):
    weight: int

    @property
    def lease(self) -> object: ...
    def confirm(self) -> bool: ...
    def settle(self, report: Report | None) -> None: ...
    def unsent(self) -> None: ...
    async def __aenter__(self) -> object: ...
    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None: ...


class _Spends(Protocol):
    @property
    def interval(self) -> int: ...
    @property
    def loop(self) -> asyncio.AbstractEventLoop | None: ...
    @property
    def whole(self) -> object: ...
    def serve(self, base_url: str) -> None: ...
    def spend(self, weight: int = 1, *, timeout: float | None = None) -> _Spending: ...


class _Thread:
    """An event loop in a daemon thread, which the blocking callers of one ledger share."""

    def __init__(self) -> None:
        self.users = 0
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="binance-insurance", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stop.wait())

    def end(self) -> None:
        """End the loop, once what runs in it now is done."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()


_threads: WeakKeyDictionary[Any, _Thread] = WeakKeyDictionary()  # by ledger
_lock = threading.Lock()


class BlockingBudget:
    """A budget whose calls block, from any thread but the event loop's own.

    `with budget.blocking() as sync, sync.spend(5) as spending: …` with the methods of `spend`.
    """

    def __init__(self, budget: _Spends) -> None:
        self._budget = budget
        self._thread: _Thread | None = None
        try:
            self._running: asyncio.AbstractEventLoop | None = asyncio.get_running_loop()
        except RuntimeError:
            self._running = None

    @property
    def budget(self) -> _Spends:
        """The budget that it is for threads."""
        return self._budget

    @property
    def interval(self) -> int:
        """Seconds of a window."""
        return self._budget.interval

    def serve(self, base_url: str) -> None:
        """Serve the exchange of a program; see `WeightBudget.serve`."""
        self._budget.serve(base_url)

    def spend(self, weight: int = 1, *, timeout: float | None = None) -> BlockingSpending:
        """Take weight for one request: `with sync.spend(5) as spending: …`; see `Budget.spend`.

        Raises:
            RuntimeError: it is entered in the thread of the event loop, which would stand still.
        """
        return BlockingSpending(self._budget.spend(weight, timeout=timeout), self)

    def close(self) -> None:
        """End the thread, if this was the last that used one."""
        with _lock:
            thread, self._thread = self._thread, None
            if thread is None:
                return
            thread.users -= 1
            if thread.users:
                return
            del _threads[self._budget.whole]
        thread.end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def find_loop(self) -> asyncio.AbstractEventLoop:
        """Return the loop to use now.

        Raises:
            RuntimeError: it is that of this thread.
        """
        with _lock:
            loop = self._loop_in_use()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return loop
        if here is loop:
            raise RuntimeError(
                "a blocking spend would stop its own event loop; use `async with budget.spend(…)`"
            )
        return loop

    def _loop_in_use(self) -> asyncio.AbstractEventLoop:
        thread = _threads.get(self._budget.whole)
        for loop in (self._budget.loop, self._running):
            if loop is not None and loop.is_running() and (thread is None or loop != thread.loop):
                return loop
        if self._thread is None:
            if thread is None:
                thread = _threads[self._budget.whole] = _Thread()
            thread.users += 1
            self._thread = thread
        return self._thread.loop


class BlockingSpending:
    """The weight of one request, for a thread."""

    def __init__(self, spending: _Spending, budget: BlockingBudget) -> None:
        self.weight = spending.weight
        self._spending = spending
        self._budget = budget
        self._loop: asyncio.AbstractEventLoop | None = None

    def confirm(self) -> bool:
        """Return whether the request may still be sent; see `Spending.confirm`."""
        return self._call(self._spending.confirm)

    def report(self, status: int, headers: Mapping[str, str], body: bytes = b"") -> None:
        """Record an answer; see `Report.from_response`."""
        interval = self._budget.interval
        self.settle(Report.from_response(status, headers, body, interval=interval))

    def settle(self, report: Report | None) -> None:
        """Record what an answer reported; None if it was lost."""
        self._call(lambda: self._spending.settle(report))

    def unsent(self) -> None:
        """Give the weight back: the request was certainly never sent."""
        self._call(self._spending.unsent)

    def __enter__(self) -> Self:
        self._loop = self._budget.find_loop()
        self._run(self._enter())
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._run(self._spending.__aexit__(None, None, None))

    async def _enter(self) -> None:
        await self._spending.__aenter__()

    def _run(self, work: Coroutine[object, object, None]) -> None:
        """Do work in the loop; if the wait for it is interrupted, it leaves no trace."""
        loop = self._loop
        if loop is None:
            work.close()
            raise RuntimeError("use it as `with sync.spend(…) as spending`")
        running = asyncio.run_coroutine_threadsafe(work, loop)
        try:
            running.result()
        except BaseException:
            running.cancel()
            loop.call_soon_threadsafe(self._give_up)
            raise

    def _give_up(self) -> None:
        if self._spending.lease is not None:  # it was granted in the same moment
            self._spending.unsent()

    def _call(self, function: Callable[[], T]) -> T:
        """Call a function in the loop."""
        loop = self._loop
        if loop is None:
            raise RuntimeError("use it as `with sync.spend(…) as spending`")
        done: Future[T] = Future()

        def call() -> None:
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

        loop.call_soon_threadsafe(call)
        return done.result()
