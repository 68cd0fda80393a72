"""What the stand-in charges, as a provider does: what came in, and what it sent, however the answer ended."""

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from aiworkspace_server.llm.base import TokenUsage

_COUNTS = ("input_tokens", "cached_input_tokens", "cache_write_tokens", "output_tokens", "reasoning_tokens")


@dataclass(frozen=True, slots=True)
class Charge:
    """One request that was answered, or begun to be. What was refused with an error status costs nothing."""

    provider: str
    request: str  # x-client-request-id: "run_id/attempt"
    model: str  # the provider's own name
    usage: TokenUsage

    def line(self) -> dict[str, Any]:
        """As providers export it, for the reconcile command."""
        counts = asdict(self.usage)
        return {"request": self.request, **{name: counts[name] for name in _COUNTS}}


def count_words(texts: Iterable[str]) -> int:
    """The stand-in's tokens of what comes in."""
    return sum(len(text.split()) for text in texts)


def texts_in(content: Any) -> list[str]:
    """The texts of a message, documents included. The last one is what was asked."""
    if isinstance(content, str):
        return [content]
    found = []
    for block in content:
        if block["type"] == "document":
            found += [block["title"], block.get("context", ""), block["source"]["data"]]
        else:
            found.append(block["text"])
    return found
