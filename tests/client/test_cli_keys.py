"""aiws for backends: keys are made for them, and used by them."""

import json
import time
from pathlib import Path

import grpc
import pytest

from aiworkspace.v1 import auth_pb2, org_pb2, workspace_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from tests.client.conftest import ORG, WORKSPACE, Aiws
from tests.client.scripted import KEY, ScriptedServer, answer, answers, failure

ACCOUNT = pb.ServiceAccount(
    user_id="user-1", org_id="org-1", name="Robot", role=org_pb2.ROLE_MEMBER, state=org_pb2.MEMBER_STATE_ACTIVE
)
API_KEY = pb.ApiKey(
    api_key_id="key-1",
    org_id="org-1",
    user_id="user-1",
    name="production",
    prefix=KEY[:13],
    permissions=["chat.read", "chat.send"],
    state=pb.API_KEY_STATE_ACTIVE,
)


def script(server: ScriptedServer) -> None:
    accounts = pb.ListServiceAccountsResponse(service_accounts=[ACCOUNT])
    server.script("ServiceAccountService.ListServiceAccounts", answer(accounts))
    created = pb.CreateServiceAccountResponse(service_account=ACCOUNT)
    server.script("ServiceAccountService.CreateServiceAccount", answer(created))
    server.script("ServiceAccountService.DeleteServiceAccount", answer(pb.DeleteServiceAccountResponse()))
    made = pb.CreateApiKeyResponse(api_key=API_KEY, secret=KEY)
    server.script("ServiceAccountService.CreateApiKey", answer(made))
    server.script("ServiceAccountService.ListApiKeys", answer(pb.ListApiKeysResponse(api_keys=[API_KEY])))
    rotated = pb.RotateApiKeyResponse(api_key=API_KEY, secret=KEY)
    server.script("ServiceAccountService.RotateApiKey", answer(rotated))
    server.script("ServiceAccountService.RevokeApiKey", answer(pb.RevokeApiKeyResponse(api_key=API_KEY)))


@pytest.mark.usefixtures("signed_in")
async def test_service_accounts_are_managed(server: ScriptedServer, aiws: Aiws) -> None:
    script(server)
    ran = await aiws("service-accounts", "create", "Robot", "--role", "viewer")
    assert (ran.returncode, ran.stdout) == (0, "user-1\n")
    assert server.calls[-1].request.role == org_pb2.ROLE_VIEWER
    ran = await aiws("service-accounts", "list")
    assert ran.stdout.splitlines()[1].split() == ["user-1", "Robot", "member", "active"]
    assert json.loads((await aiws("service-accounts", "list", "--json")).stdout)[0]["name"] == "Robot"
    ran = await aiws("service-accounts", "delete", "user-1", stdin="n\n")
    assert (ran.returncode, len(server.called("ServiceAccountService.DeleteServiceAccount"))) == (1, 0)
    assert (await aiws("service-accounts", "delete", "user-1", "--yes")).returncode == 0
    assert server.calls[-1].request.user_id == "user-1"


@pytest.mark.usefixtures("signed_in")
async def test_a_key_is_alone_on_standard_output(server: ScriptedServer, aiws: Aiws) -> None:
    script(server)
    ran = await aiws("api-keys", "create", "user-1", "production", "-p", "chat.read", "-p", "chat.send", "-d", "30")
    assert (ran.returncode, ran.stdout) == (0, KEY + "\n")
    assert KEY not in ran.stderr
    request = server.calls[-1].request
    assert (request.org_id, request.user_id, request.name) == ("org-1", "user-1", "production")
    assert (list(request.permissions), list(request.workspace_ids)) == (["chat.read", "chat.send"], [])
    assert abs(request.expire_time.seconds - time.time() - 30 * 86400) < 60
    ran = await aiws("api-keys", "rotate", "key-1", "--overlap", "60")
    assert (ran.returncode, ran.stdout) == (0, KEY + "\n")
    assert (server.calls[-1].request.api_key_id, server.calls[-1].request.overlap_seconds) == ("key-1", 60)
    assert not server.calls[-1].request.HasField("expire_time")
    line = (await aiws("api-keys", "list")).stdout.splitlines()[1].split()
    assert line == ["key-1", "production", KEY[:13], "user-1", "chat.read", "chat.send", "active"]
    assert (await aiws("api-keys", "revoke", "key-1")).returncode == 0
    assert (await aiws("api-keys", "create", "user-1", "production")).returncode == 2


@pytest.mark.usefixtures("signed_in")
async def test_a_key_that_did_not_arrive_is_not_passed_over(server: ScriptedServer, aiws: Aiws) -> None:
    server.script("ServiceAccountService.CreateApiKey", answer(pb.CreateApiKeyResponse(api_key=API_KEY)))
    ran = await aiws("api-keys", "create", "user-1", "production", "-p", "chat.read")
    assert (ran.returncode, ran.stdout) == (2, "")
    assert "key-1" in ran.stderr


@pytest.mark.usefixtures("signed_in")
async def test_a_backend_calls_with_its_key_and_has_choices_of_its_own(
    server: ScriptedServer, aiws: Aiws, environment: dict[str, str]
) -> None:
    environment["AIWS_API_KEY"] = KEY + "\n"
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(display_name="Robot"))))
    others = org_pb2.Org(org_id="org-2", name="Other")
    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse(orgs=[others])))
    found = workspace_pb2.ListWorkspacesResponse(workspaces=[WORKSPACE])
    server.script("WorkspaceService.ListWorkspaces", answer(found))
    ran = await aiws("whoami")
    assert (ran.returncode, "Robot" in ran.stdout) == (0, True)
    assert (await aiws("workspaces", "list")).returncode == 0
    assert server.calls[-1].request.org_id == "org-2"
    assert {call.token for call in server.calls[2:]} == {KEY}
    kept = Path(environment["XDG_CONFIG_HOME"], "aiws/credentials.json").read_text()
    assert KEY not in kept
    assert "access-1" in kept
    del environment["AIWS_API_KEY"]
    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse(orgs=[ORG])))
    assert (await aiws("workspaces", "list")).returncode == 0
    assert (server.calls[-1].request.org_id, server.calls[-1].token) == ("org-1", "access-1")


async def test_what_a_refused_key_means_is_said(
    server: ScriptedServer, aiws: Aiws, environment: dict[str, str]
) -> None:
    environment["AIWS_API_KEY"] = KEY
    server.script("AuthService.GetMe", answers(failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")))
    ran = await aiws("whoami")
    assert (ran.returncode, "AIWS_API_KEY" in ran.stderr, KEY in ran.stderr) == (3, True, False)
    refused = failure(grpc.StatusCode.PERMISSION_DENIED, "SESSION_REQUIRED", "This is for people.")
    server.script("OrgService.CreateOrg", answers(refused))
    ran = await aiws("orgs", "create", "Acme")
    assert (ran.returncode, "Unset AIWS_API_KEY" in ran.stderr) == (1, True)
    for command in (["login", "-e", "a@example.com", "--password-stdin"], ["logout"]):
        ran = await aiws(*command, stdin="x\n")
        assert (ran.returncode, "Unset it" in ran.stderr) == (2, True)
    environment["AIWS_API_KEY"] = "é" + KEY
    ran = await aiws("whoami")
    assert (ran.returncode, KEY in ran.stderr) == (2, False)


async def test_the_help_says_where_the_key_goes(aiws: Aiws) -> None:
    text = (await aiws("--help")).stdout
    assert "AIWS_API_KEY" in text
    assert "service-accounts" in text
    assert "api-keys" in text
