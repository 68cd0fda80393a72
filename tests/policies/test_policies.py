"""Model policies: set, read, and what they do to messages."""

from typing import Any
from uuid import UUID, uuid4

import pytest

from aiworkspace.v1 import chat_pb2, workspace_pb2
from aiworkspace.v1 import model_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.kit.limits import Counters
from aiworkspace_server.llm.base import Parameters
from aiworkspace_server.policies.plan import Plans
from aiworkspace_server.policies.providers import Providers
from aiworkspace_server.policies.vault import Vault
from tests.standin import Script, Standin
from tests.support.outcomes import ETAG_MISMATCH, MODEL_NOT_ALLOWED, OK, named, outcome, refusal
from tests.support.people import NewPerson, Place, make_conversation, make_place, make_workspace
from tests.support.runs import say
from tests.support.statements import statements

MINI, HAIKU = "openai/gpt-4o-mini", "anthropic/claude-haiku-4-5"
LOW, MEDIUM, HIGH = (
    chat_pb2.REASONING_EFFORT_LOW,
    chat_pb2.REASONING_EFFORT_MEDIUM,
    chat_pb2.REASONING_EFFORT_HIGH,
)
BOUNDS = pb.ParameterBounds(
    min_temperature=0.2,
    max_temperature=0.7,
    max_output_tokens=3,
    max_stop_count=1,
    seed_forbidden=True,
    max_reasoning_effort=MEDIUM,
)


def of_org(place: Place, **policy: Any) -> Any:
    request = pb.SetOrgModelPolicyRequest(org_id=place.org_id, policy=pb.ModelPolicy(**policy))
    return place.owner.models.SetOrgModelPolicy(request)


def of_workspace(place: Place, **policy: Any) -> Any:
    request = pb.SetWorkspaceModelPolicyRequest(workspace_id=place.workspace_id, policy=pb.ModelPolicy(**policy))
    return place.owner.models.SetWorkspaceModelPolicy(request)


def ask(place: Place, **fields: Any) -> Any:
    """A call whose outcome can be asked for."""
    return say(place.owner, place.conversation_id, "hello", **fields)


async def listed(place: Place, **fields: Any) -> list[str]:
    request = pb.ListWorkspaceModelsRequest(workspace_id=place.workspace_id, page_size=1000, **fields)
    return [model.model for model in (await place.owner.models.ListWorkspaceModels(request)).models]


async def test_a_policy_is_read_as_it_was_set(place: Place) -> None:
    org, workspace = place.org_id, place.workspace_id
    policy = pb.ModelPolicy(
        allowed_models=["echo/*", MINI],
        default_model=MINI,
        fallback_models=["echo/echo"],
        continue_broken_answers=True,
        resume_interrupted_runs=True,
        hedge_after_seconds=2.5,
        bounds=BOUNDS,
        limits=[pb.ModelLimit(model="openai/*", requests_per_minute=5, tokens_per_minute=10_000)],
    )
    first = await place.owner.models.GetOrgModelPolicy(pb.GetOrgModelPolicyRequest(org_id=org))
    assert first.policy == pb.ModelPolicy(bounds=pb.ParameterBounds(), etag="0")
    changed = await place.owner.models.SetOrgModelPolicy(pb.SetOrgModelPolicyRequest(org_id=org, policy=policy))
    policy.etag = "1"
    assert changed.policy == policy
    assert (await place.owner.models.GetOrgModelPolicy(pb.GetOrgModelPolicyRequest(org_id=org))).policy == policy
    request = pb.GetWorkspaceModelPolicyRequest(workspace_id=workspace)
    there = await place.owner.models.GetWorkspaceModelPolicy(request)
    policy.etag = ""
    assert (there.policy.etag, there.effective) == ("0", policy)


async def test_a_workspace_can_only_be_stricter(place: Place) -> None:
    await of_org(place, allowed_models=["echo/*", "openai/*"])
    changed = await of_workspace(place, allowed_models=[MINI, HAIKU], limits=[pb.ModelLimit(model=MINI)])
    assert list(changed.policy.allowed_models) == [MINI, HAIKU]
    assert list(changed.effective.allowed_models) == [MINI]
    assert await listed(place) == [MINI]
    await of_org(place, allowed_models=["echo/*"])
    request = pb.GetWorkspaceModelPolicyRequest(workspace_id=place.workspace_id)
    effective = (await place.owner.models.GetWorkspaceModelPolicy(request)).effective
    assert (list(effective.allowed_models), effective.nothing_allowed) == ([], True)
    assert await listed(place) == []
    assert await outcome(ask(place)) == MODEL_NOT_ALLOWED


