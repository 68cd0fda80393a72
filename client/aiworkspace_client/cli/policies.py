"""aiws models policy: which models may be used, and how."""

import re
from collections.abc import Iterator, Sequence
from enum import StrEnum
from typing import Annotated, Any

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import Session, connected
from aiworkspace_client.types import ModelLimit, ModelPolicy, ReasoningEffort

app = typer.Typer(no_args_is_help=True, help="Policies: which models may be used, and how.")

Scope = Annotated[
    str, typer.Option("--workspace", "-w", help="Id of a workspace, for its policy rather than the organization's.")
]
_MOST = 2**31 - 1
_LIMIT = re.compile(r"(?P<model>[^/=]+/[^=]+)=(?P<requests>\d*)(?:/(?P<tokens>\d+))?")


class Effort(StrEnum):
    """The greatest reasoning effort of a policy."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"
    ANY = "any"


Models = list[str] | None
Allow = Annotated[Models, typer.Option(metavar="MODEL", help="Allow this model, or PROVIDER/*, and no others.")]
AllowAll = Annotated[bool, typer.Option("--allow-all", help="Allow every model.")]
Default = Annotated[str | None, typer.Option(metavar="MODEL", help="Model of new workspaces of the organization.")]
Fallback = Annotated[Models, typer.Option(metavar="MODEL", help="Try this model when those before it fail.")]
NoFallback = Annotated[bool, typer.Option("--no-fallback", help="Try no other model.")]
GoOn = Annotated[
    bool | None, typer.Option("--continue/--no-continue", help="Let a fallback model continue a partial answer.")
]
Resume = Annotated[
    bool | None, typer.Option("--resume/--no-resume", help="Let another server resume an interrupted run.")
]
HedgeAfter = Annotated[
    float | None, typer.Option(metavar="SECONDS", help="Also try a fallback model after this time; 0: never.")
]
MinTemperature = Annotated[float | None, typer.Option(help="Least temperature.")]
MaxTemperature = Annotated[float | None, typer.Option(help="Greatest temperature.")]
MaxOutputTokens = Annotated[int | None, typer.Option(help="Most tokens of an answer; 0: any.", min=0, max=_MOST)]
MaxStopCount = Annotated[int | None, typer.Option(help="Most stop texts.", min=0, max=4)]
ForbidSeed = Annotated[bool | None, typer.Option("--forbid-seed/--allow-seed", help="Forbid a seed.")]
MaxEffort = Annotated[Effort | None, typer.Option(help="Greatest reasoning effort.")]
Limits = Annotated[
    list[str] | None,
    typer.Option(metavar="MODEL=N[/N]", help="Requests, and tokens, per minute of a model or PROVIDER/*."),
]
NoLimits = Annotated[bool, typer.Option("--no-limits", help="No limits.")]


@app.command()
def show(ctx: typer.Context, workspace: Scope = "", org: Org = "", json: Json = False) -> None:
    """Show the policy of the organization, or of a workspace with the policy in effect there."""
    with connected(ctx) as session:
        if not workspace:
            policy = session.client.models.get_org_model_policy(session.org_id(org))
            return output.as_json(policy) if json else output.table(("", "ORGANIZATION"), _rows(policy))
        answer = session.client.models.get_workspace_model_policy(workspace)
        if json:
            return output.as_json(answer)
        output.table(("", "WORKSPACE", "IN EFFECT"), _rows(answer.policy, answer.effective))


@app.command("set")
def set_policy(
    ctx: typer.Context,
    workspace: Scope = "",
    org: Org = "",
    allow: Allow = None,
    allow_all: AllowAll = False,
    default: Default = None,
    fallback: Fallback = None,
    no_fallback: NoFallback = False,
    go_on: GoOn = None,
    resume: Resume = None,
    hedge_after: HedgeAfter = None,
    min_temperature: MinTemperature = None,
    max_temperature: MaxTemperature = None,
    max_output_tokens: MaxOutputTokens = None,
    max_stop_count: MaxStopCount = None,
    forbid_seed: ForbidSeed = None,
    max_effort: MaxEffort = None,
    limit: Limits = None,
    no_limits: NoLimits = False,
) -> None:
    """Change the given parts of the policy of the organization or, with --workspace, of a workspace."""
    _refuse_both(allow, allow_all, "--allow and --allow-all")
    _refuse_both(fallback, no_fallback, "--fallback and --no-fallback")
    _refuse_both(limit, no_limits, "--limit and --no-limits")
    lists: dict[str, Any] = {
        "allowed_models": [] if allow_all else allow,
        "fallback_models": [] if no_fallback else fallback,
        "limits": [] if no_limits else limit and list(map(_read_limit, limit)),
    }
    values = {
        "default_model": default,
        "continue_broken_answers": go_on,
        "resume_interrupted_runs": resume,
        "hedge_after_seconds": hedge_after,
    }
    bounds = {
        "min_temperature": min_temperature,
        "max_temperature": max_temperature,
        "max_output_tokens": max_output_tokens,
        "max_stop_count": max_stop_count,
        "seed_forbidden": forbid_seed,
        "max_reasoning_effort": max_effort and _effort(max_effort),
    }
    if all(value is None for value in (*lists.values(), *values.values(), *bounds.values())):
        raise typer.BadParameter("nothing to change: aiws models policy set --help lists the options")
    with connected(ctx) as session:
        policy = _policy(session, workspace, org)
        _save(session, workspace, org, _changed(policy, lists, values, bounds))
        output.say("The policy is changed. It applies from the next message on.", "green")


def _refuse_both(items: Models, none: bool, names: str) -> None:
    if items and none:
        raise typer.BadParameter(f"{names} cannot be combined")


def _policy(session: Session, workspace: str, org: str) -> ModelPolicy:
    """Return the current policy. Its etag detects concurrent changes."""
    if workspace:
        return session.client.models.get_workspace_model_policy(workspace).policy
    return session.client.models.get_org_model_policy(session.org_id(org))


def _save(session: Session, workspace: str, org: str, policy: ModelPolicy) -> None:
    if workspace:
        session.client.models.set_workspace_model_policy(workspace_id=workspace, policy=policy)
    else:
        session.client.models.set_org_model_policy(org_id=session.org_id(org), policy=policy)


def _changed(policy: ModelPolicy, lists: dict[str, Any], values: dict[str, Any], bounds: dict[str, Any]) -> ModelPolicy:
    """Return the policy with the given parts changed, and keep the others."""
    if lists["allowed_models"] is not None:
        policy.nothing_allowed = False
    for name, items in lists.items():
        if items is not None:
            field = getattr(policy, name)
            del field[:]
            field.extend(items)
    for message, given in ((policy, values), (policy.bounds, bounds)):
        for name, value in given.items():
            if value is not None:
                setattr(message, name, value)
    return policy


def _read_limit(text: str) -> ModelLimit:
    parts = _LIMIT.fullmatch(text)
    if parts is None:
        raise typer.BadParameter(f"{text!r} is not MODEL=REQUESTS, MODEL=REQUESTS/TOKENS, or MODEL=/TOKENS.")
    requests, tokens = int(parts["requests"] or 0), int(parts["tokens"] or 0)
    if not (requests or tokens) or max(requests, tokens) > _MOST:
        raise typer.BadParameter(f"{text!r} limits nothing: use numbers from 1 to {_MOST:,}.")
    return ModelLimit(model=parts["model"], requests_per_minute=requests, tokens_per_minute=tokens)


def _effort(effort: Effort) -> ReasoningEffort.ValueType:
    name = "UNSPECIFIED" if effort == Effort.ANY else effort.upper()
    return ReasoningEffort.Value(f"REASONING_EFFORT_{name}")


def _rows(*policies: ModelPolicy) -> Iterator[Sequence[str]]:
    """Yield the rows of a table of policies, without rows that are empty for all."""
    texts = [dict(_texts(policy)) for policy in policies]
    for name in dict.fromkeys(name for each in texts for name in each):
        yield name, *(each.get(name, "") for each in texts)


def _texts(policy: ModelPolicy) -> Iterator[tuple[str, str]]:
    yield "models", "none" if policy.nothing_allowed else ", ".join(policy.allowed_models) or "all"
    for name, text in (("default", policy.default_model), ("fallback", ", ".join(policy.fallback_models))):
        if text:
            yield name, text
    for name, holds in (
        ("continue broken answers", policy.continue_broken_answers),
        ("resume interrupted runs", policy.resume_interrupted_runs),
        ("seed", policy.bounds.seed_forbidden),
    ):
        if holds:
            yield name, "forbidden" if name == "seed" else "yes"
    if policy.hedge_after_seconds:
        yield "hedge", f"after {policy.hedge_after_seconds:g} s"
    bounds = policy.bounds
    for name, holds, bound in (
        ("min temperature", bounds.HasField("min_temperature"), bounds.min_temperature),
        ("max temperature", bounds.HasField("max_temperature"), bounds.max_temperature),
        ("max output tokens", bounds.max_output_tokens > 0, bounds.max_output_tokens),
        ("max stop count", bounds.HasField("max_stop_count"), bounds.max_stop_count),
    ):
        if holds:
            yield name, f"{bound:g}"
    if policy.bounds.max_reasoning_effort:
        effort = ReasoningEffort.Name(policy.bounds.max_reasoning_effort)
        yield "max reasoning effort", effort.removeprefix("REASONING_EFFORT_").lower()
    if policy.limits:
        yield "limits per minute", ", ".join(map(_limit_text, policy.limits))


def _limit_text(limit: ModelLimit) -> str:
    counts = [
        f"{count:,} {kind}"
        for kind, count in (("requests", limit.requests_per_minute), ("tokens", limit.tokens_per_minute))
        if count
    ]
    return f"{limit.model}: {' and '.join(counts) or 'none'}"
