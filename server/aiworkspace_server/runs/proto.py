"""Runs and attempts in the contract's form."""

from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import common_pb2

from ..conversations.models import RunState
from ..kit.timestamps import timestamp
from ..usage.models import TOKENS
from .models import AttemptParameters, AttemptRecord, Cost, Failure, Run, Usage

_RUN_STATES = {state: pb.RunState.Value(f"RUN_STATE_{state.name}") for state in RunState}
_ATTEMPT_STATES = {state: pb.AttemptState.Value(f"ATTEMPT_STATE_{state.name}") for state in RunState}
_FINISH_REASONS = {
    "stop": pb.FINISH_REASON_STOP,
    "length": pb.FINISH_REASON_LENGTH,
    "content_filter": pb.FINISH_REASON_CONTENT_FILTER,
    "refused": pb.FINISH_REASON_REFUSED,
}


def run_to_proto(run: Run) -> pb.Run:
    usage, cost = run["usage"], run["cost"]
    return pb.Run(
        run_id=str(run["_id"]),
        conversation_id=str(run["conversation_id"]),
        workspace_id=str(run["workspace_id"]),
        user_message_id=str(run["user_message_id"]),
        message_id=str(run["message_id"]),
        model=run["model"],
        state=_RUN_STATES[RunState(run["state"])],
        finish_reason=_FINISH_REASONS.get(run["finish_reason"], pb.FINISH_REASON_UNSPECIFIED),
        failure=_failure_to_proto(run["failure"]),
        usage=_usage_to_proto(usage),
        usage_estimated=bool(usage and usage["estimated"]),
        cost=_cost_to_proto(cost),
        create_time=timestamp(run["create_time"]),
        end_time=timestamp(run["end_time"]) if run["end_time"] else None,
        attempt_count=run["attempt_count"],
    )


def attempt_to_proto(run_id: UUID, attempt: AttemptRecord) -> pb.Attempt:
    usage, first, end = attempt["usage"], attempt["first_content_time"], attempt["end_time"]
    return pb.Attempt(
        run_id=str(run_id),
        attempt=attempt["number"],
        model=attempt["model"],
        state=_ATTEMPT_STATES[RunState(attempt["state"])],
        own_key=attempt["own_key"],
        continues=attempt["continues"],
        parameters=_parameters_to_proto(attempt["parameters"]),
        message_count=attempt["message_count"],
        counted_input_tokens=attempt["counted_input_tokens"],
        provider_response_id=attempt["provider_response_id"],
        status=attempt["status"],
        failure=_failure_to_proto(attempt["failure"]),
        usage=_usage_to_proto(usage),
        usage_estimated=bool(usage and usage["estimated"]),
        cost=_cost_to_proto(attempt["cost"]),
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


def _failure_to_proto(failure: Failure | None) -> pb.RunFailure | None:
    if failure is None:
        return None
    return pb.RunFailure(reason=common_pb2.ErrorReason.ValueType(failure["reason"]), message=failure["message"])


def _usage_to_proto(usage: Usage | None) -> common_pb2.TokenUsage | None:
    if usage is None:
        return None
    return common_pb2.TokenUsage(**{name: usage[name] for name in TOKENS})  # type: ignore[literal-required]


def _cost_to_proto(cost: Cost | None) -> common_pb2.Money | None:
    return common_pb2.Money(currency_code=cost["currency"], nanos=cost["nanos"]) if cost else None
