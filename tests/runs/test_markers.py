"""Markers of citations in the text of a model, however it is cut."""

from collections.abc import Iterable, Sequence
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from aiworkspace_server.runs.citations.markers import LONGEST_MARKER, Marker, MarkerFilter

PIECES = [
    "[",
    "]",
    "1",
    "12",
    ", ",
    " ",
    "`",
    "```",
    "~~~",
    "\n",
    "word",
    "(",
    ":",
    '"',
    "é🚀",
    "[1]",
    '[2: "q"]',
    ". ",
]
TEXTS = st.lists(st.sampled_from(PIECES), max_size=40).map("".join)


def filtered(pieces: Iterable[str]) -> tuple[str, list[Marker], int]:
    """The text that is sent, its markers, and the most that was held back."""
    markers, text, most = MarkerFilter(), "", 0
    found: list[Marker] = []
    for piece in pieces:
        sent, taken = markers.feed(piece)
        text, most = text + sent, max(most, len(markers.held))
        found += taken
    sent, taken = markers.end()
    return text + sent, found + taken, most


def cited(text: str) -> tuple[str, list[tuple[Sequence[int], str, str]]]:
    """The text without markers, and the numbers, quote and supported words of each."""
    sent, markers, _ = filtered([text])
    return sent, [(each.numbers, each.quote, sent[each.start : each.end]) for each in markers]


@pytest.mark.parametrize(
    ("written", "sent", "markers"),
    [
        ("It is far [1].", "It is far.", [((1,), "", "It is far")]),
        ("It is far.[1]", "It is far.", [((1,), "", "It is far.")]),
        ("Far[1]. Cold [2][3].", "Far. Cold.", [((1,), "", "Far"), ((2,), "", "Cold"), ((3,), "", "Cold")]),
        ("Far [1] and cold [2].", "Far and cold.", [((1,), "", "Far"), ((2,), "", "and cold")]),
        ("Far [1, 2] [3]", "Far", [((1, 2), "", "Far"), ((3,), "", "Far")]),
        ('Far [1: "so [2] far"].', "Far.", [((1,), "so [2] far", "Far")]),
        ("Far [1: “so”].", "Far.", [((1,), "so", "Far")]),
        ("- far [1]\n- cold [2]", "- far\n- cold", [((1,), "", "far"), ((2,), "", "cold")]),
        ("One. 3.5 km away [1]", "One. 3.5 km away", [((1,), "", "3.5 km away")]),
        ("[1] It is far.", " It is far.", [((1,), "", "")]),
        ("far [1]away", "far away", [((1,), "", "far")]),
    ],
)
def test_marker_is_taken_out_and_supports_the_words_before_it(
    written: str, sent: str, markers: list[tuple[Sequence[int], str, str]]
) -> None:
    assert cited(written) == (sent, markers)


@pytest.mark.parametrize(
    "text",
    [
        "`a [1]` and ``b ` [1]``",
        "```py\nx [1]\n~~~\n````x [1]\n",
        "> 1. ~~~\n> x [1]\n",
        "a[1] row_sum[1] rowSum[1] m(a[1][2])",
        "[1](http://example.com) [x] [^1] [1-3] [1a] [2024] [] [x][1] \\[1]",
        "\n[1]: http://example.com\n  [2]: more",
        "far [1",
        'far [1: "',
        f'far [1: "{"x" * 301}"]',
    ],
)
def test_what_is_no_marker_stays_as_it_is(text: str) -> None:
    assert cited(text) == (text, [])


@pytest.mark.parametrize(
    ("code", "after"),
    [
        ("```\nx\n```\n", "far"),
        ("```\n", "x"),
        ("`x`", " far"),
        ("`x\n", "far"),
        ("```x``` ", "far"),
        ("~~~\n```\n", "x"),
    ],
)
def test_text_after_code_is_code_until_it_ends(code: str, after: str) -> None:
    found = cited(f"{code}{after} [1]")[1]
    assert bool(found) == (after != "x")


@given(TEXTS, st.lists(st.integers(0, 100)))
@settings(max_examples=500)
@example('far [1: "' + "x" * 300 + '"] [2]', [12])
def test_text_and_markers_do_not_depend_on_how_the_text_is_cut(text: str, cuts: list[int]) -> None:
    at = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    sent, markers, _ = filtered([text])
    again, same, most = filtered([text[begin:end] for begin, end in pairwise(at)])
    assert (again, same) == (sent, markers)
    assert most <= LONGEST_MARKER
    letters, letters_again, same_again = *filtered(text)[:2], filtered(text)[2]
    assert (letters, letters_again) == (sent, markers)
    assert same_again <= LONGEST_MARKER


@given(TEXTS)
def test_supported_words_are_in_the_text_that_was_sent_before(text: str) -> None:
    markers, length = MarkerFilter(), 0
    for letter in text:
        sent, found = markers.feed(letter)
        length += len(sent)
        assert all(0 <= each.start <= each.end <= length for each in found)


def test_longest_possible_marker_is_held_back_and_no_more() -> None:
    quote = f'[123: "{"x" * 300}"]'
    sent, markers, most = filtered([*f"far {quote}.", "x" * 1000])
    assert sent == f"far.{'x' * 1000}"
    assert [each.quote for each in markers] == ["x" * 300]
    assert most <= LONGEST_MARKER


def test_filter_of_a_continued_answer_knows_that_it_is_in_code() -> None:
    assert MarkerFilter("```\n").feed("x [1]\n") == ("x [1]\n", [])
