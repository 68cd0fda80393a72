"""The messages of a client stream on their way through the steps."""

from collections.abc import AsyncIterator, Callable
from typing import Any

from google.protobuf.message import Message

Check = Callable[[Any], None]


class RequestStream:
    """The messages of a client stream, in order. The first is read before authorization, which looks into it."""

    def __init__(self, first: Message, others: AsyncIterator[Message]) -> None:
        self.first = first
        self._others = others
        self._checks: list[Check] = []

    def add_check(self, check: Check) -> None:
        """Have each message pass the check, which may change it, before the handler gets it."""
        self._checks.append(check)

    async def __aiter__(self) -> AsyncIterator[Message]:
        yield self._checked(self.first)
        async for message in self._others:
            yield self._checked(message)

    def _checked(self, message: Message) -> Message:
        for check in self._checks:
            check(message)
        return message


def message_of(request: Any) -> Any:
    """Return the request, or the first message of a stream of them."""
    return request.first if isinstance(request, RequestStream) else request
