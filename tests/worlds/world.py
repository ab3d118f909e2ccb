"""A world: an exchange, processes with clients, and all that happens to them."""

from __future__ import annotations

import asyncio
import gc
import sys
import warnings
from collections.abc import Callable, Coroutine
from contextlib import suppress
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from binance_insurance import (
    BudgetTimeoutError,
    BulkFetchError,
    ClientClosedError,
    DecodeError,
    InsuranceClient,
    InsuranceError,
    InsurancePool,
    InsuranceSnapshot,
    IPBannedError,
    LocalBudget,
    RateLimitError,
    RequestWeight,
    Runtime,
    StoreError,
    TransportError,
)
from binance_insurance.budget import SqliteBudget
from binance_insurance.models import normalise_symbol

from .exchange import Exchange, Session
from .loop import START, Process, WorldLoop
from .plan import Call, Happening, Plan

_LATE = 0.5
Budget = LocalBudget | SqliteBudget


class _Program:
    """What runs in a process: a budget and clients."""

    def __init__(self, world: World, slot: int) -> None:
        self.slot = slot
        self.process = world.new_process()
        self.budget: Budget = self.process.context.run(world.open_budget)
        self.sessions: list[Session] = []
        self.clients: list[InsuranceClient] = []
        for _ in range(world.plan.clients):
            self.add_client(world)

    def add_client(self, world: World) -> None:
        """Make one more client."""
        plan, session = world.plan, Session(world.exchange, self.process)
        client = self.process.context.run(
            lambda: InsuranceClient(
                budget=self.budget,
                retry=plan.retry,
                attempt_timeout=plan.attempt_timeout,
                max_concurrency=plan.max_concurrency,
                session=session,  # type: ignore[arg-type]
                runtime=world.runtime,
            )
        )
        self.sessions.append(session)
        self.clients.append(client)


class _Running:
    """A call that has not ended."""

    def __init__(self, call: Call, program: _Program, client: InsuranceClient, session: Session):
        self.call = call
        self.program = program
        self.client = client
        self.session = session
        self.since = 0.0  # the oldest question whose answer it may get
        self.faults = session.faults
        self.cancelled = False
        self.task: asyncio.Task[None] | None = None

    def __repr__(self) -> str:
        call = self.call
        return (
            f"{self.program.process} {call.kind}({', '.join(call.symbols[:3])}"
            f"{', …' * (len(call.symbols) > 3)}, timeout={call.timeout}, max_age={call.max_age})"
            f" of {call.at + START:.3f}"
        )


