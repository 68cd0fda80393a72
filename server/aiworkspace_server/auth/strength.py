"""How easily a password is guessed, as zxcvbn estimates it: from words, names, dates, keyboards and known passwords."""

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
_LEAST_WORD = 3  # shorter ones are in every password
_one_at_a_time = Lock()  # zxcvbn keeps the words that belong to a person in a global


def weakness(password: str, inputs: Sequence[str]) -> str | None:
    """Why it is easily guessed and what to do; None when it is not. `inputs` is what others know of its owner."""
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
    """The password with a space for each word: zxcvbn finds any two words with something in between hard to guess."""
    if not words:
        return password
    longest_first = sorted(words, key=len, reverse=True)
    return re.sub("|".join(map(re.escape, longest_first)), " ", password, flags=re.IGNORECASE)


def _readings(password: str) -> int:
    """In about how many ways the symbols and digits of the password can stand for letters."""
    used = set(password)
    return math.prod(max(1, len(used.intersection(symbols))) for symbols in L33T_TABLE.values())
