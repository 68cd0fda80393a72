"""Turns as every provider takes them, whatever was said before.

Providers refuse whole requests for these, each for others of them, so that one bad turn would end a conversation for
ever: two turns of one role in a row (DeepSeek's reasoner, the chat templates of Mistral and Gemma), an answer as the
first turn (the same) or as the last (newer models of Anthropic), a text that is empty or only blank (Anthropic), a text
of more than 1 MiB characters (OpenAI), NUL characters. Nobody refuses what has none of them.
"""

from collections.abc import Sequence
from itertools import groupby

from .base import Role, Turn

LONGEST_TEXT = 1024 * 1024  # characters of one turn
BLANK = "(The message is blank.)"


def clean(turns: Sequence[Turn]) -> list[Turn]:
    """The turns without NUL characters and without those that say nothing. The last one, the question, always stays."""
    if not turns:
        return []
    cleaned = [Turn(turn.role, turn.text.replace("\0", "")) for turn in turns]
    *earlier, last = cleaned
    asked = last if last.text.strip() else Turn(last.role, BLANK)
    return [*(turn for turn in earlier if turn.text.strip()), asked]


def alternate(turns: Sequence[Turn]) -> list[Turn]:
    """Cleaned turns that begin and end with a person and whose roles alternate.

    Turns of one role in a row become one turn; where that is too long, its beginning is left out.
    """
    spoken = list(turns)
    while spoken and spoken[0].role == "assistant":
        del spoken[0]
    joined = ((role, "\n\n".join(turn.text for turn in said)) for role, said in groupby(spoken, _role))
    return [Turn(role, text if len(text) <= LONGEST_TEXT else text.strip()[-LONGEST_TEXT:]) for role, text in joined]


def clean_system(text: str) -> str:
    """The system prompt as it is sent. Empty, which is to send none, when it says nothing."""
    text = text.replace("\0", "")
    return text if text.strip() else ""


def fold_system(system: str, turns: Sequence[Turn]) -> list[Turn]:
    """The turns with the system prompt before the first, for models that know none."""
    return alternate([Turn("user", clean_system(system)), *turns])


def _role(turn: Turn) -> Role:
    return turn.role
