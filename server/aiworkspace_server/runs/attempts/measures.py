"""What operators see of attempts: metrics of those that have ended, and attributes of their spans."""

from collections.abc import Mapping

from aiworkspace.v1 import common_pb2

from ...kit.metrics import OTHER, Metrics
from ...kit.tracing import Span, Value
from ..models import RunState, Usage
from .attempt import Attempt

# Kinds of tokens by the fields of `Usage` that count them. Those after input and output are parts of these two.
_TOKENS: Mapping[str, str] = {
    "input": "input_tokens",
    "output": "output_tokens",
    "cached_input": "cached_input_tokens",
    "cache_write": "cache_write_tokens",
    "reasoning": "reasoning_tokens",
}


def measure(metrics: Metrics, attempt: Attempt) -> None:
    """Count an attempt that has ended, as its settlement has it."""
    provider, name = attempt.target.provider, attempt.target.name
    labels = provider.name, name if provider.knows(name) else OTHER
    metrics.attempts.labels(*labels, _outcome(attempt)).inc()
    if (seconds := attempt.first_content_seconds) is not None:
        metrics.first_token_seconds.labels(*labels).observe(seconds)
    settlement = attempt.settlement()
    if settlement["usage"]:
        cost = settlement["cost"]
        metrics.cost_nanos.labels(*labels, cost["currency"]).inc(cost["nanos"])
        for kind, count in _tokens(settlement["usage"]):
            metrics.tokens.labels(*labels, kind).inc(count)


def about(attempt: Attempt) -> Mapping[str, Value]:
    """Return the attributes of the span of an attempt, by the conventions for requests to models."""
    return {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": attempt.target.provider.name,
        "gen_ai.request.model": attempt.target.name,
    }


def describe(span: Span, attempt: Attempt) -> None:
    """Add to the span of an attempt how it ended."""
    usage = attempt.settlement()["usage"]
    if usage:
        span.set({f"gen_ai.usage.{name}": usage[name] for name in ("input_tokens", "output_tokens")})
    if attempt.state != RunState.COMPLETED:
        span.fail(_outcome(attempt))


def _tokens(usage: Usage) -> list[tuple[str, int]]:
    counts: Mapping[str, object] = usage
    return [(kind, count) for kind, name in _TOKENS.items() if isinstance(count := counts[name], int) and count]


def _outcome(attempt: Attempt) -> str:
    """Return the state in which it ended or, if it failed, the contract's reason: "provider_timeout"."""
    if attempt.state != RunState.FAILED or attempt.failure is None:
        return attempt.state.value
    return common_pb2.ErrorReason.Name(attempt.failure["reason"]).removeprefix("ERROR_REASON_").lower()  # type: ignore[arg-type]
