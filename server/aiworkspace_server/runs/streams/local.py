"""A run in progress in this process."""

import asyncio
from collections.abc import Callable, Sequence
from typing import Any
from uuid import UUID

from ...conversations.models import Citation, Content
from ...conversations.proto import KINDS, citation_from_proto, citation_to_proto, kind_name
from ...llm.base import Delta, DeltaKind
from .. import events
from ..models import Failure, Run, RunState, StopReason
from .buffer import EventBuffer
from .coalescer import DeltaCoalescer, Load

_DELTA_CHARACTERS = 256 * 1024  # of one event: plain gRPC clients refuse responses of more than 4 MiB


class LocalRun(EventBuffer):
    """Owns the state of a run while it lasts: its document, its events, what was said, and whether it is to stop.

    No event becomes visible while the lease of the process does not hold: another one might be taking the run over.
    Events of a run that another server may resume become visible once Redis has them: a reader of a killed server would
    otherwise have seen words that the next one does not know of, and says again.
    """

    def __init__(
        self,
        org_id: UUID,
        document: Run,
        load: Load,
        holds_lease: Callable[[], bool],
        stored: Sequence[bytes],
        *,
        via_bus: bool = False,
    ) -> None:
        """`stored`: the events that are in the database already. `via_bus`: RedisEventBus makes events visible."""
        super().__init__(org_id, document["_id"], stored)
        self.document = document
        self.stored_count = len(stored)
        self.stop_reason: StopReason | None = None
        self.concluded = False  # the terminal event was sent
        self._model = document["model"]  # that spoke last
        self._holds_lease = holds_lease
        self._via_bus = via_bus
        self._coalescer = DeltaCoalescer(load, self._emit_delta)
        self.citations: list[Citation] = []
        self.reported_sources = False  # sources_retrieved was sent
        self._contents: list[tuple[DeltaKind, list[str]]] = []
        self._content_is_open = False
        self._work: set[asyncio.Task[Any]] = set()
        self._restore(stored)

    def _restore(self, stored: Sequence[bytes]) -> None:
        """Rebuild what was said from the events."""
        number, models = 1, {1: self._model}
        for event in map(events.decode, stored):
            number = events.speaking_attempt(event, number)
            if event.HasField("attempt_started"):
                models[number] = event.attempt_started.model
            elif event.HasField("content_started"):
                self._contents.append((kind_name(event.content_started.kind), []))
                self._content_is_open = True
            elif event.HasField("content_delta"):
                self._contents[-1][1].append(event.content_delta.text)
                self._model = models.get(number, self._model)
            elif event.HasField("content_stopped"):
                self._content_is_open = False
            elif event.HasField("citation_added"):
                self.citations.append(citation_from_proto(event.citation_added.citation))
            elif event.HasField("sources_retrieved"):
                self.reported_sources = True

    # What was said

    @property
    def contents(self) -> list[Content]:
        return [{"kind": kind, "text": "".join(parts)} for kind, parts in self._contents]

    @property
    def text(self) -> str:
        """The answer without the thinking."""
        return "".join(text for kind, parts in self._contents if kind == "text" for text in parts)

    @property
    def model(self) -> str:
        """The model that spoke last; that of the request if none did."""
        return self._model

    @property
    def has_content(self) -> bool:
        return bool(self._contents)

    @property
    def size_bytes(self) -> int:
        """Size of the answer in UTF-8."""
        return sum(len(text.encode()) for _, parts in self._contents for text in parts)

    def say(self, model: str, delta: Delta) -> None:
        """Add to the answer and send it, at once or with what follows within moments."""
        self._model = model
        if not self._contents or self._contents[-1][0] != delta.kind:
            self.finish_content()
            self._contents.append((delta.kind, []))
            self._content_is_open = True
            self.emit(content_started={"index": len(self._contents) - 1, "kind": KINDS[delta.kind]})
        parts = self._contents[-1][1]
        parts.append(delta.text)
        self._coalescer.add(delta, at_once=len(parts) == 1)

    def cite(self, citation: Citation) -> None:
        """Add a citation to the answer and send it, after the words that it supports."""
        self.flush()
        self.citations.append(citation)
        self.emit(citation_added={"citation": citation_to_proto(citation)})

    def flush(self) -> None:
        """Send the deltas that are held back."""
        self._coalescer.flush()

    def finish_content(self) -> None:
        """End the piece of content that is open."""
        self.flush()
        if self._content_is_open:
            self._content_is_open = False
            self.emit(content_stopped={"index": len(self._contents) - 1})

    # Events

    def emit(self, **event: Any) -> None:
        self.append(events.encode(self.run_id, self.next_sequence, **event))

    def _emit_delta(self, kind: DeltaKind, text: str, tokens: int) -> None:
        index = len(self._contents) - 1
        for begin in range(0, len(text), _DELTA_CHARACTERS):
            piece, count = text[begin : begin + _DELTA_CHARACTERS], 0 if begin else tokens
            self.emit(content_delta={"text": piece, "index": index, "kind": KINDS[kind], "token_count": count})

    def append(self, event: bytes) -> None:
        self.events.append(event)
        if not self._via_bus:
            self.publish_all()

    @property
    def publishable(self) -> int:
        """How many events readers may see, here or over Redis."""
        return len(self.events) if self._holds_lease() else self.visible

    def publish_all(self) -> None:
        """Make all events visible, if the lease holds."""
        self.publish(self.publishable)

    @property
    def has_unstored_events(self) -> bool:
        return self.stored_count < len(self.events)

    @property
    def holds_lease(self) -> bool:
        return self._holds_lease()

    def conclude(self, terminal: bytes) -> None:
        """Send the terminal event. The run has ended in the databases, so that the lease no longer matters."""
        self.events.append(terminal)
        self.concluded = True
        self.publish(len(self.events))

    # How it ends

    def complete(self, finish_reason: str) -> None:
        self.document["state"], self.document["finish_reason"] = RunState.COMPLETED, finish_reason

    def fail(self, failure: Failure) -> None:
        self.document["state"], self.document["failure"] = RunState.FAILED, failure

    def end_early(self, reason: StopReason, failure: Failure | None = None) -> None:
        """Give it the state of a run that was cancelled or interrupted."""
        self.document["state"], self.document["failure"] = RunState(reason), failure

    def stop(self, reason: StopReason) -> None:
        """Stop the work on the answer, unless it was stopped before."""
        self.stop_reason = self.stop_reason or reason
        for task in self._work:
            task.cancel()

    def add_work(self, task: asyncio.Task[Any]) -> None:
        """Have a task cancelled when the run is stopped, or at once if it was."""
        self._work.add(task)
        task.add_done_callback(self._work.discard)
        if self.stop_reason:
            task.cancel()
