"""Reading PromQL: does it parse, which metrics does it name, does each of them exist."""

import re
from collections.abc import Iterator
from typing import Any

import promql_parser
from prometheus_client import CollectorRegistry

from newsloom.metrics import Metrics, process_registry

VARIABLES = {
    "$__rate_interval": "1m",
    "$__interval": "15s",
    "$__range": "1h",
    "$job": ".+",
    "$instance": ".+",
}
"""What Grafana would put in. The test against a real Prometheus uses shorter times."""

# Of Prometheus itself.
FOREIGN = frozenset({"up"})


def fill(expression: str, values: dict[str, str] | None = None) -> str:
    """Replace Grafana's variables; none may be left."""
    for name, value in {**VARIABLES, **(values or {})}.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, f"unknown variable in {expression}"
    return expression


def metrics_of(expression: str) -> set[str]:
    """Return the names of all series that an expression reads. Raises ValueError if it is none."""
    return {selector.name for selector in _selectors(promql_parser.parse(expression))}


def _selectors(node: Any) -> Iterator[Any]:
    if type(node).__name__ == "VectorSelector":
        yield node
        return
    for name in ("expr", "lhs", "rhs", "args", "vector_selector", "param"):
        child = getattr(node, name, None)
        for item in child if isinstance(child, list) else [child]:
            if item is not None and not isinstance(item, str):
                yield from _selectors(item)


def series_of(registry: CollectorRegistry) -> dict[str, str]:
    """Map every series name that a scrape of `registry` can hold to the metric it belongs to."""
    suffixes = {
        "counter": ("_total",),
        "histogram": ("_bucket", "_count", "_sum"),
        "gauge": ("",),
        "unknown": ("",),
    }
    return {
        family.name + suffix: family.name + ("_total" if family.type == "counter" else "")
        for family in registry.collect()
        for suffix in suffixes[family.type]
    }


def our_series() -> dict[str, str]:
    """Map the series of a newsloom process, those of its registry's process collector included."""
    registry = process_registry()
    Metrics(registry)
    return series_of(registry)


def range_selectors(expression: str) -> list[str]:
    """Return what stands in square brackets, in the order of the text."""
    return re.findall(r"\[([^\]]+)\]", expression)
