"""Splits a text into chunks that fit an embedding model's window."""

import re
import unicodedata
from collections.abc import Iterator, Sequence
from functools import partial
from typing import NamedTuple

from semantic_text_splitter import TextSplitter

from .base import Place, with_heading
from .counting import Count, Tally

MOST_CHARACTERS = 4_000  # of a chunk
_LONGEST_HEADING = 200
_HEADING_FRACTION = 4  # a heading takes at most a quarter of the window
_LONGEST_RUN = 1_000  # characters without a place to split
_UNEVEN = 1.15  # how far a chunk may exceed the average, to end with a sentence
_SEGMENT = 20_000  # characters that the splitter gets at once: at each step it looks at all that is left of them

# Text without a place to split: no space, and none of the marks that end a clause in Chinese and Japanese. The time
# that the splitter needs for one grows with the square of its length.
_RUN = re.compile(r"[^\s\u3000-\u303f\uff01\uff0c\uff0e\uff1a\uff1b\uff1f]{100,}")
_PLACES = re.compile(r"\s|[\u3000-\u303f\uff01\uff0c\uff0e\uff1a\uff1b\uff1f]")
_NO_WORD = re.compile(r"\W")
_WORDS = re.compile(r"\w+")
_JOINER = "\u200d"
_LONGEST_CLUSTER = 32  # code points that are kept together, such as a letter and its accents


class Cut(NamedTuple):
    """A chunk: [start, end) in code points of the text, the number of its block, and its tokens with the heading."""

    start: int
    end: int
    block: int
    token_count: int


