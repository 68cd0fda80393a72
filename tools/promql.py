"""Evaluates the expressions of the dashboard on scrapes of one server: the part of PromQL that they need."""

import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import promql_parser as promql
from prometheus_client.parser import text_string_to_metric_families

Labels = frozenset[tuple[str, str]]
Vector = dict[Labels, float]

_MATCHES: Mapping[str, Callable[[str, str], bool]] = {
    "MatchOp.Equal": operator.eq,
    "MatchOp.NotEqual": operator.ne,
    "MatchOp.Re": lambda text, pattern: re.fullmatch(pattern, text) is not None,
    "MatchOp.NotRe": lambda text, pattern: re.fullmatch(pattern, text) is None,
}
_ARITHMETIC: Mapping[str, Callable[[float, float], float]] = {"*": operator.mul, "/": operator.truediv}
_AGGREGATES: Mapping[str, Callable[[Sequence[float]], float]] = {"sum": sum, "min": min, "max": max}


@dataclass(frozen=True)
class Scrape:
    """The samples of /metrics at a time in seconds, by name and labels."""

    time: float
    samples: Mapping[str, Vector]

    @classmethod
    def parse(cls, time: float, text: str) -> "Scrape":
        samples: dict[str, Vector] = defaultdict(dict)
        for family in text_string_to_metric_families(text):
            for sample in family.samples:
                samples[sample.name][frozenset(sample.labels.items())] = sample.value
        return cls(time, samples)


def evaluate(expression: str, scrapes: Sequence[Scrape]) -> Vector:
    """Return the value of an expression at the time of the last scrape. Raise ValueError for what is not known here."""
    value = _value(promql.parse(expression), scrapes)
    return value if isinstance(value, dict) else {frozenset(): value}


def _value(node: Any, scrapes: Sequence[Scrape]) -> Vector | float:
    match type(node).__name__:
        case "NumberLiteral":
            return float(node.val)
        case "ParenExpr":
            return _value(node.expr, scrapes)
        case "VectorSelector":
            return dict(_select(node, scrapes[-1]))
        case "AggregateExpr":
            return _aggregate(node, scrapes)
        case "BinaryExpr":
            left, right = _value(node.lhs, scrapes), _value(node.rhs, scrapes)
            if isinstance(left, dict) and isinstance(right, float):
                function = _ARITHMETIC[str(node.op)]
                return {labels: function(value, right) for labels, value in left.items()}
        case "Call":
            return _call(node, scrapes)
    raise ValueError(f"not known: {node.prettify()}")


def _call(node: Any, scrapes: Sequence[Scrape]) -> Vector:
    match node.func.name:
        case "rate":
            return _increase(node.args[0], scrapes, per_second=True)
        case "increase":
            return _increase(node.args[0], scrapes, per_second=False)
        case "histogram_quantile":
            buckets = _value(node.args[1], scrapes)
            assert isinstance(buckets, dict)
            return dict(_quantiles(float(node.args[0].val), buckets))
    raise ValueError(f"not known: {node.func.name}")


def _select(selector: Any, scrape: Scrape) -> Iterator[tuple[Labels, float]]:
    for labels, value in scrape.samples.get(selector.name, {}).items():
        texts = dict(labels)
        if all(_MATCHES[str(each.op)](texts.get(each.name, ""), each.value) for each in selector.matchers.matchers):
            yield labels, value


def _increase(matrix: Any, scrapes: Sequence[Scrape], *, per_second: bool) -> Vector:
    """From the first scrape in the range to the last: the counters of a server go on when a worker dies."""
    last = scrapes[-1]
    first = next(scrape for scrape in scrapes if last.time - scrape.time <= matrix.range.total_seconds())
    seconds = last.time - first.time
    if not seconds:
        return {}
    before = dict(_select(matrix.vector_selector, first))
    now = dict(_select(matrix.vector_selector, last))
    divisor = seconds if per_second else 1.0
    return {labels: (value - before.get(labels, 0.0)) / divisor for labels, value in now.items()}


def _aggregate(node: Any, scrapes: Sequence[Scrape]) -> Vector:
    vector = _value(node.expr, scrapes)
    assert isinstance(vector, dict)
    by = set(node.modifier.labels) if node.modifier else set()
    groups: dict[Labels, list[float]] = defaultdict(list)
    for labels, value in vector.items():
        groups[frozenset(pair for pair in labels if pair[0] in by)].append(value)
    return {labels: _AGGREGATES[str(node.op)](values) for labels, values in groups.items()}


def _quantiles(quantile: float, buckets: Vector) -> Iterator[tuple[Labels, float]]:
    groups: dict[Labels, list[tuple[float, float]]] = defaultdict(list)
    for labels, count in buckets.items():
        bound = float(dict(labels)["le"])
        groups[frozenset(pair for pair in labels if pair[0] != "le")].append((bound, count))
    for labels, counts in groups.items():
        if total := max(count for _, count in counts):
            yield labels, _quantile(quantile * total, sorted(counts))


def _quantile(rank: float, buckets: Sequence[tuple[float, float]]) -> float:
    """Interpolate in the bucket that has the rank, as Prometheus does."""
    lower = counted = 0.0
    for bound, count in buckets:
        if count >= rank and bound != float("inf"):
            return lower + (bound - lower) * (rank - counted) / (count - counted) if count > counted else bound
        if bound != float("inf"):
            lower, counted = bound, count
    return lower
