"""Normalizes turns so that every provider accepts them.

Providers refuse a whole request for one bad turn, which would end its conversation for ever. They refuse two turns of
one role in a row (DeepSeek's reasoner, the chat templates of Mistral and Gemma), an answer as the first turn (the same)
or as the last (newer models of Anthropic), an empty or blank text (Anthropic), a text of more than 1 MiB characters
(OpenAI), and NUL characters.
"""

from collections.abc import Sequence
from itertools import groupby

from .base import Role, Turn

LONGEST_TEXT = 1024 * 1024  # characters of one turn
BLANK = "(The message is blank.)"


def clean(turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns without NUL characters and without blank ones. The last one, the question, always stays."""
    if not turns:
        return []
    cleaned = [Turn(turn.role, turn.text.replace("\0", "")) for turn in turns]
    *earlier, last = cleaned
    asked = last if last.text.strip() else Turn(last.role, BLANK)
    return [*(turn for turn in earlier if turn.text.strip()), asked]


def alternate(turns: Sequence[Turn]) -> list[Turn]:
    """Return cleaned turns that begin and end with a person and whose roles alternate.

    Consecutive turns of one role are joined; if the result is too long, its beginning is dropped.
    """
    spoken = list(turns)
    while spoken and spoken[0].role == "assistant":
        del spoken[0]
    joined = ((role, "\n\n".join(turn.text for turn in said)) for role, said in groupby(spoken, _role))
    return [Turn(role, text if len(text) <= LONGEST_TEXT else text.strip()[-LONGEST_TEXT:]) for role, text in joined]


def clean_system(text: str) -> str:
    """Return the system prompt to send; empty, which means none, if it is blank."""
    text = text.replace("\0", "")
    return text if text.strip() else ""


def fold_system(system: str, turns: Sequence[Turn]) -> list[Turn]:
    """Return the turns with the system prompt in front of the first one, for models without system prompts."""
    return alternate([Turn("user", clean_system(system)), *turns])


def _role(turn: Turn) -> Role:
    return turn.role
