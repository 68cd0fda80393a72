"""The plan of a run: models in the order in which they are tried, and parameters within the policies' bounds."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from uuid import UUID

from aiworkspace.v1 import common_pb2

from ..kit.errors import FailedPrecondition, InvalidArgument, Unavailable
from ..kit.limits import Counters
from ..kit.postgres import Database
from ..llm.base import Parameters
from ..llm.registry import UnknownModel
from . import store
from .limits import NO_LIMITS, ModelLimits
from .policy import EFFORTS, Bounds, Policy
from .providers import Providers, Target, unknown_model
from .store import Rules

__all__ = ["Plan", "Plans", "Target"]


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. `targets` are the requested model, if it is available, then the fallback models."""

    targets: tuple[Target, ...]
    parameters: Parameters
    max_output_tokens: int
    continue_broken_answers: bool = False
    resume_interrupted_runs: bool = False
    hedge_after_seconds: float = 0  # 0: never
    limits: ModelLimits = NO_LIMITS  # each attempt at another model takes from them first
    asked: str = ""  # id of the requested model; not among the targets if no provider has it


class Plans:
    """Makes plans. May call a local model server, so it must not be used inside a transaction."""

    def __init__(self, db: Database, providers: Providers, counters: Counters, max_output_tokens: int) -> None:
        self._db = db
        self._providers = providers
        self._counters = counters
        self._max_output_tokens = max_output_tokens

    async def make(
        self,
        org_id: UUID,
        workspace_id: UUID,
        model: str,
        parameters: Parameters,
        max_output_tokens: int,
        field: str,
        rules: Rules | None = None,
        *,
        chosen: bool = True,
    ) -> Plan:
        """Make the plan of a run. Raises an AppError for a model or parameters that the policies do not allow.

        `field` is the request field that names the model. `chosen` tells whether the request itself names it; the model
        must then exist. A model that was chosen earlier may have disappeared: the fallback models are used instead.
        `rules` are read unless the caller passes them.
        """
        rules = rules or await self._read_rules(org_id, workspace_id)
        policy = rules.effective
        if not policy.allows(model):
            raise _not_allowed(model)
        if violations := _violations(parameters, policy.bounds):
            raise InvalidArgument(violations)
        fallbacks = await self._reachable(rules, policy, [each for each in policy.fallback_models if each != model])
        try:
            asked = [await self._asked(rules, model, field)]
        except (FailedPrecondition, Unavailable, InvalidArgument) as error:
            if not fallbacks or (chosen and isinstance(error, InvalidArgument)):
                raise
            asked = []
        return Plan(
            (*asked, *fallbacks),
            parameters,
            self._most_tokens(max_output_tokens, policy.bounds),
            policy.continue_broken_answers,
            policy.resume_interrupted_runs,
            policy.hedge_after_seconds,
            ModelLimits(self._counters, rules.limits),
            model,
        )

    async def targets(self, org_id: UUID, workspace_id: UUID, models: Sequence[str]) -> tuple[Target, ...]:
        """Return the targets of those models that are allowed and available now, to resume a run."""
        rules = await self._read_rules(org_id, workspace_id)
        return tuple(await self._reachable(rules, rules.effective, models))

    async def _read_rules(self, org_id: UUID, workspace_id: UUID) -> Rules:
        async with self._db.read(org_id) as tx:
            return await store.find_rules(tx, org_id, workspace_id)

    async def _asked(self, rules: Rules, model: str, field: str) -> Target:
        try:
            return await self._providers.resolve(rules.org_id, rules.keys, model)
        except UnknownModel:
            raise unknown_model(model, field) from None

    async def _reachable(self, rules: Rules, policy: Policy, models: Sequence[str]) -> list[Target]:
        """Return the targets of those models that are allowed and available. Nobody named the others explicitly."""
        targets = []
        for model in filter(policy.allows, models):
            with suppress(UnknownModel, FailedPrecondition, Unavailable):
                targets.append(await self._providers.resolve(rules.org_id, rules.keys, model))
        return targets

    def _most_tokens(self, wanted: int, bounds: Bounds) -> int:
        return min(filter(None, (wanted, bounds.max_output_tokens, self._max_output_tokens)))


def _not_allowed(model: str) -> FailedPrecondition:
    message = f"The model policy of the organization or of the workspace does not allow {model[:100]!r}."
    return FailedPrecondition(common_pb2.ERROR_REASON_MODEL_NOT_ALLOWED, message, metadata={"model": model})


def _violations(wanted: Parameters, bounds: Bounds) -> dict[str, str]:
    """Return what the policy does not allow, by request field."""
    found = {}
    if wanted.temperature is not None:
        if bounds.min_temperature is not None and wanted.temperature < bounds.min_temperature:
            found["parameters.temperature"] = f"the model policy allows no less than {bounds.min_temperature:g}"
        if bounds.max_temperature is not None and wanted.temperature > bounds.max_temperature:
            found["parameters.temperature"] = f"the model policy allows no more than {bounds.max_temperature:g}"
    if bounds.max_stop_count is not None and len(wanted.stop) > bounds.max_stop_count:
        found["parameters.stop"] = f"the model policy allows no more than {bounds.max_stop_count}"
    if bounds.seed_forbidden and wanted.seed is not None:
        found["parameters.seed"] = "the model policy does not allow it"
    most = bounds.max_reasoning_effort
    if most and wanted.reasoning_effort and EFFORTS.index(wanted.reasoning_effort) > EFFORTS.index(most):
        found["parameters.reasoning_effort"] = f"the model policy allows no more than {most}"
    return found
