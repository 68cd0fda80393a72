"""The chat namespace: the generated methods, and streams."""

from aiworkspace.v1.chat_pb2 import (
    ListMessagesResponse,
    Message,
    ModelParameters,
    SendMessageRequest,
    StreamRunRequest,
)
from aiworkspace_client._generated.aio import chat as aio
from aiworkspace_client._generated.sync import chat as sync
from aiworkspace_client.follower import RunFollower, StreamTiming
from aiworkspace_client.messages import WholeMessages
from aiworkspace_client.pager import AsyncPager
from aiworkspace_client.portal import Portal
from aiworkspace_client.stream import AsyncChatStream, ChatStream
from aiworkspace_client.transport import Deadline, Transport
from aiworkspace_client.values import new_request_id


class AsyncChat(aio.AsyncChat):
    __doc__ = aio.AsyncChat.__doc__

    def __init__(self, transport: Transport, timing: StreamTiming) -> None:
        super().__init__(transport)
        self._timing = timing

    def send(
        self,
        conversation_id: str,
        content: str,
        *,
        model: str = "",
        parameters: ModelParameters | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> AsyncChatStream:
        """Send a message, and stream the run that answers it.

        `async with client.chat.send(...) as stream: async for text in stream.text`, or just
        `await client.chat.send(...).final_message()`. Errors of the call are raised when the stream begins, in the
        `async with`. Later failures end the run and are raised as RunFailedError.

        Args:
            conversation_id: The conversation.
            content: The message: 1 byte to 1 MiB of UTF-8.
            model: Model that answers this message: one of list_workspace_models. Empty means the conversation's model.
            parameters: Parameters of the answer. Unset ones have the model's default.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. The run continues. None means no timeout.
        """
        request = SendMessageRequest(
            conversation_id=conversation_id,
            content=content,
            model=model,
            parameters=parameters,
            request_id=request_id or new_request_id(),
        )
        return self._stream(request, timeout)

    def stream_run(self, run_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> AsyncChatStream:
        """Stream the events of a run after a sequence, also after its end.

        Args:
            run_id: The run.
            after_sequence: Sequence of the last received event. 0 means from the beginning.
            timeout: Seconds after which DeadlineExceededError is raised. The run continues. None means no timeout.
        """
        return self._stream(StreamRunRequest(run_id=run_id, after_sequence=after_sequence), timeout)

    def list_messages(
        self,
        conversation_id: str,
        *,
        page_size: int = 0,
        page_token: str = "",
        message_id: str = "",
        timeout: float | None = None,
    ) -> AsyncPager[Message, ListMessagesResponse]:
        """List the messages of a conversation, oldest first, or one of them.

        `async for` joins messages that are sent in parts; pages() returns the parts.

        Args:
            conversation_id: The conversation.
            page_size: Maximum number of messages to return, 1 to 1000. 0 means 50.
            page_token: next_page_token of the previous page. Empty for the first page.
            message_id: UUID of the only message to return. Empty means all messages.
            timeout: Seconds for each page. By default the client's timeout.
        """
        pager = super().list_messages(
            conversation_id, page_size=page_size, page_token=page_token, message_id=message_id, timeout=timeout
        )
        pager.joiner = WholeMessages
        return pager

    async def _whole(self, begun: Message) -> Message:
        """Return the whole message of which an event has only the beginning."""
        async for message in self.list_messages(begun.conversation_id, message_id=begun.message_id):
            return message
        return begun  # the message was deleted meanwhile

    def _stream(self, request: SendMessageRequest | StreamRunRequest, seconds: float | None) -> AsyncChatStream:
        deadline = None if seconds is None else Deadline(seconds)
        follower = RunFollower(self._transport, request, deadline, self._timing)
        return AsyncChatStream(follower, self.cancel_run, self._whole)


class Chat(sync.Chat):
    __doc__ = sync.Chat.__doc__

    def __init__(self, portal: Portal, namespace: AsyncChat) -> None:
        super().__init__(portal, namespace)
        self._streams = namespace

    def send(
        self,
        conversation_id: str,
        content: str,
        *,
        model: str = "",
        parameters: ModelParameters | None = None,
        request_id: str | None = None,
        timeout: float | None = None,
    ) -> ChatStream:
        """Send a message, and stream the run that answers it.

        `with client.chat.send(...) as stream: for text in stream.text`, or just
        `client.chat.send(...).final_message()`. Errors of the call are raised when the stream begins, in the `with`.
        Later failures end the run and are raised as RunFailedError.

        Args:
            conversation_id: The conversation.
            content: The message: 1 byte to 1 MiB of UTF-8.
            model: Model that answers this message: one of list_workspace_models. Empty means the conversation's model.
            parameters: Parameters of the answer. Unset ones have the model's default.
            request_id: UUID that makes the call idempotent. A new one by default.
            timeout: Seconds after which DeadlineExceededError is raised. The run continues. None means no timeout.
        """
        stream = self._streams.send(
            conversation_id, content, model=model, parameters=parameters, request_id=request_id, timeout=timeout
        )
        return ChatStream(self._portal, stream)

    def stream_run(self, run_id: str, *, after_sequence: int = 0, timeout: float | None = None) -> ChatStream:
        """Stream the events of a run after a sequence, also after its end.

        Args:
            run_id: The run.
            after_sequence: Sequence of the last received event. 0 means from the beginning.
            timeout: Seconds after which DeadlineExceededError is raised. The run continues. None means no timeout.
        """
        stream = self._streams.stream_run(run_id, after_sequence=after_sequence, timeout=timeout)
        return ChatStream(self._portal, stream)
