"""Calls into the event loop of a budget, from any thread."""

from __future__ import annotations

import asyncio
import os
import threading
from concurrent.futures import Future
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Protocol, TypeVar
from weakref import WeakKeyDictionary, finalize

from .._ended import check_loop
from .._forks import in_children, keep
from ..errors import StoreError

if TYPE_CHECKING:
    from asyncio import AbstractEventLoop, Task
    from collections.abc import Callable, Coroutine

T = TypeVar("T")

_LOOK = 0.25  # seconds between two looks whether a loop still runs
_ENDED = "the event loop of the budget has ended"


class Looped(Protocol):
    """What is used in an event loop: a budget, or a view of one."""

    @property
    def loop(self) -> AbstractEventLoop | None:
        """The event loop in which it was used last."""

    @property
    def whole(self) -> object:
        """The budget that this is a view of, or itself."""


class _Thread:
    """An event loop in a daemon thread, which the blocking callers of one ledger share."""

    def __init__(self, ledger: object) -> None:
        self.users = 0
        self.ending = False
        self.loop = asyncio.new_event_loop()
        self._stop = asyncio.Event()
        self._thread = threading.Thread(target=self._run, name="binance-insurance", daemon=True)
        runs = threading.Event()
        self.loop.call_soon(runs.set)
        self._thread.start()
        runs.wait()
        # Of a budget whose `blocking()` is never closed.
        self._dropped = finalize(ledger, _post, self.loop, self._stop.set)
        self._dropped.atexit = False

    def _run(self) -> None:
        with asyncio.Runner(loop_factory=lambda: self.loop) as runner:
            runner.run(self._stop.wait())

    def end(self) -> None:
        """End the loop: callers that wait in it get an error."""
        self._dropped.detach()
        _post(self.loop, self._stop.set)

    def join(self) -> None:
        """Wait until its loop has ended."""
        self._thread.join()

    def forget(self) -> None:
        """Know in a forked child that it does not run there."""
        self._dropped.detach()


class _Threads:
    """The threads of this process, and its locks. None of them goes on in a forked child."""

    def __init__(self) -> None:
        self.of: WeakKeyDictionary[Any, _Thread] = WeakKeyDictionary()  # by ledger
        self._make_locks()
        in_children(self, _Threads._restart)

    def _make_locks(self) -> None:
        self.lock = threading.Lock()  # of these threads
        self.direct = threading.RLock()  # of calls that are made without a loop

    def drop(self, ledger: object, thread: _Thread) -> None:
        """Wait until a thread that ends has ended, and forget it."""
        thread.join()
        with self.lock:
            if self.of.get(ledger) is thread:
                del self.of[ledger]

    def _restart(self) -> None:
        for thread in list(self.of.values()):
            thread.forget()
            keep(thread)  # its loop shares its selector with that of the parent
        self.of.clear()
        self._make_locks()


_threads = _Threads()


def leave_loop(loop: AbstractEventLoop | None) -> None:
    """Raise if a budget cannot leave the loop that it belongs to.

    Raises:
        RuntimeError: that loop is running.
    """
    with _threads.lock:
        threads_use_it = any(thread.loop is loop for thread in _threads.of.values())
    if threads_use_it and loop is not None and loop.is_running():
        raise RuntimeError(
            "threads use this budget through `budget.blocking()`, in an event loop of their own; "
            "close each of those first (`with budget.blocking() as sync`, or `sync.close()`), or "
            "use the budget in asyncio before the threads do"
        )
    check_loop(loop, "budget")


