"""What a model reads of a conversation: from the newest message back, as far as its context goes."""

from collections.abc import Sequence
from contextlib import aclosing
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..kit.errors import FailedPrecondition
from ..llm.base import Turn
from ..llm.tokens import count_turn
from ..llm.turns import alternate, clean
from ..policies.providers import UNKNOWN_CONTEXT_TOKENS, Target
from .models import Message
from .store import ChatStore

_MOST_MESSAGES = 200
_SHARE = 0.9  # of a context is filled by our count of tokens, which may be lower than the provider's


class ContextTooLong(FailedPrecondition):
    """The last message and the system prompt alone are larger than the context."""

    def __init__(self) -> None:
        text = "The message does not fit into the model's context: send less, or use a model with a larger one."
        super().__init__(common_pb2.ERROR_REASON_CONTEXT_TOO_LONG, text)


def room(target: Target, max_output_tokens: int) -> int:
    """Tokens that may go in, beside an answer of this length."""
    return max(0, int(target.context_tokens * _SHARE) - max_output_tokens)


def fit(turns: Sequence[Turn], system: str, tokens: int, least: int = 1) -> list[Turn]:
    """The latest turns that fit into so many tokens together with the system prompt, as every provider takes them.

    Raises ContextTooLong when that are fewer than `least`.
    """
    left = tokens - count_turn(system)
    kept: list[Turn] = []
    for turn in reversed(clean(turns)):
        left -= count_turn(turn.text)
        if left < 0:
            break
        kept.append(turn)
    if len(kept) < least:
        raise ContextTooLong
    return alternate(kept[::-1])


class History:
    """What was said in a conversation before now or before a message, read as far back as it is needed."""

    def __init__(self, store: ChatStore, conversation_id: UUID, before: UUID | None = None) -> None:
        self._store = store
        self._conversation_id = conversation_id
        self._before = before
        self._messages: list[Message] = []  # the latest first
        self._tokens = 0
        self._whole = False  # whether there is nothing before them that anybody may read

    @property
    def turns(self) -> list[Turn]:
        """What was read, the oldest first."""
        return [turn for turn in map(_turn, reversed(self._messages)) if turn.text]

    async def load(self, tokens: int = UNKNOWN_CONTEXT_TOKENS) -> None:
        """Reads on until there are so many tokens, or all that there is, or as many messages as a model gets."""
        if self._whole or self._tokens >= tokens:
            return
        before = self._messages[-1]["_id"] if self._messages else self._before
        async with aclosing(self._store.latest_messages(self._conversation_id, before)) as messages:
            async for message in messages:
                self._messages.append(message)
                self._tokens += count_turn(_turn(message).text)
                self._whole = len(self._messages) == _MOST_MESSAGES
                if self._whole or self._tokens >= tokens:
                    return
        self._whole = True


def _turn(message: Message) -> Turn:
    """What a model reads of a message: its text."""
    text = "".join(content["text"] for content in message["contents"] if content["kind"] == "text")
    return Turn("assistant" if message["role"] == "assistant" else "user", text)