async def test_an_etag_that_is_no_longer_current_changes_nothing(place: Place) -> None:
    for change in (of_org, of_workspace):
        assert await outcome(change(place, etag="0", allowed_models=["echo/*"])) == OK
        assert await outcome(change(place, etag="0")) == ETAG_MISMATCH
        assert await outcome(change(place, etag="1", allowed_models=["echo/echo"])) == OK
    assert await listed(place) == ["echo/echo"]


BAD = {
    "no such model": ({"allowed_models": ["openai/none"]}, "policy.allowed_models"),
    "no such provider": ({"allowed_models": ["nobody/*"]}, "policy.allowed_models"),
    "a fallback that is none": ({"fallback_models": ["openai/none"]}, "policy.fallback_models"),
    "a fallback to anything": ({"fallback_models": ["openai/*"]}, "policy.fallback_models"),
    "a limit of nothing": ({"limits": [pb.ModelLimit(model="openai/none")]}, "policy.limits"),
    "a limit twice": ({"limits": [pb.ModelLimit(model=MINI)] * 2}, "policy.limits"),
    "crossed bounds": (
        {"bounds": pb.ParameterBounds(min_temperature=1, max_temperature=0.5)},
        "policy.bounds.min_temperature",
    ),
    "none and one": ({"nothing_allowed": True, "allowed_models": ["echo/*"]}, "policy.nothing_allowed"),
    "no such default": ({"default_model": "openai/none"}, "policy.default_model"),
    "a default that is not allowed": ({"default_model": MINI, "allowed_models": ["echo/*"]}, "policy.default_model"),
}


@pytest.mark.parametrize(("policy", "field"), BAD.values(), ids=BAD)
async def test_what_makes_no_sense_is_refused(place: Place, policy: dict[str, Any], field: str) -> None:
    assert await named(of_org(place, **policy)) == (field,)
    assert await named(of_workspace(place, **policy)) == (field,)
    assert "echo/echo" in await listed(place)


async def test_both_policies_together_leave_a_temperature(place: Place) -> None:
    await of_org(place, bounds=pb.ParameterBounds(max_temperature=0.5))
    bounds = pb.ParameterBounds(min_temperature=0.6)
    assert await named(of_workspace(place, bounds=bounds)) == ("policy.bounds.min_temperature",)
    request = pb.GetWorkspaceModelPolicyRequest(workspace_id=place.workspace_id)
    found = await place.owner.models.GetWorkspaceModelPolicy(request)
    assert not found.policy.bounds.HasField("min_temperature")
    bounds.min_temperature = 0.5
    assert await outcome(of_workspace(place, bounds=bounds)) == OK


async def test_the_default_is_the_organizations_alone(place: Place) -> None:
    assert await named(of_workspace(place, default_model="echo/echo")) == ("policy.default_model",)


async def test_new_workspaces_have_the_default_of_the_organization(place: Place) -> None:
    async def default_of(workspace_id: str) -> str:
        request = workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id)
        return str((await place.owner.workspaces.GetWorkspace(request)).workspace.default_model)

    await of_org(place, default_model=MINI)
    assert await default_of(place.workspace_id) == "echo/echo"
    assert await default_of(await make_workspace(place.owner, place.org_id)) == MINI
    assert await default_of(await make_workspace(place.owner, place.org_id, default_model=HAIKU)) == HAIKU


async def test_only_models_that_are_allowed_are_asked(place: Place, standin: Standin) -> None:
    await of_org(place, allowed_models=["openai/*"])
    asked = len(standin.received)
    refused = await refusal(ask(place))
    assert refused is not None
    assert (f"{refused.code} {refused.reason}", refused.metadata) == (MODEL_NOT_ALLOWED, {"model": "echo/echo"})
    assert await outcome(ask(place, model=HAIKU)) == MODEL_NOT_ALLOWED
    assert len(standin.received) == asked
    request = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    assert not (await place.owner.chat.ListMessages(request)).messages
    assert await outcome(ask(place, model=MINI)) == OK
    assert len(standin.received) == asked + 1


async def test_a_policy_counts_at_once_and_only_where_it_is(place: Place, new_person: NewPerson) -> None:
    elsewhere = await make_place(await new_person())
    other = await make_workspace(place.owner, place.org_id)
    await of_workspace(place, allowed_models=[MINI])
    assert await outcome(ask(place)) == MODEL_NOT_ALLOWED
    assert await outcome(ask(elsewhere)) == OK
    assert await outcome(say(place.owner, await make_conversation(place.owner, other), "hello")) == OK
    await of_workspace(place)
    assert await outcome(ask(place)) == OK


