"""The stream of a run, for users of the SDK."""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from types import TracebackType
from typing import Self

from aiworkspace.v1.chat_pb2 import CONTENT_KIND_THINKING, ChatEvent, Citation, Message, Run
from aiworkspace_client.errors import RunFailedError
from aiworkspace_client.follower import RunFollower
from aiworkspace_client.portal import Portal


class AsyncChatStream:
    """The events of a run: `async with client.chat.send(...) as stream: async for event in stream`.

    A broken connection is replaced, without losing or repeating events. Leaving the `async with` closes the connection
    but does not stop the run: client.chat.stream_run, or this stream itself, can follow it further. Only cancel stops
    it. All iterators read from the same stream: each event is returned by one of them.
    """

    def __init__(
        self,
        follower: RunFollower,
        cancel_run: Callable[[str], Awaitable[Run]],
        whole: Callable[[Message], Awaitable[Message]],
    ) -> None:
        self._follower = follower
        self._cancel_run = cancel_run
        self._whole = whole
        self._terminal: ChatEvent | None = None
        self._unread: list[ChatEvent] = []
        self.run: Run | None = None
        """The run as of the latest event that contains it, None before that."""
        self.last_sequence = follower.last_sequence
        """Sequence of the last event. Pass it to stream_run to resume after it."""
        self.model = ""
        """Id of the model of the latest attempt. It changes on a fallback, perhaps in mid-sentence."""
        self.citations: list[Citation] = []
        """Passages of documents that support the answer so far. Positions are code points of the answer's text."""

    @property
    def run_id(self) -> str:
        """Id of the run. Empty before the first event, for which `async with` waits."""
        return self._follower.run_id

    async def __aenter__(self) -> Self:
        if not self.run_id:
            await self._follower.begin()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._follower.detach()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> ChatEvent:
        event = await self.next_event()
        if event is None:
            raise StopAsyncIteration
        return event

    @property
    def text(self) -> AsyncIterator[str]:
        """The pieces of the answer's text as they arrive, without thinking. Raises RunFailedError."""
        return self._texts()

    async def final_message(self) -> Message:
        """Wait for the end of the run and return the answer. Raises RunFailedError.

        The answer of a cancelled run is partial, and an empty message if there was no content.
        """
        while await self.next_event() is not None:
            pass
        return await self._answer()

    async def cancel(self) -> Run:
        """Cancel the run and return it. Its last events still follow, up to run_cancelled."""
        if not self.run_id:
            await self._follower.begin()
        return await self._cancel_run(self.run_id)

    async def next_event(self) -> ChatEvent | None:
        """The next event, None after the terminal one."""
        event = self._unread.pop() if self._unread else await self._follower.next()
        if event is not None:
            self._note(event)
        return event

    async def next_delta(self) -> ChatEvent | None:
        """The next event with a piece of text, None at the end of the run. Raises RunFailedError."""
        while (event := await self.next_event()) is not None:
            if event.HasField("content_delta") and event.content_delta.kind != CONTENT_KIND_THINKING:
                return event
        if self._terminal and self._terminal.HasField("run_failed"):
            await self._answer()
        return None

    def unread(self, event: ChatEvent | None) -> None:
        """Take back an event that was returned but did not arrive, because the wait for it was interrupted."""
        if event is not None:
            self._unread.append(event)
            self.last_sequence = min(self.last_sequence, event.sequence - 1)

    async def _texts(self) -> AsyncIterator[str]:
        while (event := await self.next_delta()) is not None:
            yield event.content_delta.text

    def _note(self, event: ChatEvent) -> None:
        self.last_sequence = max(self.last_sequence, event.sequence)
        match event.WhichOneof("event"):
            case "run_started":
                self.run = event.run_started.run
            case "attempt_started":
                self.model = event.attempt_started.model
            case "citation_added":
                self.citations.append(event.citation_added.citation)
            case "run_completed" | "run_failed" | "run_cancelled" as kind:
                self._terminal = event
                self.run = getattr(event, kind).run
                self.citations = list(getattr(event, kind).message.citations)

    async def _answer(self) -> Message:
        event = self._terminal or ChatEvent()
        message: Message = getattr(event, event.WhichOneof("event") or "run_completed").message
        if message.more_contents:  # it does not fit into an event
            message.CopyFrom(await self._whole(message))
        if event.HasField("run_failed"):
            raise RunFailedError(event.run_failed.run, message)
        return message


class ChatStream:
    """The events of a run: `with client.chat.send(...) as stream: for event in stream`. See AsyncChatStream."""

    def __init__(self, portal: Portal, stream: AsyncChatStream) -> None:
        self._portal = portal
        self._stream = stream

    @property
    def run_id(self) -> str:
        """Id of the run. Empty before the first event, for which `with` waits."""
        return self._stream.run_id

    @property
    def last_sequence(self) -> int:
        """Sequence of the last event. Pass it to stream_run to resume after it."""
        return self._stream.last_sequence

    @property
    def run(self) -> Run | None:
        """The run as of the latest event that contains it, None before that."""
        return self._stream.run

    @property
    def model(self) -> str:
        """Id of the model of the latest attempt. It changes on a fallback, perhaps in mid-sentence."""
        return self._stream.model

    @property
    def citations(self) -> list[Citation]:
        """Passages of documents that support the answer so far. Positions are code points of the answer's text."""
        return self._stream.citations

    def __enter__(self) -> Self:
        self._portal.run(self._stream.__aenter__())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._portal.run(self._stream.__aexit__(kind, error, trace))

    def __iter__(self) -> Iterator[ChatEvent]:
        while (event := self._portal.run(self._stream.next_event(), self._stream.unread)) is not None:
            yield event

    @property
    def text(self) -> Iterator[str]:
        """The pieces of the answer's text as they arrive, without thinking. Raises RunFailedError."""
        while (event := self._portal.run(self._stream.next_delta(), self._stream.unread)) is not None:
            yield event.content_delta.text

    def final_message(self) -> Message:
        """Wait for the end of the run and return the answer. Raises RunFailedError.

        The answer of a cancelled run is partial, and an empty message if there was no content.
        """
        return self._portal.run(self._stream.final_message())

    def cancel(self) -> Run:
        """Cancel the run and return it. Its last events still follow, up to run_cancelled."""
        return self._portal.run(self._stream.cancel())
