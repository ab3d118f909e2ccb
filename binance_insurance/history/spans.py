"""Spans in which somebody looked, and the gaps between them. Pure; all times in microseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeAlias

from .times import aware
from .values import Gap

if TYPE_CHECKING:
    from collections.abc import Iterable

Span: TypeAlias = tuple[int, int]  # first and last moment


def united(spans: Iterable[Span]) -> list[Span]:
    """Return the union of spans, in order; spans that touch are one."""
    union: list[Span] = []
    for first, last in sorted(spans):
        if union and first <= union[-1][1]:
            union[-1] = (union[-1][0], max(union[-1][1], last))
        else:
            union.append((first, last))
    return union


def gaps(spans: Iterable[Span], first: int, last: int) -> tuple[Gap, ...]:
    """Return what no span covers between two moments; each span touches the time between them."""
    found: list[Gap] = []
    covered = first
    for begun, ended in united(spans):
        if begun > covered:
            found.append(Gap(aware(covered), aware(begun)))
        covered = max(covered, ended)
    if covered < last:
        found.append(Gap(aware(covered), aware(last)))
    return tuple(found)
