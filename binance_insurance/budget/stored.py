"""The value that processes share: one for each exchange and IP. Pure."""

from __future__ import annotations

from math import inf
from typing import TYPE_CHECKING

import msgspec

from ..errors import StoreError
from .ledger import Ledger
from .refusals import Refusals
from .witness import Witnesses

if TYPE_CHECKING:
    from collections.abc import Callable

_VERSION = 3


class Process(msgspec.Struct, omit_defaults=True):
    """One process: the weight that it holds, when it said so, and what its first caller wants."""

    weight: int
    seen: float
    wanted: int = 0
    reserve: int = 0


class Book(msgspec.Struct, omit_defaults=True):
    """Windows of one length: the ledger of their weight, and the processes that hold some."""

    ledger: Ledger
    processes: dict[str, Process] = {}


class SharedState(msgspec.Struct, omit_defaults=True, kw_only=True):
    """The value in the store.

    Attributes:
        version: of this layout.
        refusals: the freeze and the ban, which hold for windows of any length.
        books: what is known of windows, by their length in seconds.
        witnesses: what the hosts saw of the store's clock.
    """

    version: int
    refusals: Refusals = msgspec.field(default_factory=Refusals)
    books: dict[int, Book] = {}
    witnesses: Witnesses = msgspec.field(default_factory=Witnesses)

    def follow(self, host: str, now: float, low: float, high: float) -> bool:
        """Follow the store's clock where it was stepped; see `Witnesses.follow`.

        Returns whether this has to be written.
        """
        if not self.witnesses.knows(host, now):
            return True
        by = self.witnesses.follow(host, now, low, high)
        if by:
            self._shift(by)
        return by != 0.0

    def _shift(self, by: float) -> None:
        self.refusals.shift(by)
        for book in self.books.values():
            book.ledger.shift(by)
            for process in book.processes.values():
                process.seen += by


class _Ban(msgspec.Struct):
    """What is read of a value of another version."""

    ban_ends: float = -inf
    ban_end_utc: float = 0.0
    bans: int = 0


class _OtherLedger(_Ban):
    """Version 1 has the ban in the ledger itself, version 2 in a part of it."""

    refusals: _Ban | None = None


class _OtherState(msgspec.Struct):
    version: int = 1
    ledger: _OtherLedger = msgspec.field(default_factory=_OtherLedger)
    refusals: _Ban | None = None


encode: Callable[[object], bytes] = msgspec.msgpack.Encoder().encode
decode_ledger: Callable[[bytes], Ledger] = msgspec.msgpack.Decoder(Ledger).decode
_decode = msgspec.msgpack.Decoder(SharedState).decode
_decode_other = msgspec.msgpack.Decoder(_OtherState).decode


def new_state(refusals: Refusals) -> SharedState:
    """Make a value for a store that holds none."""
    return SharedState(version=_VERSION, refusals=refusals)


def copy(ledger: Ledger) -> Ledger:
    """Return a copy that shares nothing."""
    return decode_ledger(encode(ledger))


def read(value: bytes) -> SharedState | Refusals:
    """Read a stored value; of another version, only the ban.

    Raises:
        StoreError: it is no ledger of any version.
    """
    try:
        other = _decode_other(value)
        if other.version == _VERSION:
            return _decode(value)
    except msgspec.MsgspecError as error:
        raise StoreError(f"what the shared budget holds is not a ledger: {error}") from error
    ban = other.refusals or other.ledger.refusals or other.ledger
    return Refusals(ban_ends=ban.ban_ends, ban_end_utc=ban.ban_end_utc, bans=ban.bans)


def pack(state: SharedState, ledger: Ledger) -> bytes:
    """Encode a value; the refusals of one of its ledgers, which are the value's, only once."""
    ledger.refusals = Refusals()
    try:
        return encode(state)
    finally:
        ledger.refusals = state.refusals
