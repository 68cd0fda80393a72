"""Events of runs, encoded once: as the response message that SendMessage and StreamRun have in common.

SendMessageResponse and StreamRunResponse have the same fields, so the same bytes are both. These bytes are what is
stored and what every reader gets.
"""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb

from ..conversations.models import RunState, answer_of, question_of
from ..conversations.proto import message_to_proto, part
from .models import Run
from .proto import run_to_proto

_TERMINAL = {
    RunState.COMPLETED: ("run_completed", pb.RunCompleted),
    RunState.FAILED: ("run_failed", pb.RunFailed),
    RunState.INTERRUPTED: ("run_failed", pb.RunFailed),
    RunState.CANCELLED: ("run_cancelled", pb.RunCancelled),
}
TERMINAL_NAMES = {name for name, _ in _TERMINAL.values()}


def encode(run_id: UUID, sequence: int, **event: Any) -> bytes:
    return pb.SendMessageResponse(
        event=pb.ChatEvent(run_id=str(run_id), sequence=sequence, **event)
    ).SerializeToString()


def decode(data: bytes) -> pb.ChatEvent:
    return pb.SendMessageResponse.FromString(data).event


def is_terminal(data: bytes) -> bool:
    return decode(data).WhichOneof("event") in TERMINAL_NAMES


def encode_started(run: Run) -> bytes:
    """Encode the first event of a run."""
    started = pb.RunStarted(run=run_to_proto(run), user_message=message_to_proto(question_of(run)))
    return encode(run["_id"], 1, run_started=started)


def encode_terminal(run: Run, sequence: int) -> bytes:
    """Encode the event that the run's state calls for, with the answer or its first part."""
    name, make = _TERMINAL[RunState(run["state"])]
    answer = answer_of(run)
    event = make(run=run_to_proto(run), message=part(answer)[0] if answer else None)
    if isinstance(event, pb.RunCompleted):
        event.dropped_citation_count = run.get("dropped_citation_count", 0)
    return encode(run["_id"], sequence, **{name: event})


def speaking_attempt(event: pb.ChatEvent, number: int) -> int:
    """Return the attempt whose content comes after this event, if `number` is that before it.

    When content comes, one attempt at most has begun and not failed: of two that race one has failed by then.
    """
    if event.HasField("attempt_started"):
        return event.attempt_started.attempt
    if event.HasField("attempt_failed") and event.attempt_failed.attempt == number:
        return number - 1
    return number
