"""aiws models: what may be asked, with whose keys, and how."""

import json

import pytest

from aiworkspace.v1 import chat_pb2
from aiworkspace.v1 import model_pb2 as pb
from tests.client.conftest import Aiws
from tests.client.scripted import ScriptedServer, answer

MODEL = chat_pb2.Model(model="echo/echo", provider="echo", display_name="Echo", context_tokens=400_000)
KEY = pb.ProviderKey(provider="openai", hint="wxyz", creator_id="user-1")
SECRET = "sk-canary-wxyz"
POLICY = pb.ModelPolicy(
    allowed_models=["openai/*"],
    fallback_models=["openai/gpt-5"],
    continue_broken_answers=True,
    bounds=pb.ParameterBounds(max_temperature=0, max_output_tokens=500, seed_forbidden=True),
    limits=[pb.ModelLimit(model="openai/*", requests_per_minute=60, tokens_per_minute=90_000)],
    etag="7",
)

pytestmark = pytest.mark.usefixtures("signed_in")


async def test_models_of_the_server_and_of_a_workspace_are_listed(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("ChatService.ListModels", answer(chat_pb2.ListModelsResponse(models=[MODEL])))
    server.script("ModelService.ListWorkspaceModels", answer(pb.ListWorkspaceModelsResponse(models=[MODEL])))
    for command in (["models"], ["models", "list"], ["models", "list", "-w", "workspace-9"]):
        ran = await aiws(*command)
        assert ran.stdout.splitlines()[1].split() == ["echo/echo", "Echo", "400,000"]
    assert [call.request.workspace_id for call in server.called("ModelService.ListWorkspaceModels")] == [
        "workspace-1",
        "workspace-9",
    ]
    assert json.loads((await aiws("models", "--json")).stdout)[0]["model"] == "echo/echo"
    assert json.loads((await aiws("models", "list", "--json")).stdout)[0]["model"] == "echo/echo"


async def test_providers_that_did_not_answer_are_named(server: ScriptedServer, aiws: Aiws) -> None:
    away = chat_pb2.ListModelsResponse(models=[MODEL], unreachable_providers=["local"])
    server.script("ChatService.ListModels", answer(away))
    ran = await aiws("models")
    assert (ran.returncode, "local" in ran.stderr, "echo/echo" in ran.stdout) == (0, True, True)


async def test_a_key_comes_from_standard_input_or_from_the_environment(
    server: ScriptedServer, aiws: Aiws, environment: dict[str, str]
) -> None:
    server.script("ModelService.SetProviderKey", answer(pb.SetProviderKeyResponse(provider_key=KEY)))
    wanted = pb.SetProviderKeyRequest(org_id="org-1", provider="openai", secret=SECRET)
    ran = await aiws("models", "keys", "set", "openai", stdin=f"{SECRET}\n")
    assert (ran.returncode, server.calls[-1].request) == (0, wanted)
    assert "wxyz" in ran.stderr
    assert SECRET not in ran.stdout + ran.stderr
    environment["AIWS_PROVIDER_KEY"] = SECRET
    assert (await aiws("models", "keys", "set", "openai")).returncode == 0
    assert server.calls[-1].request == wanted


async def test_a_key_is_not_taken_from_the_command_line(server: ScriptedServer, aiws: Aiws) -> None:
    assert (await aiws("models", "keys", "set", "openai", SECRET)).returncode == 2
    assert (await aiws("models", "keys", "set", "openai")).returncode == 2
    assert (await aiws("models", "keys", "set", "nobody", stdin=f"{SECRET}\n")).returncode == 2
    assert server.called("ModelService.SetProviderKey") == []


async def test_keys_are_listed_and_deleted(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("ModelService.ListProviderKeys", answer(pb.ListProviderKeysResponse(provider_keys=[KEY])))
    server.script("ModelService.DeleteProviderKey", answer(pb.DeleteProviderKeyResponse()))
    assert (await aiws("models", "keys", "list")).stdout.splitlines()[1].split() == ["openai", "…wxyz", "user-1"]
    assert json.loads((await aiws("models", "keys", "list", "--json")).stdout)[0]["hint"] == "wxyz"
    assert (await aiws("models", "keys", "delete", "openai")).returncode == 0
    assert server.calls[-1].request == pb.DeleteProviderKeyRequest(org_id="org-1", provider="openai")


async def test_a_policy_is_shown(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("ModelService.GetOrgModelPolicy", answer(pb.GetOrgModelPolicyResponse(policy=POLICY)))
    effective = pb.ModelPolicy(nothing_allowed=True, hedge_after_seconds=2.5)
    both = pb.GetWorkspaceModelPolicyResponse(policy=POLICY, effective=effective)
    server.script("ModelService.GetWorkspaceModelPolicy", answer(both))
    ran = await aiws("models", "policy", "show")
    shown = [line.split() for line in ran.stdout.splitlines()]
    assert shown[0] == ["ORGANIZATION"]
    for text in ("models openai/*", "max temperature 0", "seed forbidden", "continue broken answers yes"):
        assert text.split() in shown
    assert ["limits", "per", "minute", "openai/*:", "60", "requests", "and", "90,000", "tokens"] in shown
    ran = await aiws("models", "policy", "show", "-w", "workspace-1")
    assert ran.stdout.splitlines()[1].split() == ["models", "openai/*", "none"]
    assert "after 2.5 s" in ran.stdout
    shown_json = json.loads((await aiws("models", "policy", "show", "-w", "workspace-1", "--json")).stdout)
    assert shown_json["effective"]["nothing_allowed"] is True


async def test_what_is_given_changes_and_the_rest_stays(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("ModelService.GetOrgModelPolicy", answer(pb.GetOrgModelPolicyResponse(policy=POLICY)))
    server.script("ModelService.SetOrgModelPolicy", answer(pb.SetOrgModelPolicyResponse(policy=POLICY)))
    options = ["--allow", "echo/*", "--allow", "openai/gpt-5", "--max-temperature", "0.5", "--allow-seed"]
    options += ["--limit", "echo/echo=5", "--limit", "openai/*=/1000", "--max-effort", "low", "--no-continue"]
    ran = await aiws("models", "policy", "set", *options)
    assert ran.returncode == 0, ran.stderr
    changed = pb.ModelPolicy(
        allowed_models=["echo/*", "openai/gpt-5"],
        fallback_models=["openai/gpt-5"],
        bounds=pb.ParameterBounds(
            max_temperature=0.5, max_output_tokens=500, max_reasoning_effort=chat_pb2.REASONING_EFFORT_LOW
        ),
        limits=[
            pb.ModelLimit(model="echo/echo", requests_per_minute=5),
            pb.ModelLimit(model="openai/*", tokens_per_minute=1000),
        ],
        etag="7",
    )
    assert server.calls[-1].request == pb.SetOrgModelPolicyRequest(org_id="org-1", policy=changed)


async def test_a_workspaces_policy_is_changed_where_it_is_named(server: ScriptedServer, aiws: Aiws) -> None:
    both = pb.GetWorkspaceModelPolicyResponse(policy=POLICY)
    server.script("ModelService.GetWorkspaceModelPolicy", answer(both))
    server.script("ModelService.SetWorkspaceModelPolicy", answer(pb.SetWorkspaceModelPolicyResponse()))
    options = ["--allow-all", "--no-fallback", "--no-limits", "--max-effort", "any"]
    assert (await aiws("models", "policy", "set", "-w", "workspace-1", *options)).returncode == 0
    request = server.calls[-1].request
    assert request.workspace_id == "workspace-1"
    kept = pb.ModelPolicy(continue_broken_answers=True, bounds=POLICY.bounds, etag="7")
    assert request.policy == kept


@pytest.mark.parametrize(("option", "allowed"), [(("--allow", "echo/*"), ["echo/*"]), (("--allow-all",), [])])
async def test_a_policy_that_allows_nothing_can_be_opened(
    server: ScriptedServer, aiws: Aiws, option: tuple[str, ...], allowed: list[str]
) -> None:
    policy = pb.ModelPolicy(nothing_allowed=True)
    server.script("ModelService.GetOrgModelPolicy", answer(pb.GetOrgModelPolicyResponse(policy=policy)))
    server.script("ModelService.SetOrgModelPolicy", answer(pb.SetOrgModelPolicyResponse(policy=policy)))
    assert (await aiws("models", "policy", "set", *option)).returncode == 0
    request = server.calls[-1].request
    assert (request.policy.nothing_allowed, list(request.policy.allowed_models)) == (False, allowed)


@pytest.mark.parametrize("limit", ["echo/echo", "echo=5", "echo/echo=many", "echo/echo=5/"])
async def test_a_limit_that_is_none_is_refused(server: ScriptedServer, aiws: Aiws, limit: str) -> None:
    ran = await aiws("models", "policy", "set", "--limit", limit)
    assert (ran.returncode, "MODEL=REQUESTS" in ran.stderr) == (2, True)
    assert server.called("ModelService.GetOrgModelPolicy") == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ((), "nothing to change"),
        (("--allow", "echo/*", "--allow-all"), "cannot be combined"),
        (("--fallback", "echo/echo", "--no-fallback"), "cannot be combined"),
        (("--limit", "echo/echo=5", "--no-limits"), "cannot be combined"),
        (("--limit", "echo/echo=0/0"), "limits nothing"),
        (("--limit", "echo/echo=99999999999"), "limits nothing"),
        (("--max-output-tokens", "99999999999999"), "--max-output-tokens"),
        (("--max-stop-count", "5"), "--max-stop-count"),
    ],
)
async def test_a_change_that_makes_no_sense_is_wrong_usage(
    server: ScriptedServer, aiws: Aiws, options: tuple[str, ...], said: str
) -> None:
    ran = await aiws("models", "policy", "set", *options)
    assert (ran.returncode, said in ran.stderr) == (2, True), ran.stderr
    assert server.called("ModelService.GetOrgModelPolicy") == []
