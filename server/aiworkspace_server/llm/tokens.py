"""Counting tokens without the provider: for reservations, and for answers whose usage nobody reported.

There are three counts. The bound is never below what a provider counts: money is reserved for it. The expectation is
the same but for prose, of which common vocabularies have fewer tokens: an allowance has to have so much left. The
estimate is about what a provider counts: it is charged when nobody reports usage, and decides what fits into a context.
"""

from dataclasses import replace

import orjson

from .base import ModelRequest, TokenUsage
from .lenient import SURROGATE

# What the chat formats put around a turn: its role and its separators.
_TOKENS_PER_TURN = 4
# {"role":"assistant","content":…}, and the comma after it.
_BYTES_PER_TURN = 32
# Everything else in the body of a request: names of fields, numbers, the name of the model.
_OTHER_BYTES = 400

# Eighths of a token for each byte of UTF-8, and how many more for the bytes of these classes: where common vocabularies
# have fewer letters in a token than in English prose.
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

_LETTERS = bytes({*b"abcdefghijklmnopqrstuvwxyz", *b"ABCDEFGHIJKLMNOPQRSTUVWXYZ"})

# No model writes so much in one answer, however much a provider reports. Beyond it, a count is a fault and no bill.
_MOST_OUTPUT = 1_000_000
_ADDED_INPUT = 20_000


def estimate_tokens(text: str) -> int:
    """Return about how many tokens a text has in common vocabularies: a fifth more for code, right for numbers.

    Never 0 for a text that is not empty, and never more than its bytes in UTF-8. No vocabulary is loaded.
    """
    return -(-_eighths(text) // 8)


def count_piece(text: str) -> int:
    """Return about how many tokens a piece of an answer has, which a provider sent by itself: 1 or more.

    Rounded down, since most pieces are one token.
    """
    return max(1, _eighths(text) // 8)


def count_turn(text: str) -> int:
    """Return about how many tokens of a context a text takes, with what is put around it; 0 when it is empty.

    A quarter of the bytes: fast, since a context is counted for each message.
    """
    return -(-len(text.encode("utf-8", "surrogatepass")) // 4) + _TOKENS_PER_TURN if text else 0


def estimate_input(request: ModelRequest) -> int:
    """Return about how many tokens everything that is sent has."""
    return sum(estimate_tokens(text) + _TOKENS_PER_TURN for text in _texts(request) if text)


def bound_input(request: ModelRequest) -> int:
    """Return at least as many tokens as the request has in any vocabulary: one for each byte of its body.

    A token of a byte-level vocabulary is one byte or more, and what chat formats put around a turn is shorter than the
    JSON around it.
    """
    texts = (*_texts(request), *request.parameters.stop)
    return sum(_json_size(text) + _BYTES_PER_TURN for text in texts) + _OTHER_BYTES


def expect_input(request: ModelRequest) -> int:
    """Return the bound, with what is prose at a quarter of its letters and spaces.

    Four fifths of prose are letters and spaces, and a tenth is spaces. Common vocabularies have fewer tokens of it.
    """
    saved = 0
    for text in _texts(request):
        data = text.encode("utf-8", "surrogatepass")
        spaces, letters = data.count(b" "), len(data) - len(data.translate(None, _LETTERS))
        if 10 * spaces >= len(data) and 5 * (letters + spaces) >= 4 * len(data):
            saved += (letters + spaces) * 3 // 4
    return bound_input(request) - saved


def is_believable(request: ModelRequest, usage: TokenUsage) -> bool:
    """Whether a provider may have counted that, rightly or wrongly. What is beyond is a fault, and not charged."""
    most_input = bound_input(request) + _ADDED_INPUT
    most_output = max(2 * request.max_output_tokens, _MOST_OUTPUT)
    return usage.input_tokens <= most_input and usage.output_tokens <= most_output


def mark_excess(request: ModelRequest, usage: TokenUsage) -> TokenUsage:
    """Return the usage, marked when it is more than was asked for: more than was reserved may have to be charged."""
    above = usage.output_tokens > request.max_output_tokens or usage.input_tokens > bound_input(request)
    return replace(usage, above_limit=True) if above else usage


def usage_when_cut(request: ModelRequest, said_tokens: int, reported: TokenUsage | None) -> TokenUsage:
    """Return the best account of an answer that did not reach its end: cancelled, cut, timed out.

    `said_tokens` are those of its deltas, `reported` is the last TokenUsage that came, if any. Providers report the
    input at the beginning or not at all, and the output at the end, so that what was said is estimated: as no more than
    was allowed, and reserved.
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
    eighths = _EIGHTHS * size
    for chars, more in _ASCII_CLASSES if len(text) == size else (*_ASCII_CLASSES, *_OTHER_CLASSES):
        eighths += more * (size - len(data.translate(None, chars)))
    return eighths


def _texts(request: ModelRequest) -> list[str]:
    return [request.system, *(turn.text for turn in request.turns)]


def _json_size(text: str) -> int:
    """Return the size of a text as JSON in UTF-8. Half a surrogate pair counts as the character that replaces it."""
    try:
        return len(orjson.dumps(text))
    except orjson.JSONEncodeError:
        return len(orjson.dumps(SURROGATE.sub("\ufffd", text)))
