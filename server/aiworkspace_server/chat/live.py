"""A run in progress in this process: what it has said."""

import asyncio
from collections.abc import Callable
from typing import Any, Self
from uuid import UUID

from ..llm.base import Delta, DeltaKind
from . import events
from .feed import Feed
from .models import Content, Run
from .pace import Pace

_DELTA_CHARACTERS = 256 * 1024  # of one event: plain gRPC clients take 4 MiB


class LiveRun(Feed):
    """The events of a run, in memory while it lasts.

    Nobody sees an event while the lease of the process does not hold: another might be taking the run over.
    """

    def __init__(self, org_id: UUID, run: Run, pace: Pace, said: list[bytes]) -> None:
        super().__init__(org_id, run["_id"], said)
        self.run = run
        self.stored = len(said)  # how many events are stored
        self.model = run["model"]  # which spoke last
        self.stop_state = ""  # cancelled or interrupted, when somebody stopped it; lost, when it is another server's
        self.work: set[asyncio.Task[Any]] = set()  # what a stop ends
        self.concluded = False  # whether the terminal event was sent
        self.lease_holds: Callable[[], bool] = lambda: True
        self._pace = pace
        self._said: list[tuple[DeltaKind, list[str]]] = []
        self._pending: list[str] = []
        self._pending_tokens = 0
        self._flush_timer: asyncio.TimerHandle | None = None
        self._open = False  # whether a piece of content has begun and not ended

    @classmethod
    def restore(cls, org_id: UUID, run: Run, pace: Pace, stored: list[bytes]) -> Self:
        """The run as it was when the last of these events was stored."""
        live = cls(org_id, run, pace, stored)
        number, models = 1, {1: live.model}
        for event in map(events.decode, stored):
            number = events.speaker(event, number)
            if event.HasField("attempt_started"):
                models[number] = event.attempt_started.model
            elif event.HasField("content_started"):
                live._said.append((events.kind_name(event.content_started.kind), []))
                live._open = True
            elif event.HasField("content_delta"):
                live._said[-1][1].append(event.content_delta.text)
                live.model = models.get(number, live.model)
            elif event.HasField("content_stopped"):
                live._open = False
        return live

    @property
    def contents(self) -> list[Content]:
        return [{"kind": kind, "text": "".join(parts)} for kind, parts in self._said]

    @property
    def text(self) -> str:
        """What was said, without what was thought."""
        return "".join(text for kind, parts in self._said if kind == "text" for text in parts)

    @property
    def size_bytes(self) -> int:
        """Of all that was said, in UTF-8."""
        return sum(len(content["text"].encode()) for content in self.contents)

    def emit(self, **event: Any) -> None:
        self.append(events.encode(self.run_id, self.next_sequence, **event))

    def may_show(self) -> bool:
        return self.lease_holds()

    def stop(self, state: str) -> None:
        """Ends the model's work, unless it has ended or was stopped already."""
        self.stop_state = self.stop_state or state
        for task in self.work:
            task.cancel()

    def finish_content(self) -> None:
        """Sends what was held back, and ends the piece of content that is open."""
        self.flush()
        if self._open:
            self._open = False
            self.emit(content_stopped={"index": len(self._said) - 1})

    def end(self) -> None:
        """No event follows. A run that was brought to its end is this process's for good: all of it is shown."""
        if self.concluded:
            self.show()
        super().end()

    def say(self, delta: Delta) -> None:
        """Adds to the answer, and sends it at once or together with what follows within moments."""
        if not self._said or self._said[-1][0] != delta.kind:
            self.finish_content()
            self._said.append((delta.kind, []))
            self._open = True
            self.emit(content_started={"index": len(self._said) - 1, "kind": events.KINDS[delta.kind]})
        first = not self._said[-1][1]
        self._said[-1][1].append(delta.text)
        self._pending.append(delta.text)
        self._pending_tokens += delta.tokens
        if first or not self._pace.busy:
            self.flush()
        elif self._flush_timer is None:
            self._flush_timer = asyncio.get_running_loop().call_later(self._pace.gather_seconds, self.flush)

    def flush(self) -> None:
        """Sends what was held back."""
        if self._flush_timer:
            self._flush_timer.cancel()
            self._flush_timer = None
        if self._pending:
            text, tokens = "".join(self._pending), self._pending_tokens
            self._pending.clear()
            self._pending_tokens = 0
            kind = events.KINDS[self._said[-1][0]]
            index = len(self._said) - 1
            for begin in range(0, len(text), _DELTA_CHARACTERS):
                piece, count = text[begin : begin + _DELTA_CHARACTERS], 0 if begin else tokens
                self.emit(content_delta={"text": piece, "index": index, "kind": kind, "token_count": count})
