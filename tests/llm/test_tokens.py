"""Counting tokens: what is reserved for is never too little, and what is estimated is about right."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm import anthropic_wire
from aiworkspace_server.llm.base import ModelRequest, Parameters, TokenUsage, Turn
from aiworkspace_server.llm.clock import Clocks
from aiworkspace_server.llm.openai_wire import DEEPSEEK, OPENAI, OpenAIProvider
from aiworkspace_server.llm.tokens import (
    bound_input,
    count_piece,
    count_turn,
    estimate_input,
    estimate_tokens,
    expect_input,
    is_believable,
    mark_excess,
    usage_when_cut,
)

DIGITS = st.text("0123456789")
JSON = st.lists(st.dictionaries(st.text(max_size=5), st.integers() | st.floats() | st.text(max_size=5))).map(json.dumps)
ETHIOPIC = st.text(st.characters(min_codepoint=0x1200, max_codepoint=0x139F))
EMOJI = st.text(st.characters(min_codepoint=0x1F300, max_codepoint=0x1FAFF))
CONTROL = st.text(st.characters(max_codepoint=0x1F))
MARKS = st.text(st.characters(min_codepoint=0x300, max_codepoint=0x36F))
TEXTS = st.one_of(st.text(), DIGITS, JSON, ETHIOPIC, EMOJI, CONTROL, MARKS)
REQUESTS = st.builds(
    ModelRequest,
    model=st.sampled_from(["gpt-4o", "o3", "claude-sonnet-4-5", "deepseek-chat", "m" * 190]),
    system=TEXTS,
    turns=st.lists(st.builds(Turn, st.sampled_from(["user", "assistant"]), TEXTS), max_size=5),
    max_output_tokens=st.integers(1, 10**6),
    parameters=st.builds(
        Parameters,
        temperature=st.none() | st.floats(0, 2),
        stop=st.lists(st.text(max_size=64), max_size=4).map(tuple),
        seed=st.none() | st.integers(-(2**63), 2**63 - 1),
        reasoning_effort=st.sampled_from([None, "low", "medium", "high"]),
    ),
)
REQUEST = ModelRequest("m", "Be brief.", [Turn("user", "Hello"), Turn("assistant", "")], 100)


def body(provider: str, request: ModelRequest) -> bytes:
    """What is sent to a provider."""
    if provider == "anthropic":
        return anthropic_wire.encode(request)
    profile = OPENAI if provider == "openai" else DEEPSEEK
    return OpenAIProvider(profile, api_key="none", clocks=Clocks(1, 1, 1)).encode(request)


# The bound


@pytest.mark.parametrize("provider", ["openai", "deepseek", "anthropic"])
@given(request_=REQUESTS)
def test_the_bound_covers_every_byte_of_the_body_that_is_sent(provider: str, request_: ModelRequest) -> None:
    assert bound_input(request_) >= len(body(provider, request_))


@given(request_=REQUESTS)
def test_the_bound_covers_a_token_for_each_byte_and_eight_for_each_turn(request_: ModelRequest) -> None:
    texts = [request_.system, *(turn.text for turn in request_.turns)]
    assert bound_input(request_) >= sum(len(text.encode()) + 8 for text in texts)


def test_half_a_surrogate_pair_is_bounded_as_the_character_that_replaces_it() -> None:
    whole, half = (bound_input(ModelRequest("m", "", [Turn("user", text)], 1)) for text in ("\ufffd", "\ud83d"))
    assert half == whole


@given(request_=REQUESTS)
def test_the_bound_is_above_the_estimate(request_: ModelRequest) -> None:
    assert estimate_input(request_) <= bound_input(request_)


# The expectation


@given(request_=REQUESTS)
def test_the_expectation_is_no_more_than_the_bound(request_: ModelRequest) -> None:
    assert expect_input(request_) <= bound_input(request_)


@pytest.mark.parametrize(
    "text", ["8" * 1000, "x" * 1000, "አማርኛ " * 300, "😀 " * 300, '{"a": 1, "b": [2, 3]}' * 50, "1 2 3 " * 300]
)
def test_what_is_no_prose_is_expected_to_be_a_token_for_each_byte(text: str) -> None:
    request_ = ModelRequest("m", "", [Turn("user", text)], 1)
    assert expect_input(request_) == bound_input(request_)


def test_prose_is_expected_to_be_about_what_common_vocabularies_count() -> None:
    text = "Prose has some words, and they are as long as words are; now and then (here, say) there is a mark. " * 100
    request_ = ModelRequest("m", "", [Turn("user", text)], 1)
    assert 0.22 * len(text) < expect_input(request_) < 0.4 * len(text)


# The estimate


@given(TEXTS, TEXTS)
def test_more_text_is_never_fewer_tokens(one: str, other: str) -> None:
    assert max(estimate_tokens(one), estimate_tokens(other)) <= estimate_tokens(one + other)
    assert estimate_tokens(one + other) <= estimate_tokens(one) + estimate_tokens(other)
    assert (estimate_tokens(one) == 0) == (one == "")


@given(TEXTS)
def test_an_estimate_is_between_a_quarter_of_the_bytes_and_all_of_them(text: str) -> None:
    size = len(text.encode())
    assert -(-size // 4) <= estimate_tokens(text) <= size


@given(st.lists(TEXTS.filter(bool)))
def test_pieces_are_never_fewer_tokens_than_pieces_nor_more_than_bytes(pieces: list[str]) -> None:
    counted = sum(map(count_piece, pieces))
    assert len(pieces) <= counted <= sum(len(piece.encode()) for piece in pieces)
    assert counted + len(pieces) >= estimate_tokens("".join(pieces))


@given(st.text(st.characters(), min_size=1, max_size=1))
def test_a_character_counts_the_same_in_a_short_text_and_in_a_long_one(char: str) -> None:
    assert estimate_tokens(char * 8 * 100) == 100 * estimate_tokens(char * 8)


# Counted with the vocabularies cl100k_base and o200k_base, which agree within a few tokens here.
COUNTED = {
    "prose": ("The ledger reserves what an answer may cost at most before a model is asked. " * 10, 161),
    "digits": ("31415926535897932384626433832795" * 10, 107),
    "code": ("for (int i = 0; i < n; i++) { sum += a[i] * b[i]; }\n" * 10, 250),
    "json": ('{"id": 1029384756, "x": 0.8472910375, "name": "abc"}, ' * 10, 261),
}


@pytest.mark.parametrize("kind", COUNTED)
def test_an_estimate_is_about_what_common_vocabularies_count(kind: str) -> None:
    text, counted = COUNTED[kind]
    assert 0.8 * counted <= estimate_tokens(text) <= 1.5 * counted


def test_the_input_is_everything_that_is_sent() -> None:
    assert estimate_input(REQUEST) == (3 + 4) + (2 + 4)
    assert [count_turn(text) for text in ("", "Hello", "漢字")] == [0, 2 + 4, 2 + 4]


# What a provider counts


def test_the_account_of_an_answer_that_was_cut() -> None:
    guess = TokenUsage(13, 0, 0, 3, 0, estimated=True)
    assert usage_when_cut(REQUEST, 3, None) == guess
    assert usage_when_cut(REQUEST, 0, None) == TokenUsage(13, 0, 0, 0, 0, estimated=True)
    assert usage_when_cut(REQUEST, 1000, None).output_tokens == REQUEST.max_output_tokens


def test_what_was_reported_is_kept() -> None:
    begun = TokenUsage(20, 8, 2, 1, 0)
    assert usage_when_cut(REQUEST, 3, begun) == TokenUsage(20, 8, 2, 3, 0, estimated=True)
    exact = TokenUsage(20, 8, 2, 30, 9)
    assert usage_when_cut(REQUEST, 3, exact) == exact


def test_what_no_provider_can_have_counted_is_not_believed() -> None:
    request = ModelRequest("m", "Be brief.", [Turn("user", "hello")], 4096)
    assert is_believable(request, TokenUsage(900, 0, 0, 4096, 0))
    assert not is_believable(request, TokenUsage(50_000_000, 0, 0, 10, 0))
    assert not is_believable(request, TokenUsage(10, 0, 0, 90_000_000, 0))


def test_more_than_was_asked_for_is_believed_and_marked() -> None:
    most = TokenUsage(bound_input(REQUEST), 0, 0, REQUEST.max_output_tokens, 0)
    assert mark_excess(REQUEST, most) == most
    for above in (
        TokenUsage(most.input_tokens + 1, 0, 0, 1, 0),
        TokenUsage(1, 0, 0, most.output_tokens + 1, 0),
        TokenUsage(1, 0, 0, 50_000, 0),
    ):
        assert is_believable(REQUEST, above)
        assert mark_excess(REQUEST, above).above_limit
    assert not mark_excess(REQUEST, most).above_limit