class Caller:
    """Calls of threads into the event loop of one budget.

    Args:
        budget: whose loop it is. Where it is in use in none, it is the one that runs now; else one
            in a daemon thread, until `close`.
    """

    def __init__(self, budget: Looped) -> None:
        self._budget = budget
        self._thread: _Thread | None = None
        self._made_in = _running_loop()
        self._process = os.getpid()

    def call(self, function: Callable[[], T]) -> T:
        """Call a function of the budget in the loop in which it is in use.

        At once, where that is the loop of this thread, or has ended.
        """
        while True:
            loop = self._budget.loop
            if loop is None or not loop.is_running() or loop is _running_loop():
                with _threads.direct:
                    return function()
            done: Future[T] = Future()
            if _post(loop, _call_of(function, done)) and _finished(done, loop):
                return done.result()
            if not done.cancel():
                return done.result()

    def run(
        self, work: Callable[[], Coroutine[object, object, T]], give_up: Callable[[], None]
    ) -> T:
        """Do work in the loop to use now, and wait for it.

        Args:
            work: it leaves no trace when it is cancelled.
            give_up: undoes it, where it was done in the moment in which the wait was interrupted.

        Raises:
            RuntimeError: the loop is that of this thread.
            StoreError: the loop has ended before the work.
        """
        ledger = self._budget.whole
        while True:
            with _threads.lock:
                thread = _threads.of.get(ledger)
                if thread is None or not thread.ending:
                    loop = self._loop_to_use(thread)
                    break
            _threads.drop(ledger, thread)
        return _run(loop, work, lambda: self.call(give_up))

    def finish(self, work: Callable[[], Coroutine[object, object, None]]) -> None:
        """Do work in the loop in which the budget is in use, as long as that runs.

        Raises:
            RuntimeError: the loop is that of this thread.
        """
        loop = self._budget.loop
        if loop is not None and loop.is_running():
            with suppress(LoopEndedError):  # what is not written down is kept for the next loop
                _run(loop, work, lambda: None)

    def close(self) -> None:
        """End the thread, if this was the last that used it."""
        with _threads.lock:
            thread, self._thread = self._thread, None
            if thread is None or thread is not _threads.of.get(self._budget.whole):
                return
            thread.users -= 1
            if thread.users:
                return
            thread.ending = True  # whoever comes now waits for that, and takes another
        thread.end()
        _threads.drop(self._budget.whole, thread)

    def _loop_to_use(self, thread: _Thread | None) -> AbstractEventLoop:
        made_in = self._made_in if self._process == os.getpid() else None
        for loop in (self._budget.loop, made_in):
            if loop is not None and loop.is_running() and (thread is None or loop != thread.loop):
                return loop
        if thread is None:
            thread = _threads.of[self._budget.whole] = _Thread(self._budget.whole)
        if self._thread is not thread:
            thread.users += 1
            self._thread = thread
        return thread.loop


class LoopEndedError(StoreError):
    """The event loop in which a budget was in use has ended."""


def _running_loop() -> AbstractEventLoop | None:
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


def _run(
    loop: AbstractEventLoop,
    work: Callable[[], Coroutine[object, object, T]],
    give_up: Callable[[], object],
) -> T:
    if loop is _running_loop():
        raise RuntimeError(
            "a blocking spend would stop its own event loop; use `async with budget.spend(…)`"
        )
    done: Future[T] = Future()
    tasks: list[Task[T]] = []

    def start() -> None:
        if done.set_running_or_notify_cancel():
            task = loop.create_task(work())
            tasks.append(task)
            task.add_done_callback(lambda task: _pass_on(task, done))

    def stop() -> None:
        if tasks and not tasks[0].cancel():
            give_up()

    finished = False
    try:
        finished = _post(loop, start) and _finished(done, loop)
    finally:
        if not finished:
            done.cancel()
            if not _post(loop, stop) and done.done() and not done.cancelled():
                give_up()
    if not finished:
        raise LoopEndedError(_ENDED)
    return done.result()


def _post(loop: AbstractEventLoop, function: Callable[[], object]) -> bool:
    """Let a loop call a function; return False if the loop is closed."""
    try:
        loop.call_soon_threadsafe(function)
    except RuntimeError:
        return False
    return True


def _call_of(function: Callable[[], T], done: Future[T]) -> Callable[[], None]:
    def call() -> None:
        if done.set_running_or_notify_cancel():
            try:
                done.set_result(function())
            except BaseException as error:
                done.set_exception(error)

    return call


def _finished(done: Future[T], loop: AbstractEventLoop) -> bool:
    """Wait for a result; return False if the loop ends first.

    A loop that ends calls what it was given, or cancels it; one that is stopped does neither.
    """
    looks = 0
    while looks < 2:  # a loop may stand still for a moment between two things that it runs
        try:
            done.exception(_LOOK)
        except TimeoutError:
            looks = 0 if loop.is_running() else looks + 1
        else:
            return True
    return done.done()


def _pass_on(task: Task[T], done: Future[T]) -> None:
    if task.cancelled():
        done.set_exception(LoopEndedError(_ENDED))
    elif (error := task.exception()) is not None:
        done.set_exception(error)
    else:
        done.set_result(task.result())
