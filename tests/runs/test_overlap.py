"""What a second model repeats of the first one's words: nothing is lost, and what is repeated is left out."""

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace_server.runs.attempts.output import OverlapTrimmer

SAID = "The capital of France is Paris, and the capital of"
# Few letters, so that repetitions of every length come about.
WORDS = st.text("ab ", max_size=40)


def joined(said: str, pieces: Sequence[str]) -> str:
    trimmer = OverlapTrimmer(said)
    return "".join([*map(trimmer.feed, pieces), trimmer.end()])


def cut(text: str, sizes: Sequence[int]) -> list[str]:
    pieces, rest = [], text
    for size in sizes:
        pieces.append(rest[:size])
        rest = rest[size:]
    return [*pieces, rest]


def expected(said: str, text: str) -> str:
    """By trying every length."""
    repeated = [size for size in range(12, len(said) + 1) if said.endswith(text[:size]) and len(text) >= size]
    return text[max(repeated, default=0) :]


@pytest.mark.parametrize(
    ("text", "new"),
    [
        (" Spain is Madrid.", " Spain is Madrid."),
        ("and the capital of Spain is Madrid.", " Spain is Madrid."),
        (f"{SAID} Spain is Madrid.", " Spain is Madrid."),
        (SAID, ""),
        ("capital of Spain is Madrid.", "capital of Spain is Madrid."),  # ten characters may be chance
        ("The capital of France is Lyon.", "The capital of France is Lyon."),
        ("", ""),
    ],
)
def test_what_is_repeated_is_left_out(text: str, new: str) -> None:
    assert joined(SAID, [text]) == joined(SAID, list(text)) == new


def test_text_is_held_back_only_while_it_could_be_a_repetition() -> None:
    trimmer = OverlapTrimmer(SAID)
    assert [trimmer.feed(piece) for piece in ("and the ", "capital ", "city", " of")] == [
        "",
        "",
        "and the capital city",
        " of",
    ]
    assert trimmer.end() == ""


@given(WORDS, WORDS, st.lists(st.integers(0, 7)))
def test_it_is_as_if_every_length_was_tried(said: str, text: str, sizes: list[int]) -> None:
    assert joined(said, cut(text, sizes)) == expected(said, text)


@given(st.text(min_size=12, max_size=60), st.text(max_size=30), st.data())
def test_a_model_that_goes_on_after_repeating_is_joined_without_a_seam(
    said: str, more: str, data: st.DataObject
) -> None:
    repeated = data.draw(st.integers(12, len(said)))
    text = said[-repeated:] + more
    sizes = data.draw(st.lists(st.integers(0, 9)))
    new = joined(said, cut(text, sizes))
    assert more.endswith(new), "a longer repetition by chance may take more away, never less"
    assert len(text) - len(new) >= repeated


def test_a_long_answer_of_one_letter_takes_no_time() -> None:
    said = "a" * 50_000
    assert joined(said, ["a" * 100] * 400 + ["b"]) == "b"
