"""Events of runs: encoded once, as the response message that SendMessage and StreamRun have in common.

SendMessageResponse and StreamRunResponse have the same fields, so the same bytes are both. They are what is stored, and
what every reader gets.
"""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2

from ..kit.timestamps import timestamp
from ..llm.base import DeltaKind
from ..usage.models import TOKENS
from .models import Attempt, AttemptParameters, Conversation, Message, Run

KINDS: dict[DeltaKind, pb.ContentKind.ValueType] = {
    "text": pb.CONTENT_KIND_TEXT,
    "thinking": pb.CONTENT_KIND_THINKING,
}
_ROLES = {"user": pb.MESSAGE_ROLE_USER, "assistant": pb.MESSAGE_ROLE_ASSISTANT}
_FINISH_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "refused": pb.FINISH_REASON_REFUSED,
}
_TERMINAL = {
    "completed": ("run_completed", pb.RunCompleted),
    "failed": ("run_failed", pb.RunFailed),
    "interrupted": ("run_failed", pb.RunFailed),
    "cancelled": ("run_cancelled", pb.RunCancelled),
}


def encode(run_id: UUID, sequence: int, **event: Any) -> bytes:
    return pb.SendMessageResponse(
        event=pb.ChatEvent(run_id=str(run_id), sequence=sequence, **event)
    ).SerializeToString()


def decode(data: bytes) -> pb.ChatEvent:
    return pb.SendMessageResponse.FromString(data).event


def is_terminal(data: bytes) -> bool:
    return decode(data).WhichOneof("event") in {name for name, _ in _TERMINAL.values()}


def kind_name(kind: pb.ContentKind.ValueType) -> DeltaKind:
    return "thinking" if kind == pb.CONTENT_KIND_THINKING else "text"


def started(run: Run, user_message: Message) -> dict[str, Any]:
    return {"run_started": pb.RunStarted(run=run_to_proto(run), user_message=message_to_proto(user_message))}


def ended(run: Run, message: pb.Message | None) -> dict[str, Any]:
    """The terminal event that the run's state calls for, with the answer or its first part."""
    name, make = _TERMINAL[run["state"]]
    return {name: make(run=run_to_proto(run), message=message)}


def run_to_proto(run: Run) -> pb.Run:
    failure, usage, cost = run["failure"], run["usage"], run["cost"]
    return pb.Run(
        run_id=str(run["_id"]),
        conversation_id=str(run["conversation_id"]),
        workspace_id=str(run["workspace_id"]),
        user_message_id=str(run["user_message_id"]),
        message_id=str(run["message_id"]),
        model=run["model"],
        state=pb.RunState.Value(f"RUN_STATE_{run['state'].upper()}"),
        finish_reason=_FINISH_REASONS.get(run["finish_reason"], pb.FINISH_REASON_UNSPECIFIED),
        failure=pb.RunFailure(**failure) if failure else None,  # type: ignore[arg-type]
        usage=_usage_to_proto(usage) if usage else None,
        usage_estimated=bool(usage and usage["estimated"]),
        cost=common_pb2.Money(currency_code=cost["currency"], nanos=cost["nanos"]) if cost else None,
        create_time=timestamp(run["create_time"]),
        end_time=timestamp(run["end_time"]) if run["end_time"] else None,
        attempt_count=run["attempt_count"],
    )


def attempt_to_proto(attempt: Attempt) -> pb.Attempt:
    failure, usage, cost = attempt["failure"], attempt["usage"], attempt["cost"]
    first, end = attempt["first_content_time"], attempt["end_time"]
    return pb.Attempt(
        run_id=str(attempt["run_id"]),
        attempt=attempt["number"],
        model=attempt["model"],
        state=pb.AttemptState.Value(f"ATTEMPT_STATE_{attempt['state'].upper()}"),
        own_key=attempt["own_key"],
        continues=attempt["continues"],
        parameters=_parameters_to_proto(attempt["parameters"]),
        message_count=attempt["message_count"],
        counted_input_tokens=attempt["counted_input_tokens"],
        provider_response_id=attempt["provider_response_id"],
        status=attempt["status"],
        failure=pb.RunFailure(**failure) if failure else None,  # type: ignore[arg-type]
        usage=_usage_to_proto(usage) if usage else None,
        usage_estimated=bool(usage and usage["estimated"]),
        cost=common_pb2.Money(currency_code=cost["currency"], nanos=cost["nanos"]) if cost else None,
        start_time=timestamp(attempt["start_time"]),
        first_content_time=timestamp(first) if first else None,
        end_time=timestamp(end) if end else None,
    )


def _parameters_to_proto(parameters: AttemptParameters) -> pb.ModelParameters:
    effort = parameters["reasoning_effort"]
    return pb.ModelParameters(
        temperature=parameters["temperature"],
        max_output_tokens=parameters["max_output_tokens"],
        seed=parameters["seed"],
        reasoning_effort=pb.ReasoningEffort.Value(f"REASONING_EFFORT_{(effort or 'unspecified').upper()}"),
    )


def _usage_to_proto(usage: Any) -> common_pb2.TokenUsage:
    return common_pb2.TokenUsage(**{name: usage[name] for name in TOKENS})


def message_to_proto(message: Message) -> pb.Message:
    return pb.Message(
        message_id=str(message["_id"]),
        conversation_id=str(message["conversation_id"]),
        run_id=str(message["run_id"]),
        role=_ROLES[message["role"]],
        contents=[pb.Content(kind=KINDS[content["kind"]], text=content["text"]) for content in message["contents"]],
        state=pb.MESSAGE_STATE_PARTIAL if message["partial"] else pb.MESSAGE_STATE_COMPLETE,
        model=message["model"],
        create_time=timestamp(message["create_time"]),
    )


def conversation_to_proto(conversation: Conversation) -> pb.Conversation:
    return pb.Conversation(
        conversation_id=str(conversation["_id"]),
        workspace_id=str(conversation["workspace_id"]),
        title=conversation["title"],
        model=conversation["model"],
        active_run_id=str(conversation["active_run_id"] or ""),
        create_time=timestamp(conversation["create_time"]),
        update_time=timestamp(conversation["update_time"]),
        etag=str(conversation["version"]),
    )


def speaker(event: pb.ChatEvent, number: int) -> int:
    """Whose content comes after this event, if `number` is the attempt whose content came before it.

    When content comes, one attempt at most has begun and not failed: of two that race one has failed by then.
    """
    if event.HasField("attempt_started"):
        return event.attempt_started.attempt
    if event.HasField("attempt_failed") and event.attempt_failed.attempt == number:
        return number - 1
    return number
