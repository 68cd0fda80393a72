"""Finds the words of a passage that a citation quotes."""

import math
import re
from collections import Counter
from collections.abc import Collection

from ...llm.sources import disarm

LONGEST_QUOTE = 300  # characters of one that is chosen here
MOST_QUOTED = 1000  # characters of one that a model gives
_SENTENCE = re.compile(
    r"(?:[^.!?\u2026\u3002\uff01\uff1f\n]|[.!?\u2026](?!\s))+[.!?\u2026\u3002\uff01\uff1f]*[\"')\]\u201d\u2019]*"
)
_WORD = re.compile(r"[^\W_]+")
_UNSPACED = re.compile("[\u0e01-\u0eff\u3040-\u30ff\u3400-\u9fff\uac00-\ud7ff]+")
_MOST_SENTENCES = 3
_MOST_WORDS = 100  # of a statement that are looked for: the rarest

Span = tuple[int, int]


def find_quote(text: str, quote: str) -> Span | None:
    """Return where a passage has these words, whatever the white space between them. None if it does not.

    Compares what the model was given: see `llm.sources`.
    """
    words = disarm(quote).split()
    if not _WORD.search(quote):
        return None
    found = re.search(r"\s+".join(map(re.escape, words)), disarm(text))
    return found.span() if found else None


def choose_quote(text: str, statement: str, headings: Collection[str] = ()) -> Span:
    """Return the sentence of a passage, or up to three in a row, that have the most words of a statement in common.

    Rare words count more. At most 300 characters; the first sentence if nothing is in common. The headings of the
    passage say nothing by themselves: a quote begins with none of them if there is anything else.
    """
    sentences = _sentences(text)
    titles = [_WORD.findall(heading) for heading in headings]
    sentences = [each for each in sentences if _WORD.findall(text[slice(*each)]) not in titles] or sentences
    words = [_words(text[start:end]) for start, end in sentences]
    spread = Counter(word for each in words for word in set(each))
    sought = sorted({word for word in _words(statement) if word in spread}, key=lambda word: (spread[word], word))
    weights = {word: math.log(1 + len(sentences) / spread[word]) for word in sought[:_MOST_WORDS]}
    common = [weights.keys() & each for each in words]
    best, chosen = 0.0, sentences[0]
    for first in range(len(sentences)):
        said = set[str]()
        for last in range(first, min(first + _MOST_SENTENCES, len(sentences))):
            start, end = sentences[first][0], sentences[last][1]
            if end - start > LONGEST_QUOTE:
                break
            said |= common[last]
            # A further sentence has to add something.
            score = sum(map(weights.__getitem__, said)) - 0.01 * sum(map(len, words[first : last + 1]))
            if score > best:
                best, chosen = score, (start, end)
    return chosen


def _words(text: str) -> list[str]:
    """Return the words in lower case, and pairs of characters of scripts without spaces."""
    folded = text.casefold()
    pairs = [run[at : at + 2] for run in _UNSPACED.findall(folded) for at in range(max(1, len(run) - 1))]
    return [*_WORD.findall(_UNSPACED.sub(" ", folded)), *pairs]


def _sentences(text: str) -> list[Span]:
    """Return the spans of the sentences, without surrounding white space. Long ones are cut between words."""
    found = [span for match in _SENTENCE.finditer(text) for span in _cut(text, *match.span())]
    return found or _cut(text, 0, len(text)) or [(0, 0)]


def _cut(text: str, start: int, end: int) -> list[Span]:
    spans = []
    while (start := _skip_blanks(text, start, end)) < end:
        stop = min(end, start + LONGEST_QUOTE)
        if stop < end and (space := text.rfind(" ", start + 1, stop)) > 0:
            stop = space
        spans.append((start, start + len(text[start:stop].rstrip())))
        start = stop
    return spans


def _skip_blanks(text: str, start: int, end: int) -> int:
    return end - len(text[start:end].lstrip())
