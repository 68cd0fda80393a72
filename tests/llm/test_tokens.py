from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm.base import ModelRequest, TokenUsage, Turn
from aiworkspace_server.llm.tokens import estimate_input, estimate_tokens, usage_when_cut


def test_a_quarter_of_the_bytes_rounded_up() -> None:
    assert [estimate_tokens(text) for text in ("", "a", "abcd", "abcde", "äöü", "😀😀", "\ud800")] == [
        0,
        1,
        1,
        2,
        2,
        2,
        1,
    ]


@given(st.text(), st.text())
def test_more_text_is_never_fewer_tokens(one: str, other: str) -> None:
    assert max(estimate_tokens(one), estimate_tokens(other)) <= estimate_tokens(one + other)
    assert estimate_tokens(one + other) <= estimate_tokens(one) + estimate_tokens(other)
    assert (estimate_tokens(one) == 0) == (one == "")


REQUEST = ModelRequest("m", "Be brief.", [Turn("user", "Hello"), Turn("assistant", "")], 100)


def test_the_input_is_everything_that_is_sent() -> None:
    assert estimate_input(REQUEST) == (3 + 4) + (2 + 4)


def test_the_account_of_an_answer_that_was_cut() -> None:
    guess = TokenUsage(13, 0, 0, 3, 0, estimated=True)
    assert usage_when_cut(REQUEST, "Hi there.", None) == guess
    assert usage_when_cut(REQUEST, "", None) == TokenUsage(13, 0, 0, 0, 0, estimated=True)


def test_what_was_reported_is_kept() -> None:
    begun = TokenUsage(20, 8, 2, 1, 0)
    assert usage_when_cut(REQUEST, "Hi there.", begun) == TokenUsage(20, 8, 2, 3, 0, estimated=True)
    exact = TokenUsage(20, 8, 2, 30, 9)
    assert usage_when_cut(REQUEST, "Hi there.", exact) == exact
