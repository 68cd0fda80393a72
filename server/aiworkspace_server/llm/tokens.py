"""Counting tokens without the provider: for reservations, and for answers without reported usage.

There are three counts. The bound is never below the provider's count: it is reserved. The expectation is lower for
prose, for which common vocabularies need fewer tokens: an allowance must have that much left. The estimate is close to
the provider's count: it is charged if the provider reports no usage, and decides what fits into a context.
"""

from collections.abc import Sequence
from dataclasses import replace

import orjson

from .base import ModelRequest, SourceText, TokenUsage
from .lenient import SURROGATE
from .sources import INSTRUCTIONS, render, render_one, with_sources

# Overhead of a turn in chat formats: its role and its separators.
_TOKENS_PER_TURN = 4
# {"role":"assistant","content":…}, and the comma after it.
_BYTES_PER_TURN = 32
# Everything else in the body of a request: field names, numbers, the model's name.
_OTHER_BYTES = 400
# What a provider's own format for sources has more than ours: field names for each, and a prompt of its own for citing.
_BYTES_PER_SOURCE = 256
_SOURCES_BYTES = 2000

# Eighths of a token for each byte of UTF-8, and how many more for bytes of these classes, for which common vocabularies
# have fewer letters per token than in English prose.
_EIGHTHS = 2
_ASCII_CLASSES = (
    (b"0123456789", 2),
    (b"!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~", 3),
    (bytes({*range(32), 127} - set(b"\t\n\r")), 6),
)
# By the first byte of a character in UTF-8.
_OTHER_CLASSES = (
    (b"\xcc\xcd", 12),  # combining marks
    (bytes(range(0xD7, 0xE0)), 2),  # Hebrew, Arabic, Syriac
    (b"\xe0", 4),  # Indic scripts, Thai, Lao, Tibetan
    (b"\xe1", 14),  # Georgian, Ethiopic, Khmer, Cherokee
    (bytes(range(0xE2, 0xF0)), 2),  # Chinese, Japanese, Korean, symbols
    (bytes(range(0xF0, 0x100)), 12),  # emoji, ancient scripts
)

_EIGHTHS_OF_BYTE = bytes(
    _EIGHTHS + sum(more for chars, more in (*_ASCII_CLASSES, *_OTHER_CLASSES) if byte in chars) for byte in range(256)
)
_SHORT = 64  # bytes up to which adding their eighths is faster than counting classes

