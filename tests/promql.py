"""What is wrong with a PromQL expression, given the metrics that are exposed."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping

import promql_parser
from promql_parser import Expr, VectorSelector

# What Grafana puts in place of its own variables; the dashboard's are label values.
_GRAFANA = {"$__rate_interval": "5m", "$__interval": "1m", "$__range": "1d"}
_GROUPED = re.compile(r"\b(?:on|by|group_left|group_right|ignoring|without) ?\(([^)]*)\)")
_SCRAPED = {"instance", "job"}  # labels that Prometheus adds


def mistakes(expression: str, exposed: Mapping[str, set[str]]) -> Iterator[str]:
    """Yield a line for each metric and label of an expression that is not exposed.

    Args:
        expression: it may have variables of Grafana.
        exposed: the labels of each metric, by the metric's name.

    Raises:
        ValueError: it is no PromQL.
    """
    for variable, value in _GRAFANA.items():
        expression = expression.replace(variable, value)
    selectors = list(_selectors(promql_parser.parse(expression)))
    if not selectors:
        yield f"no metric in {expression!r}"
    for selector in selectors:
        labels = exposed.get(selector.name or "")
        if labels is None:
            yield f"no metric {selector.name!r}"
        else:
            used = {matcher.name for matcher in selector.matchers.matchers}
            yield from (
                f"no label {each!r} of {selector.name}" for each in used - labels - _SCRAPED
            )
    grouped = {
        label for labels in _GROUPED.findall(expression) for label in re.findall(r"\w+", labels)
    }
    yield from (f"no label {each!r}" for each in grouped - _SCRAPED.union(*exposed.values()))


def _selectors(expression: Expr) -> list[VectorSelector]:
    found: list[VectorSelector] = []

    def visit(part: Expr) -> None:
        if isinstance(part, VectorSelector):
            found.append(part)

    promql_parser.walk(expression, visit)
    return found
