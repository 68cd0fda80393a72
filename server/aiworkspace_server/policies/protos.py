"""Mapping of policies, provider keys and models to the contract."""

from aiworkspace.v1 import chat_pb2, common_pb2
from aiworkspace.v1 import model_pb2 as pb

from ..kit.errors import InvalidArgument
from ..kit.timestamps import timestamp
from ..llm.base import Effort, ModelInfo, Parameters
from .models import ProviderKey
from .policy import Bounds, Limit, Policy

_NUMBERS: dict[Effort | None, chat_pb2.ReasoningEffort.ValueType] = {
    None: chat_pb2.REASONING_EFFORT_UNSPECIFIED,
    "low": chat_pb2.REASONING_EFFORT_LOW,
    "medium": chat_pb2.REASONING_EFFORT_MEDIUM,
    "high": chat_pb2.REASONING_EFFORT_HIGH,
}
EFFORTS: dict[int, Effort] = {number: name for name, number in _NUMBERS.items() if name}


def read_parameters(given: chat_pb2.ModelParameters) -> Parameters:
    return Parameters(
        temperature=given.temperature if given.HasField("temperature") else None,
        stop=tuple(given.stop),
        seed=given.seed if given.HasField("seed") else None,
        reasoning_effort=EFFORTS.get(given.reasoning_effort),
    )


def read_policy(given: pb.ModelPolicy) -> Policy:
    if given.nothing_allowed and given.allowed_models:
        raise InvalidArgument({"policy.nothing_allowed": "cannot be combined with allowed_models"})
    return Policy(
        allowed_models=() if given.nothing_allowed else tuple(given.allowed_models) or None,
        default_model=given.default_model,
        fallback_models=tuple(given.fallback_models),
        continue_broken_answers=given.continue_broken_answers,
        resume_interrupted_runs=given.resume_interrupted_runs,
        hedge_after_seconds=given.hedge_after_seconds,
        bounds=_read_bounds(given.bounds),
        limits=tuple(Limit(each.model, each.requests_per_minute, each.tokens_per_minute) for each in given.limits),
    )


def _read_bounds(given: pb.ParameterBounds) -> Bounds:
    return Bounds(
        min_temperature=given.min_temperature if given.HasField("min_temperature") else None,
        max_temperature=given.max_temperature if given.HasField("max_temperature") else None,
        max_output_tokens=given.max_output_tokens or None,
        max_stop_count=given.max_stop_count if given.HasField("max_stop_count") else None,
        seed_forbidden=given.seed_forbidden,
        max_reasoning_effort=EFFORTS.get(given.max_reasoning_effort),
    )


def policy_to_proto(policy: Policy, version: int | None = None) -> pb.ModelPolicy:
    return pb.ModelPolicy(
        allowed_models=policy.allowed_models,
        default_model=policy.default_model,
        fallback_models=policy.fallback_models,
        continue_broken_answers=policy.continue_broken_answers,
        resume_interrupted_runs=policy.resume_interrupted_runs,
        hedge_after_seconds=policy.hedge_after_seconds,
        bounds=_bounds_to_proto(policy.bounds),
        limits=[_limit_to_proto(limit) for limit in policy.limits],
        etag="" if version is None else str(version),
        nothing_allowed=policy.allowed_models == (),
    )


def _bounds_to_proto(bounds: Bounds) -> pb.ParameterBounds:
    return pb.ParameterBounds(
        min_temperature=bounds.min_temperature,
        max_temperature=bounds.max_temperature,
        max_output_tokens=bounds.max_output_tokens or 0,
        max_stop_count=bounds.max_stop_count,
        seed_forbidden=bounds.seed_forbidden,
        max_reasoning_effort=_NUMBERS[bounds.max_reasoning_effort],
    )


def _limit_to_proto(limit: Limit) -> pb.ModelLimit:
    return pb.ModelLimit(
        model=limit.model,
        requests_per_minute=limit.requests_per_minute,
        tokens_per_minute=limit.tokens_per_minute,
    )


def key_to_proto(key: ProviderKey) -> pb.ProviderKey:
    return pb.ProviderKey(
        provider=key.provider, hint=key.hint, creator_id=str(key.creator_id), create_time=timestamp(key.create_time)
    )


def model_to_proto(model: ModelInfo) -> chat_pb2.Model:
    return chat_pb2.Model(
        model=model.id,
        provider=model.provider,
        display_name=model.display_name,
        context_tokens=model.context_tokens or 0,
        input_price=_usd(model.input_price),
        output_price=_usd(model.output_price),
    )


def _usd(nanos: int | None) -> common_pb2.Money | None:
    return None if nanos is None else common_pb2.Money(currency_code="USD", nanos=nanos)
