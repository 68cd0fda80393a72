"""What a model reads of a conversation: the latest turns that fit into its context."""

from collections.abc import Sequence
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..kit.errors import FailedPrecondition
from ..llm.base import Role, Turn
from ..llm.tokens import count_turn
from ..llm.turns import LONGEST_TEXT, alternate, clean
from ..policies.providers import UNKNOWN_CONTEXT_TOKENS, Target
from .models import Content
from .store import ConversationStore

_MOST_EXCHANGES = 100
_READ_AT_ONCE = 2 << 20  # bytes of a conversation that is read with one command
_FIRST_EXCHANGES = 10  # that are read at once of a larger one; then as many as these say will fit
MOST_SOURCE_BYTES = 32_768  # of a request that passages of documents take
BYTES_PER_TOKEN = 4  # as in count_turn
_SHARE = 0.9  # of a context that we fill by our count of tokens, which may be lower than the provider's


class ContextTooLong(FailedPrecondition):
    """The last message and the system prompt alone are larger than the context."""

    def __init__(self) -> None:
        text = "The message does not fit into the model's context: send less, or use a model with a larger one."
        super().__init__(common_pb2.ERROR_REASON_CONTEXT_TOO_LONG, text)


def room(target: Target, max_output_tokens: int) -> int:
    """Return how many input tokens fit beside an answer of `max_output_tokens`."""
    return max(0, int(target.context_tokens * _SHARE) - max_output_tokens)


def source_room(turns: Sequence[Turn], system: str, tokens: int, least: int = 1) -> int:
    """Return an upper bound of what passages of documents may take of `tokens`, counted in bytes of the request.

    That is half of what the system prompt and the last `least` turns leave, so that earlier turns have room, too.
    """
    left = tokens - count_turn(system) - sum(count_turn(turn.text) for turn in turns[-least:])
    longest = LONGEST_TEXT - len(turns[-1].text)  # both are one turn
    return max(0, min(MOST_SOURCE_BYTES, left // 2 * BYTES_PER_TOKEN, longest))


def fit(turns: Sequence[Turn], system: str, tokens: int, least: int = 1) -> list[Turn]:
    """Return the latest turns that fit with the system prompt into `tokens`, in a form that every provider takes.

    Raise ContextTooLong if these are fewer than `least`.
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
    """The turns of a conversation, read from the latest back, only as far as a model's context goes.

    `size_bytes`: of the whole conversation, if known.
    `until`: the last run whose question and answer belong to it.
    """

    def __init__(
        self,
        store: ConversationStore,
        conversation_id: UUID,
        *,
        size_bytes: int | None = None,
        until: UUID | None = None,
    ) -> None:
        self._store = store
        self._conversation_id = conversation_id
        self._at_once = size_bytes is not None and size_bytes <= _READ_AT_ONCE
        self._before = UUID(int=until.int + 1) if until else None
        self._turns: list[Turn] = []  # the latest first
        self._exchanges = 0
        self._tokens = 0
        self._complete = False

    @property
    def turns(self) -> list[Turn]:
        """The turns read so far, the oldest first."""
        return self._turns[::-1]

    async def load(self, tokens: int = UNKNOWN_CONTEXT_TOKENS) -> None:
        """Read on until there are `tokens`, or the whole conversation, or as many exchanges as any model gets."""
        while not self._complete and self._tokens < tokens:
            found, more = await self._store.latest_exchanges(self._conversation_id, self._before, self._next(tokens))
            for exchange in found:
                if self._tokens >= tokens:
                    return
                self._add("assistant", exchange["answer"])
                self._add("user", exchange["question"])
                self._before = exchange["_id"]
                self._exchanges += 1
            self._complete = not more or self._exchanges == _MOST_EXCHANGES

    def _next(self, tokens: int) -> int:
        """Return how many exchanges to read."""
        if self._at_once:
            return _MOST_EXCHANGES - self._exchanges
        if not self._exchanges:
            return _FIRST_EXCHANGES
        fitting = (tokens - self._tokens) * self._exchanges // max(1, self._tokens) + 1
        return min(max(fitting, _FIRST_EXCHANGES), _MOST_EXCHANGES - self._exchanges)

    def _add(self, role: Role, contents: Sequence[Content]) -> None:
        text = "".join(content["text"] for content in contents if content["kind"] == "text")
        if text:
            self._turns.append(Turn(role, text))
            self._tokens += count_turn(text)