_LETTERS = bytes({*b"abcdefghijklmnopqrstuvwxyz", *b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"})

# No model writes this much in one answer: a larger count is an error of the provider.
_MOST_OUTPUT = 1_000_000
_ADDED_INPUT = 20_000


def estimate_tokens(text: str) -> int:
    """Estimate the tokens of a text in common vocabularies: a fifth too high for code, right for numbers.

    The result is at least 1 for a text that is not empty, and at most its bytes in UTF-8. No vocabulary is loaded.
    """
    return -(-_eighths(text) // 8)


def count_piece(text: str) -> int:
    """Estimate the tokens of one streamed piece of an answer, at least 1. Rounded down: most pieces are one token."""
    return _eighths(text) // 8 or 1


def count_turn(text: str) -> int:
    """Estimate the tokens of a turn in a context, with its overhead; 0 if the text is empty.

    A quarter of the bytes, which is fast: a context is counted for each message.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4) + _TOKENS_PER_TURN if text else 0


def estimate_input(request: ModelRequest) -> int:
    """Estimate the input tokens of a request."""
    return sum(estimate_tokens(text) + _TOKENS_PER_TURN for text in _texts(request) if text)


def bound_input(request: ModelRequest) -> int:
    """Return an upper bound of the input tokens in any vocabulary: one for each byte of the body.

    A token of a byte-level vocabulary has at least one byte, and the overhead of a turn in chat formats is shorter than
    its JSON.
    """
    texts = (*_texts(request), *request.parameters.stop)
    added = _SOURCES_BYTES + _BYTES_PER_SOURCE * len(request.sources) if request.sources else 0
    return sum(_json_size(text) + _BYTES_PER_TURN for text in texts) + _OTHER_BYTES + added


def bound_source(source: SourceText) -> int:
    """Return an upper bound of what one more source adds to the input tokens of a request that has some."""
    return _json_size(render_one(source)) + _BYTES_PER_SOURCE


def count_sources(sources: Sequence[SourceText]) -> int:
    """Estimate what sources take of a context, as count_turn does."""
    return count_turn(INSTRUCTIONS + render(sources)) if sources else 0


def bound_citing() -> int:
    """Return an upper bound of what sources add to the input tokens of a request, besides each `bound_source`."""
    return _json_size(INSTRUCTIONS) + _SOURCES_BYTES


def expect_input(request: ModelRequest) -> int:
    """Return the bound, but count letters and spaces of prose as a quarter of a token each.

    A text is prose if four fifths are letters and spaces, and a tenth is spaces. Common vocabularies need fewer tokens.
    """
    saved = 0
    for text in _texts(request):
        data = text.encode("utf-8", "surrogatepass")
        spaces, letters = data.count(b" "), len(data) - len(data.translate(None, _LETTERS))
        if 10 * spaces >= len(data) and 5 * (letters + spaces) >= 4 * len(data):
            saved += (letters + spaces) * 3 // 4
    return bound_input(request) - saved


def is_believable(request: ModelRequest, usage: TokenUsage) -> bool:
    """Return whether a provider may have counted that. Anything beyond is an error, which is not charged."""
    most_input = bound_input(request) + _ADDED_INPUT
    most_output = max(2 * request.max_output_tokens, _MOST_OUTPUT)
    return usage.input_tokens <= most_input and usage.output_tokens <= most_output


def mark_excess(request: ModelRequest, usage: TokenUsage) -> TokenUsage:
    """Return the usage, marked if it is above the request's limits: the cost may then exceed the reservation."""
    above = usage.output_tokens > request.max_output_tokens or usage.input_tokens > bound_input(request)
    return replace(usage, above_limit=True) if above else usage


def usage_when_cut(request: ModelRequest, said_tokens: int, reported: TokenUsage | None) -> TokenUsage:
    """Return the best estimate of the usage of an answer that did not complete: cancelled, cut, timed out.

    `said_tokens` are those of its deltas, `reported` is the last TokenUsage, if any. Providers report the input at the
    beginning or not at all, and the output at the end. So the output is estimated, as at most the allowed tokens.
    """
    estimated = min(said_tokens, request.max_output_tokens)
    if reported is None:
        return TokenUsage(estimate_input(request), 0, 0, estimated, 0, estimated=True)
    if reported.output_tokens >= estimated:
        return reported
    return replace(reported, output_tokens=estimated, estimated=True)


def _eighths(text: str) -> int:
    data = text.encode("utf-8", "surrogatepass")
    size = len(data)
    if size <= _SHORT:
        return sum(data.translate(_EIGHTHS_OF_BYTE))
    eighths = _EIGHTHS * size
    for chars, more in _ASCII_CLASSES if len(text) == size else (*_ASCII_CLASSES, *_OTHER_CLASSES):
        eighths += more * (size - len(data.translate(None, chars)))
    return eighths


def _texts(request: ModelRequest) -> list[str]:
    """Return the texts of the request, with its sources as part of the last turn."""
    whole = with_sources(request)
    return [whole.system, *(turn.text for turn in whole.turns)]


def _json_size(text: str) -> int:
    """Return the size of a text as JSON in UTF-8. Half a surrogate pair counts as the character that replaces it."""
    try:
        return len(orjson.dumps(text))
    except orjson.JSONEncodeError:
        return len(orjson.dumps(SURROGATE.sub("\ufffd", text)))
