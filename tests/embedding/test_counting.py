"""What a tally of token counts remembers, and how much memory that takes."""

import tracemalloc

from aiworkspace_server.embedding.counting import Tally

MIB = 1 << 20


class Counter:
    """Counts one token for each piece, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []

    def __call__(self, texts: list[str]) -> list[int]:
        self.asked += texts
        return [1] * len(texts)


def test_each_word_is_counted_once() -> None:
    counter = Counter()
    tally = Tally(counter)
    assert [tally.count("one two"), tally.count(" two two three"), tally.count("one two")] == [2, 3, 2]
    assert sorted(counter.asked) == [" three", " two", "one"]


def test_memory_of_long_words_is_bounded() -> None:
    """Each of them takes 4 KiB: a word of 1,000 characters, four bytes each."""
    tally = Tally(lambda texts: [1] * len(texts), most_bytes=MIB)
    words = (f"{number:05}" + "\U0001f600" * 1000 for number in range(2500))
    tracemalloc.start()
    try:
        counts = {tally.count(word) for word in words}
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert counts == {1}
    assert peak < 2 * MIB


def test_memory_of_short_words_is_bounded() -> None:
    tally = Tally(lambda texts: [1] * len(texts), most_bytes=MIB)
    tracemalloc.start()
    try:
        for first in range(0, 100_000, 100):
            tally.learn([f"w{number:06}" for number in range(first, first + 100)])
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 2 * MIB


def test_words_that_were_forgotten_are_counted_again() -> None:
    counter = Counter()
    tally = Tally(counter, most_bytes=1000)
    for _ in range(2):
        assert [tally.count(f"word{number} x{number} word{number}") for number in range(20)] == [3] * 20
    assert counter.asked.count("word0") == 2
