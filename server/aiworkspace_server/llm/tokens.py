"""Counting tokens without the provider: for reservations, and for answers whose usage nobody reported."""

from .base import ModelRequest, TokenUsage

# What the chat formats put around a turn: its role and its separators.
_TOKENS_PER_TURN = 4
_ADDED_INPUT, _ADDED_OUTPUT = 20_000, 1_000
_MOST_TOKENS_PER_TURN = 8


def estimate_tokens(text: str) -> int:
    """A quarter of the UTF-8 bytes, rounded up: about right for English, code and Chinese, high for other scripts.

    Never 0 for a text that is not empty. No vocabulary is loaded and nobody is asked.
    """
    return estimate_bytes(len(text.encode("utf-8", "replace")))


def estimate_bytes(count: int) -> int:
    """The same for a text of which only its size in UTF-8 is known."""
    return -(-count // 4)


def count_turn(text: str) -> int:
    """Tokens of a text with what is put around it; none of an empty one, which is not sent."""
    return estimate_tokens(text) + _TOKENS_PER_TURN if text else 0


def estimate_input(request: ModelRequest) -> int:
    """Tokens of everything that is sent."""
    return sum(map(count_turn, (request.system, *(turn.text for turn in request.turns))))


def bound_input(request: ModelRequest) -> int:
    """More tokens than everything that is sent has, but for texts that no person writes: what to reserve for.

    Half of the UTF-8 bytes, and eight for each turn. No usual vocabulary needs that many for any script.
    """
    texts = [request.system, *(turn.text for turn in request.turns)]
    return sum(-(-len(text.encode("utf-8", "replace")) // 2) + _MOST_TOKENS_PER_TURN for text in texts if text)


def is_believable(request: ModelRequest, usage: TokenUsage) -> bool:
    """Whether a provider may have counted that: no token is less than a byte, and no answer much longer than allowed.

    With room for what providers add of their own.
    """
    most_input = 4 * estimate_input(request) + _ADDED_INPUT
    most_output = 2 * request.max_output_tokens + _ADDED_OUTPUT
    return usage.input_tokens <= most_input and usage.output_tokens <= most_output


def usage_when_cut(request: ModelRequest, said: str, reported: TokenUsage | None) -> TokenUsage:
    """The best account of an answer that did not reach its end: cancelled, cut, timed out.

    `said` is its text and thinking, `reported` the last TokenUsage that came, if any. Providers report the input at
    the beginning or not at all, and the output at the end, so that what was said is estimated: as no more than was
    allowed, and reserved.
    """
    estimated = min(estimate_tokens(said), request.max_output_tokens)
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
        True,
        reported.input_audio_tokens,
        reported.output_audio_tokens,
    )
