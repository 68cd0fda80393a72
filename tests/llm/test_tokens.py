from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.llm.base import ModelRequest, TokenUsage, Turn
from aiworkspace_server.llm.tokens import bound_input, estimate_input, estimate_tokens, is_believable, usage_when_cut


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


def test_more_is_reserved_for_than_is_counted() -> None:
    assert bound_input(REQUEST) == (5 + 8) + (3 + 8)


def test_what_is_reserved_for_is_by_bytes_rounded_up() -> None:
    assert [
        bound_input(ModelRequest("m", "", [Turn("user", text)], 1))
        for text in ("a", "ab", "abc", "äb", "漢", "😀", "\ud800")
    ] == [
        9,
        9,
        10,
        10,
        10,
        10,
        9,
    ]
    assert bound_input(ModelRequest("m", "", [], 1)) == 0


@given(st.text(), st.lists(st.text()))
def test_what_is_reserved_for_covers_what_is_counted(system: str, texts: list[str]) -> None:
    request = ModelRequest("m", system, [Turn("user", text) for text in texts], 1)
    assert bound_input(request) >= 2 * estimate_input(request) - sum(map(bool, [system, *texts]))


def test_the_account_of_an_answer_that_was_cut() -> None:
    guess = TokenUsage(13, 0, 0, 3, 0, estimated=True)
    assert usage_when_cut(REQUEST, "Hi there.", None) == guess
    assert usage_when_cut(REQUEST, "", None) == TokenUsage(13, 0, 0, 0, 0, estimated=True)


def test_what_was_reported_is_kept() -> None:
    begun = TokenUsage(20, 8, 2, 1, 0)
    assert usage_when_cut(REQUEST, "Hi there.", begun) == TokenUsage(20, 8, 2, 3, 0, estimated=True)
    exact = TokenUsage(20, 8, 2, 30, 9)
    assert usage_when_cut(REQUEST, "Hi there.", exact) == exact


def test_what_no_provider_can_have_counted_is_not_believed() -> None:
    request = ModelRequest("m", "Be brief.", [Turn("user", "hello")], 4096)
    assert is_believable(request, TokenUsage(900, 0, 0, 4096, 0))
    assert not is_believable(request, TokenUsage(50_000_000, 0, 0, 10, 0))
    assert not is_believable(request, TokenUsage(10, 0, 0, 90_000_000, 0))
