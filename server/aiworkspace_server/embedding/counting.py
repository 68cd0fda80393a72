"""Counts the tokens of texts: by the embedder's tokenizer, or by an upper bound when it has none here."""

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers

# What no tokenizer joins with its neighbors: a word with the space before it, or one Chinese character. Some join
# characters of Chinese words; the sum over the pieces is then too high, never too low.
_PIECE = re.compile(r"\s*(?:[\u3400-\u4dbf\u4e00-\u9fff]|[^\s\u3400-\u4dbf\u4e00-\u9fff]+)|\s+\Z")
_MOST_KNOWN = 200_000  # pieces whose counts are remembered, about 20 MB
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
    """Counts the same words again and again, as a splitter wants them, but has each counted only once."""

    def __init__(self, count: Count) -> None:
        self._count = count
        self._known: dict[str, int] = {}

    def learn(self, texts: Iterable[str]) -> None:
        """Count all new pieces of the texts in one call."""
        if len(self._known) > _MOST_KNOWN:
            self._known.clear()
        known = self._known
        new = list({piece for text in texts for piece in _PIECE.findall(text) if piece not in known})
        known.update(zip(new, self._count(new), strict=True))

    def count(self, text: str) -> int:
        """Return the tokens of a text, as the sum over its pieces."""
        pieces = _PIECE.findall(text)
        try:
            return sum(map(self._known.__getitem__, pieces))
        except KeyError:
            self.learn([text])
            return sum(map(self._known.__getitem__, pieces))
