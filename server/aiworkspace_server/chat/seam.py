"""Where the answer of one model goes on with that of another: what the second repeats of the first is left out."""

_SHORTEST = 12  # characters: what is shorter may repeat by chance, and stays


class Seam:
    """Takes the text of the model that goes on, and gives what is new in it.

    Models begin with the last words again, or with all of it. Such a beginning is held back as long as it can still
    become a repetition: as long as more of what was said would have to follow.
    """

    def __init__(self, said: str) -> None:
        self._said = said
        self._held = ""
        self._open = len(said) >= _SHORTEST

    def feed(self, text: str) -> str:
        if not self._open:
            return text
        self._held += text
        return "" if self._may_go_on() else self.end()

    def end(self) -> str:
        """What is still held back, without what is a repetition."""
        self._open = False
        held, self._held = self._held, ""
        return held[_overlap(self._said, held) :] if held else ""

    def _may_go_on(self) -> bool:
        """Whether a longer end of what was said begins with what is held."""
        last_start = len(self._said) - max(_SHORTEST, len(self._held) + 1)
        return last_start >= 0 and self._said.find(self._held, 0, last_start + len(self._held)) >= 0


def _overlap(said: str, text: str) -> int:
    """Length of the longest beginning of the text with which `said` ends; 0 when it is too short to count.

    By the prefix function of Knuth, Morris and Pratt, since an answer may be long and consist of one letter.
    """
    tail = said[-len(text) :]
    borders = [0] * len(text)
    matched = 0
    for at in range(1, len(text)):
        matched = _extend(text, borders, matched, text[at])
        borders[at] = matched
    matched = 0
    for letter in tail:
        matched = _extend(text, borders, matched, letter)
    return matched if matched >= _SHORTEST else 0


def _extend(text: str, borders: list[int], matched: int, letter: str) -> int:
    """How much of the beginning of the text is matched after one more letter."""
    if matched == len(text):
        matched = borders[-1]
    while matched and text[matched] != letter:
        matched = borders[matched - 1]
    return matched + 1 if text[matched] == letter else 0
