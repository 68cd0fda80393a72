"""Counts the tokens of texts: by the embedder's tokenizer, or by an upper bound when it has none here."""

import re
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

# What no tokenizer joins with its neighbors: a word with the space before it, or one Chinese character. Some join
# characters of Chinese words; the sum over the pieces is then too high, never too low.
_PIECE = re.compile(r"\s*(?:[\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3400-\u4dbf\u4e00-\u9fff]+)|\s+\Z")
_MOST_KNOWN_BYTES = 32 << 20  # of the pieces whose counts are remembered: about 200,000 words, or 8,000 long runs
_OF_ENTRY = 80  # bytes that each of them takes besides its text
_TEXTS_AT_ONCE = 256  # encoded texts take a hundred times their size

Count = Callable[[list[str]], list[int]]  # returns the number of tokens of each text


def load_tokenizer(path: Path) -> Tokenizer:
    """Return the tokenizer without the padding and truncation that its file may ask for."""
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.no_padding()
    tokenizer.no_truncation()
    return tokenizer


def token_counter(path: Path) -> tuple[Count, int]:
    """Return what counts the tokens of texts, and how many special tokens every input has besides."""
    tokenizer = load_tokenizer(path)
    special: int = tokenizer.num_special_tokens_to_add(False)
    if isinstance(tokenizer.model, models.WordPiece):
        # It makes one unknown token of a word of over 100 letters, whatever its length. Counted are the tokens that its
        # pieces would have.
        length: int = tokenizer.model.max_input_chars_per_word
        cut = pre_tokenizers.FixedLength(length)
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([tokenizer.pre_tokenizer, cut])

    def count(texts: list[str]) -> list[int]:
        counts: list[int] = []
        for at in range(0, len(texts), _TEXTS_AT_ONCE):
            part = texts[at : at + _TEXTS_AT_ONCE]
            counts += map(len, tokenizer.encode_batch_fast(part, add_special_tokens=False))
        return counts

    return count, special


def count_bytes(texts: list[str]) -> list[int]:
    """Return an upper bound for vocabularies whose tokens have at least one byte of UTF-8, as those of OpenAI do."""
    return [len(text.encode()) for text in texts]


class Tally:
    """Counts the same words again and again, as a splitter wants them, but has each counted only once.

    It forgets all words once they take more memory than `most_bytes`, which one call can exceed by its own pieces.
    """

    def __init__(self, count: Count, most_bytes: int = _MOST_KNOWN_BYTES) -> None:
        self._count = count
        self._most_bytes = most_bytes
        self._known: dict[str, int] = {}
        self._known_bytes = 0

    def learn(self, texts: Iterable[str]) -> None:
        """Count all new pieces of the texts in one call."""
        if self._known_bytes > self._most_bytes:
            self._known.clear()
            self._known_bytes = 0
        known = self._known
        new = list({piece for text in texts for piece in _PIECE.findall(text) if piece not in known})
        known.update(zip(new, self._count(new), strict=True))
        self._known_bytes += sum(map(sys.getsizeof, new)) + _OF_ENTRY * len(new)

    def count(self, text: str) -> int:
        """Return the tokens of a text, as the sum over its pieces."""
        pieces = _PIECE.findall(text)
        try:
            return sum(map(self._known.__getitem__, pieces))
        except KeyError:
            self.learn([text])
            return sum(map(self._known.__getitem__, pieces))
