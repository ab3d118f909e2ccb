"""Virtual time, and processes of which each can be paused and killed, in one event loop."""

from __future__ import annotations

import asyncio
import selectors
import weakref
from collections.abc import Callable
from contextvars import Context, ContextVar, copy_context
from typing import Any, TypeVar

F = TypeVar("F", bound="asyncio.Future[Any]")

# The process in whose name a callback runs; None for the world around them.
PROCESS: ContextVar[Process | None] = ContextVar("PROCESS", default=None)

_MOST_ROUNDS = 1_000_000
START = 5_000.0  # virtual monotonic seconds at which every world begins


class Process:
    """A process: while it is paused its callbacks are held, once it is killed they are dropped.

    Attributes:
        number: which one of the world's it is.
        context: what its callbacks run in.
        paused: whether it is paused.
        killed: whether it is killed.
        paused_at: when it was last paused.
        resumed_at: when it last went on; the time of its start before any pause.
        longest_pause: seconds.
        retired: whether its budget is closed, so that what it reads is written down no more.
    """

    def __init__(self, number: int, now: float) -> None:
        self.number = number
        self.context = copy_context()
        self.context.run(PROCESS.set, self)
        self.paused = False
        self.killed = False
        self.paused_at = float("-inf")
        self.resumed_at = now
        self.longest_pause = 0.0
        self.retired = False
        self._held: list[_Step] = []

    def __repr__(self) -> str:
        return f"P{self.number}"

    def hold(self, step: _Step) -> None:
        """Keep a callback until the process goes on."""
        self._held.append(step)

    def pause(self, now: float) -> None:
        """Run nothing until `resume`."""
        self.paused, self.paused_at = True, now

    def resume(self, loop: WorldLoop) -> None:
        """Go on with all that was held."""
        self.paused, self.resumed_at = False, loop.time()
        self.longest_pause = max(self.longest_pause, self.resumed_at - self.paused_at)
        held, self._held = self._held, []
        for step in held:
            asyncio.BaseEventLoop.call_soon(loop, step.go_on, context=step.context)

    def kill(self) -> None:
        """Run nothing any more."""
        self.killed = self.retired = True
        self._held.clear()


class _Step:
    """A callback of a process."""

    __slots__ = ("args", "callback", "context", "handle", "process")

    def __init__(
        self,
        process: Process,
        callback: Callable[..., object],
        args: tuple[Any, ...],
        context: Context,
    ) -> None:
        self.process = process
        self.callback = callback
        self.args = args
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.process.killed:
            return
        if self.process.paused:
            self.process.hold(self)
            return
        self.callback(*self.args)

    def go_on(self) -> None:
        """Run what was held, unless it was cancelled meanwhile."""
        if self.handle is None or not self.handle.cancelled():
            self()


class _Clock(selectors.SelectSelector):
    """Waits in no time: where nothing is ready, the virtual time moves on."""

    now = START
    rounds = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self.rounds += 1
        if timeout is None:
            raise RuntimeError("the world waits for nothing")
        if self.rounds > _MOST_ROUNDS:
            raise RuntimeError(f"the world turns and turns; it has come to {self.now:.3f}")
        self.now += max(0.0, timeout)
        return []  # nothing in a world has a file descriptor


class WorldLoop(asyncio.SelectorEventLoop):
    """A loop in virtual time. What would run in a thread is done at once."""

    def __init__(self) -> None:
        self._clock = _Clock()
        super().__init__(self._clock)
        self.world = copy_context()
        self._tasks: weakref.WeakKeyDictionary[asyncio.Future[Any], Process] = (
            weakref.WeakKeyDictionary()
        )

    def time(self) -> float:
        return self._clock.now

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        step = self._step(callback, args, context)
        if step is None:
            return super().call_soon(callback, *args, context=context)
        step.handle = super().call_soon(step, context=step.context)
        return step.handle

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        step = self._step(callback, args, context)
        if step is None:
            return super().call_at(when, callback, *args, context=context)
        step.handle = handle = super().call_at(when, step, context=step.context)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return self._of_process(super().create_future(), PROCESS.get())

    def create_task(self, coro: Any, **options: Any) -> asyncio.Task[Any]:
        context: Context | None = options.get("context")
        process = PROCESS.get() if context is None else context.get(PROCESS)
        return self._of_process(super().create_task(coro, **options), process)

    def futures_of(self, process: Process) -> list[asyncio.Future[Any]]:
        """Return the futures and tasks of a process that somebody still holds."""
        return [each for each, of in self._tasks.items() if of is process]

    def _of_process(self, future: F, process: Process | None) -> F:
        if process is not None:
            self._tasks[future] = process
        return future

    def run_in_executor(  # type: ignore[override]
        self, executor: object, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        done: asyncio.Future[Any] = self.create_future()
        try:
            done.set_result(func(*args))
        except Exception as error:
            done.set_exception(error)
        return done

    def _step(
        self, callback: Callable[..., object], args: tuple[Any, ...], context: Context | None
    ) -> _Step | None:
        context = copy_context() if context is None else context
        process = context.get(PROCESS)
        return None if process is None else _Step(process, callback, args, context)
