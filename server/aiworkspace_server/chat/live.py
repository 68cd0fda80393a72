"""A run in progress: what it has said, and everybody who listens."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any, Self
from uuid import UUID

from ..llm.base import Delta, DeltaKind, Finish, Piece, TokenUsage
from . import events
from .models import Content, Run
from .pace import Pace


class LiveRun:
    """The events of a run, in memory while it lasts.

    All readers share one list, each with a position of its own: a slow reader holds up nobody and costs nothing.
    """

    def __init__(self, org_id: UUID, run: Run, pace: Pace) -> None:
        self.org_id = org_id
        self.run = run
        self.events: list[bytes] = []
        self.stored = 0  # how many of them are stored
        self.usage: TokenUsage | None = None
        self.usage_is_current = False  # whether nothing was said after the provider's last count
        self.finish_reason = ""
        self.stop_state = ""  # cancelled or interrupted, when somebody stopped it
        self.generation: asyncio.Task[None] | None = None
        self.concluded = False  # whether the terminal event was sent
        self.ended = asyncio.Event()
        self._pace = pace
        self._said: list[tuple[DeltaKind, list[str]]] = []
        self._pending: list[str] = []
        self._flush_timer: asyncio.TimerHandle | None = None
        self._changed = asyncio.get_running_loop().create_future()
        self._beats = 0
        self._quiet_seconds = 0
        self._open = False  # whether a piece of content has begun and not ended

    @classmethod
    def restore(cls, org_id: UUID, run: Run, pace: Pace, stored: list[bytes]) -> Self:
        """The run as it was when the last of these events was stored."""
        live = cls(org_id, run, pace)
        live.events, live.stored = stored, len(stored)
        for event in map(events.decode, stored):
            if event.HasField("content_started"):
                live._said.append((events.kind_name(event.content_started.kind), []))
            elif event.HasField("content_delta"):
                live._said[-1][1].append(event.content_delta.text)
            live._open = event.HasField("content_started") or event.HasField("content_delta")
        return live

    @property
    def contents(self) -> list[Content]:
        return [{"kind": kind, "text": "".join(parts)} for kind, parts in self._said]

    @property
    def next_sequence(self) -> int:
        return len(self.events) + 1

    def emit(self, **event: Any) -> None:
        self.append(events.encode(self.run["_id"], self.next_sequence, **event))

    def append(self, event: bytes) -> None:
        """Adds an encoded event and wakes the readers."""
        self.events.append(event)
        self._quiet_seconds = 0
        self._wake()

    def stop(self, state: str) -> None:
        """Ends the model's work, unless it has ended or was stopped already."""
        self.stop_state = self.stop_state or state
        if self.generation:
            self.generation.cancel()

    def take(self, pieces: list[Piece]) -> None:
        """Takes what the provider sent."""
        for piece in pieces:
            if type(piece) is Delta:
                self._say(piece)
            elif type(piece) is TokenUsage:
                self.usage, self.usage_is_current = piece, True
            elif type(piece) is Finish:
                self.finish_reason = piece.reason

    def finish_content(self) -> None:
        """Sends what was held back, and ends the piece of content that is open."""
        self._flush()
        if self._open:
            self._open = False
            self.emit(content_stopped={"index": len(self._said) - 1})

    def end(self) -> None:
        """No event follows: readers come to their end."""
        self.ended.set()
        self._wake()

    def beat(self, seconds: int) -> None:
        """Called once a second. Sends readers a heartbeat when nothing was sent for as long as `seconds`."""
        self._quiet_seconds += 1
        if self._quiet_seconds >= seconds:
            self._quiet_seconds = 0
            self._beats += 1
            self._wake()

    async def follow(self, after: int) -> AsyncIterator[bytes]:
        """Events from the one that follows `after`, to the last, and heartbeats in between."""
        position, beats = after, self._beats
        while True:
            while position < len(self.events):
                position += 1
                yield self.events[position - 1]
            if self.ended.is_set():
                return
            if beats != self._beats:
                beats = self._beats
                yield events.encode(self.run["_id"], position, heartbeat={})
                continue
            await asyncio.shield(self._changed)

    def _say(self, delta: Delta) -> None:
        self.usage_is_current = False
        if not self._said or self._said[-1][0] != delta.kind:
            self.finish_content()
            self._said.append((delta.kind, []))
            self._open = True
            self.emit(content_started={"index": len(self._said) - 1, "kind": events.KINDS[delta.kind]})
        first = not self._said[-1][1]
        self._said[-1][1].append(delta.text)
        self._pending.append(delta.text)
        if first or not self._pace.busy:
            self._flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(self._pace.gather_seconds, self._flush)

    def _flush(self) -> None:
        if self._flush_timer:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._pending:
            text = "".join(self._pending)
            self._pending.clear()
            kind = events.KINDS[self._said[-1][0]]
            self.emit(content_delta={"text": text, "index": len(self._said) - 1, "kind": kind})

    def _wake(self) -> None:
        changed, self._changed = self._changed, asyncio.get_running_loop().create_future()
        changed.set_result(None)
