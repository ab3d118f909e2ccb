"""Outages in the log: the records that say what begins, what is over and what is lost have a mark.

So a program can say it to its users without knowing who logs: a record without a mark is of
something that will end in an error, or that went well in the end.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import logging

BEGUN = {"outage": "begun"}  # it goes on by itself
OVER = {"outage": "over"}
LOST = {"outage": "lost"}  # the end came first


def is_marked(record: logging.LogRecord, mark: dict[str, str]) -> bool:
    """Whether a record has a mark."""
    return getattr(record, "outage", None) == mark["outage"]
