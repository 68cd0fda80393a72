"""The plan of a run as it is stored with it, so that another server can resume it."""

from ..llm.base import Parameters
from ..policies.plan import Plan, Target
from .models import RunPlan


def to_document(plan: Plan) -> RunPlan:
    return RunPlan(
        models=[target.model for target in plan.targets],
        temperature=plan.parameters.temperature,
        stop=list(plan.parameters.stop),
        seed=plan.parameters.seed,
        reasoning_effort=plan.parameters.reasoning_effort,
        max_output_tokens=plan.max_output_tokens,
        continue_broken_answers=plan.continue_broken_answers,
        resume_interrupted_runs=plan.resume_interrupted_runs,
        hedge_after_seconds=plan.hedge_after_seconds,
    )


def from_document(stored: RunPlan, targets: tuple[Target, ...]) -> Plan:
    """Return a stored plan. `targets` are the stored models that are still allowed, with their current providers."""
    return Plan(
        targets,
        parameters_in(stored),
        stored["max_output_tokens"],
        stored["continue_broken_answers"],
        stored["resume_interrupted_runs"],
        stored["hedge_after_seconds"],
    )


def parameters_in(stored: RunPlan) -> Parameters:
    return Parameters(stored["temperature"], tuple(stored["stop"]), stored["seed"], stored["reasoning_effort"])