@pytest.mark.parametrize(
    ("parameters", "field"),
    [
        ({"temperature": 0.1}, "temperature"),
        ({"temperature": 0.8}, "temperature"),
        ({"stop": ["a", "b"]}, "stop"),
        ({"seed": 0}, "seed"),
        ({"reasoning_effort": HIGH}, "reasoning_effort"),
    ],
)
async def test_parameters_beyond_the_bounds_are_refused(place: Place, parameters: dict[str, Any], field: str) -> None:
    await of_workspace(place, bounds=BOUNDS)
    given = chat_pb2.ModelParameters(**parameters)
    assert await named(ask(place, parameters=given)) == (f"parameters.{field}",)


async def test_parameters_within_the_bounds_are_sent(place: Place, standin: Standin) -> None:
    await of_workspace(place, bounds=BOUNDS)
    standin.received.clear()
    standin.script("gpt-4o-mini", Script(tokens=("a", "b", "c", "d")))
    given = chat_pb2.ModelParameters(temperature=0.7, stop=["END"], reasoning_effort=LOW, max_output_tokens=50)
    await ask(place, model=MINI, parameters=given)
    body = standin.received[0].body
    assert (body["temperature"], body["stop"], body["max_completion_tokens"]) == (0.7, ["END"], 3)
    assert standin.received[0].headers["x-client-request-id"].endswith("/1")


async def test_fallbacks_are_those_that_may_and_can_be_asked(place: Place, app: App) -> None:
    plans = Plans(app.db, Providers(app.db, app.registry, Vault(["none"])), Counters(None), 4096)

    async def planned(model: str) -> list[str]:
        plan = await plans.make(UUID(place.org_id), UUID(place.workspace_id), model, Parameters(), 0, "model")
        return [target.model for target in plan.targets]

    await of_org(place, fallback_models=["echo/echo", MINI, HAIKU])
    assert await planned(MINI) == [MINI, "echo/echo", HAIKU]
    await of_workspace(place, allowed_models=["openai/*", "anthropic/*"], hedge_after_seconds=3)
    assert await planned(MINI) == [MINI, HAIKU]
    await of_workspace(place, fallback_models=["echo/echo"])
    assert await planned(MINI) == [MINI, "echo/echo"]
    found = await plans.targets(UUID(place.org_id), UUID(place.workspace_id), [HAIKU, "openai/gone", MINI])
    assert [target.model for target in found] == [HAIKU, MINI]


async def test_without_bounds_the_servers_limit_counts(place: Place, standin: Standin) -> None:
    standin.received.clear()
    for given, sent in ((0, 4096), (7, 7), (1_000_000, 4096)):
        parameters = chat_pb2.ModelParameters(max_output_tokens=given)
        await ask(place, model=MINI, parameters=parameters)
        assert standin.received.pop().body["max_completion_tokens"] == sent


async def test_models_are_listed_in_pages(place: Place) -> None:
    everything = await listed(place)
    assert everything == sorted(set(everything))
    assert {"echo/echo", MINI, HAIKU} <= set(everything)
    await of_workspace(place, allowed_models=["anthropic/*"])
    request = pb.ListWorkspaceModelsRequest(workspace_id=place.workspace_id, page_size=4)
    found: list[str] = []
    while True:
        response = await place.owner.models.ListWorkspaceModels(request)
        found += [model.model for model in response.models]
        if not response.next_page_token:
            break
        request.page_token = response.next_page_token
    assert found == [model for model in everything if model.startswith("anthropic/")]


async def test_all_that_a_message_needs_to_know_of_policies_and_keys_is_one_statement(place: Place, app: App) -> None:
    with statements(app) as seen:
        await ask(place)
    about = ("read_chat_context", "model_policies", "provider_keys")
    assert len([text for text, _ in seen if any(name in text for name in about)]) == 1


async def test_a_message_that_was_let_through_is_answered_again_whatever_is_forbidden_since(place: Place) -> None:
    request_id = str(uuid4())
    first = await say(place.owner, place.conversation_id, "hello", request_id=request_id)
    await of_org(place, allowed_models=["openai/*"])
    assert await say(place.owner, place.conversation_id, "hello", request_id=request_id) == first
    assert await outcome(ask(place)) == MODEL_NOT_ALLOWED


async def test_what_allows_nothing_can_be_stored_as_it_was_read(place: Place) -> None:
    changed = await place.owner.models.SetOrgModelPolicy(
        pb.SetOrgModelPolicyRequest(org_id=place.org_id, policy=pb.ModelPolicy(nothing_allowed=True))
    )
    assert (changed.policy.nothing_allowed, list(changed.policy.allowed_models)) == (True, [])
    assert await listed(place) == []
    assert await outcome(ask(place)) == MODEL_NOT_ALLOWED
