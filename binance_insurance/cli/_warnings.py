"""What the package logs while a command goes on, said on standard error."""

from __future__ import annotations

import asyncio
import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from .._outages import BEGUN, LOST, OVER, is_marked
from ..errors import StoreError
from ._streams import say

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def outages_said() -> Generator[None]:
    """Say what is out of reach while the command goes on by itself, and when that is over.

    Nothing else that is logged is said, not even by the handler of last resort: a refusal, and an
    outage that ends the command, are in its error.

    Raises:
        StoreError: the command was cancelled, and something could not be kept.
    """
    handler, logger = _Outages(logging.WARNING), logging.getLogger("binance_insurance")
    logger.addHandler(handler)
    try:
        yield
    except asyncio.CancelledError:
        if handler.lost is not None:
            raise StoreError(handler.lost) from None
        raise
    finally:
        logger.removeHandler(handler)


class _Outages(logging.Handler):
    """Says each outage once when it begins, and once when it is over.

    Attributes:
        lost: what was logged when something could not be kept, or None.
    """

    def __init__(self, level: int) -> None:
        super().__init__(level)
        self.lost: str | None = None
        self._out: set[str] = set()  # the names of the loggers that have said so

    def emit(self, record: logging.LogRecord) -> None:
        if is_marked(record, LOST):
            self.lost = record.getMessage()
        elif is_marked(record, OVER if record.name in self._out else BEGUN):
            self._out ^= {record.name}
            say(record.getMessage())
