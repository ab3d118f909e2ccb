"""What the package logs while a command goes on, said on standard error."""

from __future__ import annotations

import logging
from contextlib import contextmanager
from typing import TYPE_CHECKING

from ._streams import say

if TYPE_CHECKING:
    from collections.abc import Generator


@contextmanager
def outage_said() -> Generator[None]:
    """Say once that the budget is out of reach, where the command goes on by itself.

    Nothing else that is logged is said, not even by the handler of last resort: a refusal, and an
    outage that ends the command, are in its error.
    """
    handler, logger = _Outage(logging.WARNING), logging.getLogger("binance_insurance")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


class _Outage(logging.Handler):
    said = False

    def emit(self, record: logging.LogRecord) -> None:
        """Say the first warning of a budget that goes on without its store."""
        if record.module == "fallback" and not self.said:
            self.said = True
            say(record.getMessage())