class Splitter:
    """Splits texts for one model."""

    def __init__(self, count: Count, special: int, window: int) -> None:
        """`window` includes the `special` tokens that every input has."""
        self._count = count
        self._special = special
        self._window = window
        self._tally = Tally(count)

    def heading(self, place: Place) -> str:
        """Return the heading path of a block, outermost first. A long one loses its beginning: the last says most."""
        path = place.get("headings")
        names = [" ".join(str(name).split()) for name in path] if isinstance(path, list | tuple) else []
        text = " > ".join(filter(None, names))[-_LONGEST_HEADING:]
        while text and self._count([text])[0] > self._window // _HEADING_FRACTION:
            text = text[len(text) // 4 + 1 :]
        return text.lstrip(" >")

    def split(self, text: str, blocks: Sequence[tuple[int, int, str]]) -> list[Cut]:
        """Return the chunks of blocks [start, end) with their headings, in order.

        They cover everything but white space, and headings directly above another heading, which has them in its path.
        They do not overlap. Each has at most MOST_CHARACTERS, and with its heading at most the tokens of the window.
        """
        cuts: list[Cut] = []
        for number, (start, end, heading) in enumerate(blocks):
            block = text[start:end]
            if number + 1 < len(blocks) and _is_heading(block, heading, blocks[number + 1][2]):
                continue
            room = self._window - self._count_inputs(heading, [""])[0]
            found = [_trim(block, *each) for each in self._split_block(block, room)]
            found = [(at, stop) for at, stop in found if at < stop]
            counts = self._count_inputs(heading, [block[at:stop] for at, stop in found])
            for (at, stop), tokens in zip(found, counts, strict=True):
                if tokens <= self._window and stop - at <= MOST_CHARACTERS:
                    cuts.append(Cut(start + at, start + stop, number, tokens))
                else:  # the sum over the pieces was too low
                    cuts += self._split_again(text, start + at, start + stop, number, heading)
        return cuts

    def _split_again(self, text: str, start: int, end: int, number: int, heading: str) -> Iterator[Cut]:
        """Yield the halves of a chunk, and their halves, until they fit."""
        start, end = _trim(text, start, end)
        if start == end:
            return
        tokens = self._count_inputs(heading, [text[start:end]])[0]
        if (tokens <= self._window and end - start <= MOST_CHARACTERS) or end - start < 2:
            yield Cut(start, end, number, tokens)
            return
        middle = _boundary(text, start, (start + end + 1) // 2)
        yield from self._split_again(text, start, middle, number, heading)
        yield from self._split_again(text, middle, end, number, heading)

    def _count_inputs(self, heading: str, texts: list[str]) -> list[int]:
        return [each + self._special for each in self._count([with_heading(heading, text) for text in texts])]

    def _split_block(self, block: str, room: int) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of the chunks of a block, some with white space at the ends, or nothing else."""
        at = 0
        for start, end in self._long_runs(block, room):
            yield from self._split_text(block, at, start, room)
            yield from self._cut_run(block, start, end, room)
            at = end
        yield from self._split_text(block, at, len(block), room)

    def _size(self, text: str, room: int) -> int:
        """Return the size of a text in tokens. Above the limit of characters, it is more than fits.

        It still grows: the splitter adds to a chunk that is too large what does not make it larger.
        """
        excess = len(text) - MOST_CHARACTERS
        return room + excess if excess > 0 else self._tally.count(text)

    def _long_runs(self, block: str, room: int) -> Iterator[tuple[int, int]]:
        """Yield [start, end) of what the splitter must not get: runs that are too long or do not fit in a chunk."""
        for run in _RUN.finditer(block):
            length = run.end() - run.start()
            if length > _LONGEST_RUN or self._tally.count(run.group()) > room:
                yield run.span()

    def _split_text(self, block: str, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
        while start < end:
            stop = min(start + _SEGMENT, end)
            if stop < end:
                stop = _last(_PLACES, block, stop - _LONGEST_RUN, stop) or stop
            segment = block[start:stop]
            self._tally.learn([segment])
            size = self._even_size(segment, room)
            splitter = TextSplitter.from_callback(partial(self._size, room=size), size)
            for at, chunk in splitter.chunk_indices(segment):
                yield start + at, start + at + len(chunk)
            start = stop

    def _even_size(self, segment: str, room: int) -> int:
        """Return how many tokens each chunk may have, so that as few as possible are about as long as each other.

        A short rest at the end would be found by its few words, or not at all.
        """
        tokens = self._tally.count(segment)
        number = max(-(-tokens // room), -(-len(segment) // MOST_CHARACTERS), 1)
        return min(room, int(tokens / number * _UNEVEN) + 1)

    def _cut_run(self, block: str, start: int, end: int, room: int) -> Iterator[tuple[int, int]]:
        """Cut a run into pieces that fit, after a character of no word where there is one."""
        size = min(room, _LONGEST_RUN)
        while start < end:
            stop = min(start + size, end)
            if stop < end:
                stop = _last(_NO_WORD, block, start + size // 2, stop) or _boundary(block, start, stop)
            tokens = self._count([block[start:stop]])[0]
            if tokens <= room or stop - start < 2:
                yield start, stop
                size = min(_LONGEST_RUN, max(1, (stop - start) * room * 15 // (16 * max(tokens, 1))))
                start = stop
            else:
                size = (stop - start + 1) // 2


def _is_heading(block: str, heading: str, next_heading: str) -> bool:
    """Return whether a block is nothing but the last heading of its path, which that of the next block continues."""
    words = _WORDS.findall(block) if len(block) <= 2 * _LONGEST_HEADING else []
    return bool(words) and next_heading.startswith(f"{heading} > ") and _WORDS.findall(heading)[-len(words) :] == words


def _trim(text: str, start: int, end: int) -> tuple[int, int]:
    """Return [start, end) without the white space at both ends; an empty range if there is nothing else."""
    chunk = text[start:end]
    start += len(chunk) - len(chunk.lstrip())
    return start, start + len(chunk.strip())


def _last(place: re.Pattern[str], text: str, start: int, end: int) -> int | None:
    """Return the end of the last match in [start, end), moved out of a cluster of code points."""
    stop = None
    for match in place.finditer(text, start, end):
        stop = match.end()
    return stop and _boundary(text, start, stop)


def _boundary(text: str, start: int, at: int) -> int:
    """Return the last index up to `at`, but after `start`, that separates no letter from its accents, and no emoji."""
    for index in range(at, max(start, at - _LONGEST_CLUSTER), -1):
        if index == len(text) or not (_continues(text[index]) or text[index - 1] == _JOINER):
            return index
    return at


def _continues(char: str) -> bool:
    """Return whether a code point belongs to the one before it."""
    return char == _JOINER or "\U0001f3fb" <= char <= "\U0001f3ff" or unicodedata.category(char).startswith("M")
