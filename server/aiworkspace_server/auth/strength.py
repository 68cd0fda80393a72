"""Estimates how easily a password is guessed, with zxcvbn: words, names, dates, keyboards and known passwords."""

import math
import re
from collections.abc import Sequence
from threading import Lock

from zxcvbn import zxcvbn
from zxcvbn.matching import L33T_TABLE

_LEAST_SCORE = 3  # of 4: a hundred million guesses or more
# zxcvbn holds the interpreter, for a time that grows with the square of the length and with the number of ways to read
# symbols as letters: 72 characters of them take two seconds. These bounds keep it below 20 ms.
_MOST_CHARACTERS = 40
_MOST_READINGS = 8
_ONE_SYMBOL_PER_LETTER = str.maketrans("@{[<!|$+", "4(((1157")
_LEAST_WORD = 3  # shorter words occur in every password
_one_at_a_time = Lock()  # zxcvbn keeps a person's words in a global variable


def weakness(password: str, inputs: Sequence[str]) -> str | None:
    """Return why a password is easily guessed and what to do, or None. `inputs` are what others know of its owner."""
    words = [word for text in inputs for word in re.split(r"[\W_]+", text) if len(word) >= _LEAST_WORD]
    rest = _without(words, password)
    judged = rest[:_MOST_CHARACTERS]
    if _readings(judged) > _MOST_READINGS:
        judged = judged.translate(_ONE_SYMBOL_PER_LETTER)
    with _one_at_a_time:
        found = zxcvbn(judged, words)
    if found["score"] >= _LEAST_SCORE:
        return None
    warning = found["feedback"]["warning"] if rest == password else "Your name and address do not count."
    reason = f" ({warning[0].lower()}{warning[1:].rstrip('.')})" if warning else ""
    return f"is easily guessed{reason}: use several words that do not belong together"


def _without(words: Sequence[str], password: str) -> str:
    """Replace each of the words by a space. zxcvbn would rate two known words with something in between as strong."""
    if not words:
        return password
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), " ", password, flags=re.IGNORECASE)


def _readings(password: str) -> int:
    """Return roughly the number of ways to read the password's symbols and digits as letters."""
    used = set(password)
    return math.prod(max(1, len(used.intersection(symbols))) for symbols in L33T_TABLE.values())
