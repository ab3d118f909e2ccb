"""What moves, as lines for people or JSON for programs, until Ctrl-C."""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Protocol

from ..changes import (
    BalanceChanged,
    PoolAppeared,
    PoolVanished,
    SymbolDelisted,
    SymbolListed,
    SymbolMoved,
)
from ._streams import encoding, say
from ._text import message, name, shown

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime
    from decimal import Decimal

    from ..changes import Change
    from ..client import InsuranceClient
    from ..models import InsurancePool
    from ..watch import Update, Watch, WatchStatus

_LOOK = 0.5  # seconds between two looks whether observations go on


class Printer(Protocol):
    """How it is said that observations have stopped."""

    def stopped(self, status: WatchStatus) -> None:
        """Say since when and why."""


async def follow(
    client: InsuranceClient, every: float, symbols: Sequence[str] | None, *, as_json: bool
) -> None:
    """Print what moves, and when observations stop and go on."""
    printer = _Json() if as_json else _Lines()
    async with client.watch(every, symbols=symbols) as updates:
        first = True
        while True:
            stopped, update = await next_update(updates, printer)
            if first:
                pools = len(update.snapshot)
                say(f"watching {pools} pools, every {every:g} s; Ctrl-C ends it")
            if stopped or (update.missed and not first):
                printer.resumed(update)
            for change in update.changes:
                printer.changed(update, change)
            first = False


async def next_update(updates: Watch, printer: Printer) -> tuple[bool, Update]:
    """Wait for an update; say meanwhile that observations have stopped, once.

    Returns:
        Whether that was said, and the update.
    """
    step, stopped = asyncio.ensure_future(anext(updates)), False
    try:
        while True:
            done, _ = await asyncio.wait({step}, timeout=_LOOK)
            status = updates.status
            if not (stopped or done) and status.error is not None:
                printer.stopped(status)
                stopped = True
            if done:
                return stopped, step.result()
    finally:
        step.cancel()
        await asyncio.wait({step})


class _Lines:
    """One line for each change: names and balances stand between blanks."""

    def changed(self, update: Update, change: Change) -> None:
        print(f"{_time(update.observed_at)}  {said(change)}", flush=True)

    def stopped(self, status: WatchStatus) -> None:
        why = shown(message(str(status.error)), encoding())
        print(f"{_time(status.blind_since)}  observations have stopped: {why}", flush=True)

    def resumed(self, update: Update) -> None:
        missed = f"{update.missed} tick{'s' * (update.missed != 1)} missed"
        print(f"{_time(update.observed_at)}  observations go on, {missed}", flush=True)


class _Json:
    """One JSON object for each change."""

    def changed(self, update: Update, change: Change) -> None:
        self._print("changed", observedAt=_iso(update.observed_at), **change.to_dict())

    def stopped(self, status: WatchStatus) -> None:
        why = message(str(status.error))
        self._print("stopped", blindSince=_iso(status.blind_since), error=why)

    def resumed(self, update: Update) -> None:
        self._print("resumed", observedAt=_iso(update.observed_at), missed=update.missed)

    def _print(self, event: str, **fields: object) -> None:
        print(json.dumps({"event": event, **fields}), flush=True)  # of ASCII, in any encoding


def said(change: Change) -> str:
    """Say in a few words what changed."""
    match change:
        case BalanceChanged():
            return _balance(change)
        case SymbolMoved():
            origin, pool = pool_name(change.origin), pool_name(change.pool)
            return f"{_name(change.symbol)} moved from {origin} to {pool}"
        case SymbolListed():
            return f"{_name(change.symbol)} listed in {pool_name(change.pool)}"
        case SymbolDelisted():
            return f"{_name(change.symbol)} delisted from {pool_name(change.pool)}"
        case PoolAppeared():
            return f"{pool_name(change.pool)} appeared"
        case PoolVanished():
            return f"{pool_name(change.pool)} vanished"


def _balance(change: BalanceChanged) -> str:
    delta = "" if change.delta is None else f"  {change.delta:+f}"
    return (
        f"{pool_name(change.pool)}  {_name(change.asset)}  {_amount(change.before)} -> "
        f"{_amount(change.after)}{delta}{'  regrouped' * change.regrouped}"
    )


def _amount(amount: Decimal | None) -> str:
    return "not held" if amount is None else f"{amount:f}"


def pool_name(pool: InsurancePool) -> str:
    """Name a pool by its first symbol."""
    more = len(pool.symbols) - 1
    return f"{_name(pool.symbols[0])}{f' and {more} more' * (more > 0)}"


def _name(text: str) -> str:
    return name(text, encoding())


def _time(at: datetime | None) -> str:
    return "" if at is None else f"{at:%Y-%m-%d %H:%M:%S}"


def _iso(at: datetime | None) -> str | None:
    return None if at is None else f"{at:%Y-%m-%dT%H:%M:%SZ}"