class World:
    """One world; `play` returns what was wrong in it.

    Args:
        plan: what it is made of.
        place: a directory for its files.
        open_budget: makes budgets in place of those that it would make.
    """

    def __init__(
        self, plan: Plan, place: Path, open_budget: Callable[[World], Budget] | None = None
    ) -> None:
        self.plan = plan
        self._open_budget = open_budget
        self.loop = WorldLoop()
        self.exchange = Exchange(plan, self.loop)
        self.referee = self.exchange.referee
        self.calls = self.answered = 0
        self._file = place / f"world{plan.seed}.sqlite"
        self._chance = Random(-plan.seed - 1)
        self._step = 0.0
        self._booted = 0.0
        self._programs: list[_Program | None] = []
        self._all_programs: list[_Program] = []
        self._running: dict[_Running, None] = {}  # in the order in which they began
        self._closing: set[InsuranceClient | Budget] = set()
        self._closed: dict[InsuranceClient | Budget, float] = {}  # and when
        self._helpers: set[asyncio.Task[None]] = set()
        self._orphans: list[asyncio.Task[Any]] = []  # of killed processes
        self._processes = 0
        self.runtime = Runtime(
            monotonic=lambda: self.loop.time() - self._booted,
            wall=lambda: self.exchange.now - plan.offset + self._step,
            random=self._chance.random,
        )

    def play(self) -> list[str]:
        """Let it happen; return the violations."""
        complaints: list[str] = []

        def unraisable(failed: Any) -> None:
            complaints.append(f"{failed.err_msg}: {failed.exc_value!r} in {failed.object!r}")

        old_hook, sys.unraisablehook = sys.unraisablehook, unraisable
        try:
            with warnings.catch_warnings(record=True) as warned:
                warnings.simplefilter("always")
                self.loop.set_exception_handler(self._complain)
                try:
                    self.loop.run_until_complete(self._play())
                except RuntimeError as error:
                    self.referee.blame("stuck", str(error))
                    self._orphans += asyncio.all_tasks(self.loop)
                self.loop.close()
                asyncio.set_event_loop(None)
                self._bury()
                gc.collect()
            complaints += [str(each.message) for each in warned]
        finally:
            sys.unraisablehook = old_hook
        for complaint in complaints:
            self.referee.blame("left behind", complaint)
        return self.referee.violations

    # What processes are made of

    def new_process(self) -> Process:
        self._processes += 1
        return self.loop.world.copy().run(lambda: Process(self._processes, self.loop.time()))

    def open_budget(self) -> Budget:
        """Make a budget; one that a test gives instead."""
        plan = self.plan
        if self._open_budget is not None:
            return self._open_budget(self)
        if plan.shared:
            return SqliteBudget(
                self._file,
                plan.limit,
                interval=plan.interval,
                reserve=plan.reserve,
                runtime=self.runtime,
            )
        return LocalBudget(
            plan.limit, interval=plan.interval, reserve=plan.reserve, runtime=self.runtime
        )

    # The course of things

    async def _play(self) -> None:
        plan, at = self.plan, self._at
        self._programs = [None] * plan.processes
        for slot in range(plan.processes):
            self._start(slot)
        for when, weight in plan.others:
            at(when, partial(self.exchange.spend_elsewhere, weight))
        for when in plan.changes:
            at(when, self.exchange.change_pools)
        for refusing in plan.refusing:
            at(refusing.at, partial(self.exchange.refuse, refusing))
        for happening in plan.happenings:
            at(happening.at, partial(self._happen, happening))
        for call in plan.calls:
            at(call.at, partial(self._begin, call))
        await asyncio.sleep(plan.seconds + 0.001)
        self.exchange.calm = True
        self.referee.log("calm from now on")
        if await self._wait_for_calls():
            await self._settle_down()
        await self._close_all()

    def _at(self, seconds: float, happen: Callable[[], object]) -> None:
        self.loop.call_at(START + seconds, happen, context=self.loop.world)

    def _later(self, seconds: float, happen: Callable[[], object]) -> None:
        self.loop.call_later(seconds, happen, context=self.loop.world)

    def _start(self, slot: int) -> None:
        program = self._programs[slot] = _Program(self, slot)
        self._all_programs.append(program)
        self.referee.log(f"{program.process} begins")

    def _happen(self, happening: Happening) -> None:
        if happening.kind == "lose ledger":
            self._lose_ledger(happening.how)
        elif happening.kind == "step clock":
            self._step += happening.seconds
            self.referee.log(f"the wall clock is stepped by {happening.seconds}")
        elif happening.kind == "reboot":
            for running in [each for each in self._programs if each is not None]:
                self._kill(running)
            self._booted = self.loop.time() - 1.0
            self.referee.log("the machine is booted again")
        else:
            program = self._programs[happening.process]
            if program is not None and not program.process.paused:
                self._happen_to(program, happening)

    def _happen_to(self, program: _Program, happening: Happening) -> None:
        process = program.process
        if happening.kind == "kill":
            self._kill(program)
        elif happening.kind == "pause":
            self.referee.log(f"{process} is paused")
            process.pause(self.loop.time())
            self._later(happening.seconds, lambda: self._resume(process))
        elif happening.kind == "close client":
            client = program.clients[happening.client]
            self._help(process, self._close(client))
        else:
            # Whatever its process reads from now on, its budget does not write it down.
            process.retired = True
            self._help(process, self._close(program.budget))
            if not self.plan.shared:  # the new one knows nothing
                self.referee.ledger_lost([])
                self.exchange.forget()
            self._start(program.slot)

    def _kill(self, program: _Program) -> None:
        process = program.process
        self.referee.log(f"{process} is killed")
        process.kill()
        self._programs[program.slot] = None
        for future in self.loop.futures_of(process):
            if isinstance(future, asyncio.Task):
                self._orphans.append(future)
            elif future.done() and not future.cancelled():
                future.exception()
        for each in [each for each in self._running if each.program is program]:
            del self._running[each]
        self._later(
            self._chance.uniform(0.01, self.plan.interval), lambda: self._start(program.slot)
        )

    def _resume(self, process: Process) -> None:
        if not process.killed:
            self.referee.log(f"{process} goes on")
            process.resume(self.loop)

    def _lose_ledger(self, how: str) -> None:
        files = [self._file, *(Path(f"{self._file}-{end}") for end in ("wal", "shm"))]
        for number, file in enumerate(files[:1] if how == "alone" else files):
            with suppress(FileNotFoundError):
                if how == "renamed":
                    file.rename(f"{file}.{self.loop.time()}{number}")
                else:
                    file.unlink()
        self.exchange.forget()
        self.referee.ledger_lost([p.process for p in self._programs if p is not None])

    def _help(self, process: Process, work: Coroutine[Any, Any, None]) -> None:
        task = self.loop.create_task(work, context=process.context.copy())
        self._helpers.add(task)
        task.add_done_callback(self._helpers.discard)

    async def _close(self, closed: InsuranceClient | Budget) -> None:
        self.referee.log(f"{type(closed).__name__} is closed")
        began = self.loop.time()
        self._closing.add(closed)
        await closed.aclose()
        self._closed[closed] = self.loop.time()
        if self.loop.time() > began + _LATE:
            self.referee.blame("late", f"closing took {self.loop.time() - began:.3f} s")

    # Calls

    def _begin(self, call: Call) -> None:
        program = self._programs[call.process]
        if program is None:
            return
        running = _Running(
            call, program, program.clients[call.client], program.sessions[call.client]
        )
        context = program.process.context.copy()
        self._running[running] = None
        self.calls += 1
        running.task = task = self.loop.create_task(self._call(running), context=context)
        if call.cancel_after is not None:

            def cancel() -> None:
                running.cancelled = True
                task.cancel()

            self.loop.call_later(call.cancel_after, cancel, context=context)

    async def _call(self, running: _Running) -> None:
        call, session, loop = running.call, running.session, self.loop
        began = loop.time()
        asked = [sent.left for sent in session.in_flight]
        running.since = min([began - call.max_age, *asked])
        running.faults = session.faults
        outcome = "?"
        try:
            outcome = self._check_answer(running, await self._fetch(running))
            self.answered += 1
        except InsuranceError as error:
            outcome = f"{type(error).__name__}: {str(error)[:100]}"
            self._check_error(running, error)
        except asyncio.CancelledError:
            outcome = "cancelled"
            if not running.cancelled:
                self.referee.blame("cancelled", repr(running))
        except Exception as error:
            outcome = repr(error)
            if not running.program.process.killed:
                self.referee.blame("undocumented error", f"{running!r}: {error!r}")
        finally:
            self._running.pop(running, None)
        if running.program.process.killed:
            return  # it is being buried
        self.referee.log(f"{running!r} ends: {outcome}")
        self._check_time(running, began)
        try:
            running.program.budget.state()
        except Exception as error:
            self.referee.blame("state", repr(error))

    async def _fetch(self, running: _Running) -> Any:
        call, client = running.call, running.client
        # `max_age` is left out where it says nothing.
        options: dict[str, Any] = {"timeout": call.timeout}
        if call.max_age and call.kind != "weight":
            options["max_age"] = call.max_age
        if call.kind == "pool":
            return await client.fetch_pool(call.symbols[0], **options)
        if call.kind == "pools":
            return await client.fetch_pools(
                call.symbols, return_exceptions=call.as_values, **options
            )
        if call.kind == "snapshot":
            return await client.fetch_snapshot(**options)
        return await client.fetch_request_weight(**options)

    def _check_time(self, running: _Running, began: float) -> None:
        now, process, call = self.loop.time(), running.program.process, running.call
        ends = [began + call.timeout] if call.timeout is not None else []
        if running.client in self._closed:
            ends.append(max(self._closed[running.client], began))
        if ends and now > max(min(ends), process.resumed_at) + _LATE:
            self.referee.blame("late", f"{running!r} ends {now - min(ends):.3f} s late")

    def _check_answer(self, running: _Running, answer: Any) -> str:
        if isinstance(answer, InsurancePool):
            self._check_pool(running, running.call.symbols[0], answer)
        elif isinstance(answer, InsuranceSnapshot):
            self._check_snapshot(running, answer)
        elif isinstance(answer, RequestWeight):
            if answer.limit != self.plan.limit:
                self.referee.blame("not exact", f"{running!r}: {answer}")
        else:
            names = list(dict.fromkeys(map(normalise_symbol, running.call.symbols)))
            if list(answer) != names:
                self.referee.blame("not exact", f"{running!r}: answers {list(answer)}")
            for symbol, got in answer.items():
                if isinstance(got, InsurancePool):
                    self._check_pool(running, symbol, got)
                else:
                    self._check_error(running, got, symbol)
        return "answered"

    def _check_pool(self, running: _Running, symbol: str, pool: InsurancePool) -> None:
        name = normalise_symbol(symbol)
        if name not in pool.symbols:
            self.referee.blame("not exact", f"{running!r}: {name} is not in {pool.symbols}")
        elif not any(v.by_symbol.get(name) == pool for v in self._held_since(running.since)):
            self.referee.blame(
                "not exact", f"{running!r}: not what it held since {running.since:.3f}: {pool}"
            )

    def _check_snapshot(self, running: _Running, snapshot: InsuranceSnapshot) -> None:
        if not any(snapshot.pools == v.pools for v in self._held_since(running.since)):
            self.referee.blame("not exact", f"{running!r}: no snapshot since {running.since:.3f}")

    def _held_since(self, since: float) -> list[Any]:
        """Return the pools that were held at any time since then."""
        versions = self.exchange.versions
        first = max((n for n, version in enumerate(versions) if version.since <= since), default=0)
        return versions[first:]

    def _check_error(
        self, running: _Running, error: InsuranceError, symbol: str | None = None
    ) -> None:
        call, blame = running.call, self.referee.blame
        if isinstance(error, BulkFetchError):
            if call.kind != "pools" or call.as_values or symbol is not None:
                blame("undocumented error", f"{running!r}: {error!r}")
            for name, each in error.errors.items():
                self._check_error(running, each, name)
            for name, pool in error.pools.items():
                self._check_pool(running, name, pool)
            return
        if symbol is None and call.symbols:
            symbol = normalise_symbol(call.symbols[0])
        if error.symbol != symbol or (symbol and not str(error).startswith(f"{symbol}: ")):
            blame("symbol", f"{running!r}: not about {symbol}: {error!r} {error}")
        if isinstance(error, IPBannedError):
            self.referee.told_banned(running.program.process)
        why = self._implausible(running, error)
        if why:
            blame("implausible error", f"{running!r}: {why}: {error!r}")

    def _implausible(self, running: _Running, error: InsuranceError) -> str:
        """Return why an error cannot be right, or nothing."""
        closed = running.client in self._closing or running.program.process.retired
        if isinstance(error, BudgetTimeoutError):
            never = error.wait == float("inf")
            return "" if running.call.timeout is not None or never else "it has no timeout"
        if isinstance(error, RateLimitError):
            status = 418 if isinstance(error, IPBannedError) else 429
            refused = any(each.sent.status == status for each in self.referee.refusals)
            return "" if refused else f"there was no {status}"
        if isinstance(error, StoreError):
            return "" if closed else "the budget is open"
        if isinstance(error, ClientClosedError):
            return "" if closed else "the client is open"
        if isinstance(error, TransportError) and (closed or running.call.timeout is not None):
            return ""
        if isinstance(error, DecodeError) and self.plan.changes:
            return ""  # the symbol may have moved
        unknown = any(symbol.upper().startswith("NONE") for symbol in running.call.symbols)
        return "" if unknown or running.session.faults > running.faults else "nothing was wrong"

    # The end

    async def _wait_for_calls(self) -> bool:
        """Return whether all calls have ended in time."""
        demand = 0
        for running in self._running:
            demand += {"pools": len(running.call.symbols), "snapshot": 42}.get(running.call.kind, 1)
        windows = 10 + 6 * demand / (self.plan.limit - self.plan.reserve)
        now = self.loop.time()
        held = max((r.end for r in self.referee.refusals if not r.is_ban), default=now) - now
        # A false date may have named a later end.
        held = max(held, 90_000.0 if self.exchange.false_dates and not self.plan.shared else 0.0)
        end = now + windows * self.plan.interval + held + 100.0
        while self.loop.time() < end:
            tasks = [each.task for each in self._running if each.task is not None]
            if not tasks:
                return True
            await asyncio.wait(tasks, timeout=max(0.1, end - self.loop.time()))
        for running in list(self._running):
            self.referee.blame("never ends", repr(running))
            running.cancelled = True
            if running.task is not None:
                running.task.cancel()
        return False

    async def _settle_down(self) -> None:
        """After some calm all weight is accounted for, and a call is answered."""
        for process in [program.process for program in self._all_programs]:
            if process.paused and not process.killed:
                self._resume(process)
        await asyncio.sleep(self.plan.interval + 0.1)  # programs begin again until then
        programs = [program for program in self._programs if program is not None]
        if not all([await self._is_served(program) for program in programs]):
            return
        # What was lost is in the past of the next window.
        await asyncio.sleep(2 * self.plan.interval + 12.0)
        for program in programs:
            # The answer to a request that left around a rollover settles nothing.
            state = program.budget.state()
            for _ in range(4):
                await self._is_served(program)
                await asyncio.sleep(self.plan.interval / 3)
                state = program.budget.state()
                if not state.in_flight:
                    break
            if state.in_flight or state.waiting:
                self.referee.blame("left behind", f"{program.process}: {state}")

    async def _is_served(self, program: _Program) -> bool:
        """Fetch once in a process; return whether it was answered."""
        context = program.process.context.copy()
        task = self.loop.create_task(self._probe(program), context=context)
        await asyncio.wait([task], timeout=400.0 if self.plan.shared else 100_000.0)
        if task.done():
            return bool(task.result())
        self.referee.blame("never ends", f"the last call of {program.process}")
        task.cancel()
        await asyncio.wait([task])
        return False

    async def _probe(self, program: _Program) -> bool:
        """Fetch once; return whether it was answered."""
        client = program.clients[-1]
        if client in self._closing:
            program.add_client(self)
            client = program.clients[-1]
        try:
            await client.fetch_pool("S2USDT")
        except IPBannedError:
            return False
        except Exception as error:
            self.referee.blame("not served", f"{program.process} in the calm: {error!r}")
            return False
        return True

    async def _close_all(self) -> None:
        for program in self._all_programs:
            if program.process.killed:
                continue
            for closed in (*program.clients, program.budget):
                self._help(program.process, self._close(closed))
            await asyncio.wait(self._helpers, timeout=10.0)
        await asyncio.sleep(0.1)
        alive = asyncio.all_tasks() - set(self._orphans) - {asyncio.current_task()}
        for task in alive:
            self.referee.blame("left behind", repr(task))
        self._orphans += alive

    def _complain(self, loop: object, context: dict[str, Any]) -> None:
        self.referee.blame("left behind", f"{context.get('message')}: {context.get('exception')!r}")

    def _bury(self) -> None:
        """Close what killed processes have left, as the operating system would."""
        for task in self._orphans:
            task._log_destroy_pending = False  # type: ignore[attr-defined]
            work = task.get_coro()
            if isinstance(work, Coroutine):
                with suppress(BaseException):
                    work.close()
        self._orphans.clear()
        self._all_programs.clear()
        self._programs.clear()
        self._running.clear()
        self._closing.clear()
        self._closed.clear()
        for file in self._file.parent.glob(f"{self._file.name}*"):
            file.unlink()
