"""Follows a run across reconnections, without losing or repeating an event."""

import asyncio
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import grpc.aio

from aiworkspace.v1.chat_pb2 import (
    ChatEvent,
    SendMessageRequest,
    SendMessageResponse,
    StreamRunRequest,
    StreamRunResponse,
)
from aiworkspace_client import errors
from aiworkspace_client._generated.aio.chat import SEND_MESSAGE, STREAM_RUN
from aiworkspace_client.reconnection import Reconnection
from aiworkspace_client.transport import Deadline, Transport

_Call = grpc.aio.UnaryStreamCall[Any, SendMessageResponse] | grpc.aio.UnaryStreamCall[Any, StreamRunResponse]
_STATUS_SECONDS = 1.0
_TERMINAL = ("run_completed", "run_failed", "run_cancelled")


@dataclass(frozen=True)
class StreamTiming:
    """Timeouts of a stream, in seconds."""

    silence: float = 45.0
    """A connection without an event for this long counts as cut: heartbeats come every 15."""
    connection: float = 900.0
    """The maximum lifetime of one connection; the next one resumes where it ended."""
    give_up: float = 60.0
    """How long to try to reconnect before the error is raised."""


class RunFollower:
    """Reads the events of one run, in order and each of them once.

    If a connection breaks before the terminal event, StreamRun resumes after the last event. If it breaks before the
    first event, the run is unknown: then the same SendMessage is sent again, which starts no second run because of its
    request_id.
    """

    def __init__(
        self,
        transport: Transport,
        request: SendMessageRequest | StreamRunRequest,
        deadline: Deadline | None,
        timing: StreamTiming,
    ) -> None:
        self._transport = transport
        self._request = request
        self._timing = timing
        overdue = "The run did not end in time. It continues."
        self._reconnection = Reconnection(transport, deadline, timing.give_up, overdue, self._is_cut)
        begun = request if isinstance(request, StreamRunRequest) else StreamRunRequest()
        self.run_id, self.last_sequence = begun.run_id, begun.after_sequence
        self.ended = False
        self._first: ChatEvent | None = None
        self._call: _Call | None = None
        # An interrupted read ends before the next one begins.
        self._reading = asyncio.Lock()

    async def begin(self) -> None:
        """Wait until the run is known."""
        async with self._reading:
            if not self.run_id:
                self._first = await self._next()

    async def next(self) -> ChatEvent | None:
        """Return the next event, None after the terminal one. Can be called again after a cancellation."""
        async with self._reading:
            if self._first is None:
                return await self._next()
            event, self._first = self._first, None
            return event

    def detach(self) -> None:
        """Close the connection. The run continues; `next` reconnects."""
        call, self._call = self._call, None
        if call is not None:
            call.cancel()

    async def _next(self) -> ChatEvent | None:
        while not self.ended:
            try:
                event = await self._receive()
                self._refuse_gap(event)
            except errors.AiWorkspaceError as error:
                self.detach()
                await self._reconnection.recover(error)
            else:
                news = self._is_news(event)
                if event.WhichOneof("event") in _TERMINAL:
                    await self._see_off(event)
                if news:
                    return event
        return None

    async def _see_off(self, event: ChatEvent) -> None:
        """Wait for the status of the call: without that, the server would record it as cancelled."""
        self._first = event  # in case this wait is interrupted
        with suppress(grpc.aio.AioRpcError, TimeoutError):
            async with asyncio.timeout(_STATUS_SECONDS):
                if self._call:
                    await self._call.read()
        self._first = None

    async def _receive(self) -> ChatEvent:
        """Return the next event of the connection. Raises its end as a typed error."""
        try:
            call = self._call = self._call or await self._connect()
            async with asyncio.timeout(self._reconnection.seconds(self._timing.silence)):
                response = await call.read()
        except grpc.aio.AioRpcError as error:
            raise errors.from_rpc(error) from error
        except TimeoutError:
            raise errors.UnavailableError("The server has been silent for too long.") from None
        except asyncio.CancelledError:
            self.detach()
            if self._transport.cancelled_from_outside():
                raise errors.CallCancelledError("The client was closed during the stream.") from None
            raise
        if not isinstance(response, SendMessageResponse | StreamRunResponse):
            raise errors.UnavailableError("The stream ended before the run did.")
        return response.event

    async def _connect(self) -> _Call:
        tokens = await self._reconnection.tokens()
        seconds = self._reconnection.seconds(self._timing.connection)
        if not self.run_id:
            return self._transport.stream(SEND_MESSAGE, self._request, tokens, seconds)
        request = StreamRunRequest(run_id=self.run_id, after_sequence=self.last_sequence)
        return self._transport.stream(STREAM_RUN, request, tokens, seconds)

    def _refuse_gap(self, event: ChatEvent) -> None:
        """Raise UnavailableError if events are missing, so that they are requested again, unless the run has ended."""
        if event.sequence > self.last_sequence + 1 and event.WhichOneof("event") not in (*_TERMINAL, "heartbeat"):
            raise errors.UnavailableError(f"The events after {self.last_sequence} are missing.")

    def _is_news(self, event: ChatEvent) -> bool:
        """Record an event. Return whether it is new and known to this client."""
        kind = event.WhichOneof("event")
        self.ended = kind in _TERMINAL
        repeated = event.sequence <= self.last_sequence and not self.ended
        if kind == "heartbeat" or not repeated:
            self._reconnection.progressed()
        if kind == "heartbeat" or repeated:
            return False
        self.run_id = event.run_id
        self.last_sequence = max(event.sequence, self.last_sequence)
        return kind is not None  # unknown events are ignored

    def _is_cut(self, error: errors.AiWorkspaceError) -> bool:
        """Return whether a reconnection may help."""
        if isinstance(error, errors.ResourceExhaustedError):
            return bool(self.run_id) and error.retry_after is not None
        return errors.is_cut(error)
