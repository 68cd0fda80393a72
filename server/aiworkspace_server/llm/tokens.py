"""Counting tokens without the provider: for reservations, and for answers whose usage nobody reported."""

from .base import ModelRequest, TokenUsage

# What the chat formats put around a turn: its role and its separators.
_TOKENS_PER_TURN = 4


def estimate_tokens(text: str) -> int:
    """A quarter of the UTF-8 bytes, rounded up: about right for English, code and Chinese, high for other scripts.

    Never 0 for a text that is not empty. No vocabulary is loaded and nobody is asked.
    """
    return estimate_bytes(len(text.encode("utf-8", "replace")))


def estimate_bytes(count: int) -> int:
    """The same for a text of which only its size in UTF-8 is known."""
    return -(-count // 4)


def estimate_input(request: ModelRequest) -> int:
    """Tokens of everything that is sent."""
    texts = [request.system, *(turn.text for turn in request.turns)]
    return sum(estimate_tokens(text) + _TOKENS_PER_TURN for text in texts if text)


def usage_when_cut(request: ModelRequest, said: str, reported: TokenUsage | None) -> TokenUsage:
    """The best account of an answer that did not reach its end: cancelled, cut, timed out.

    `said` is its text and thinking, `reported` the last TokenUsage that came, if any. Providers report the input at
    the beginning or not at all, and the output at the end, so that what was said is estimated.
    """
    estimated = estimate_tokens(said)
    if reported is None:
        return TokenUsage(estimate_input(request), 0, 0, estimated, 0, estimated=True)
    if reported.output_tokens >= estimated:
        return reported
    return TokenUsage(
        reported.input_tokens,
        reported.cached_input_tokens,
        reported.cache_write_tokens,
        estimated,
        reported.reasoning_tokens,
        estimated=True,
    )
