"""Answers that are kept for repeated requests: what is in them, what a repeated call gets, how long they are kept."""

import uuid
from typing import Any

import pytest

from aiworkspace.v1 import (
    access_pb2,
    chat_pb2,
    org_pb2,
    service_account_pb2,
    team_pb2,
    webhook_pb2,
    workspace_pb2,
)
from aiworkspace_server.app import App
from aiworkspace_server.kit.contract import clear_sensitive, is_sensitive, restore_sensitive
from aiworkspace_server.kit.idempotency import purge_idempotent_replies
from aiworkspace_server.kit.passes import Pass
from tests.support.people import NewPerson, Place
from tests.support.postgres import sql
from tests.support.settings import WEBHOOK_HOST
from tests.support.stores import Stores
from tests.support.surface import ENDPOINTS, Endpoint, name_of, text_fields

# Texts in answers that the server makes, or that it has checked against what there is.
_HARMLESS = ("etag", "prefix", "last_use_address", "model", "default_model", "permissions", "currency_code", "sha256")
KEPT = [endpoint for endpoint in ENDPOINTS if "request_id" in endpoint.descriptor.input_type.fields_by_name]
KEPT = [
    endpoint
    for endpoint in KEPT
    if not endpoint.descriptor.server_streaming and name_of(endpoint) != "AuthService.Register"
]


@pytest.mark.parametrize("endpoint", KEPT, ids=name_of)
def test_every_text_of_a_kept_answer_is_an_id_or_sensitive(endpoint: Endpoint) -> None:
    for path, field in text_fields(endpoint.descriptor.output_type):
        harmless = field.name in _HARMLESS or field.name.endswith(("_id", "_ids"))
        assert harmless or is_sensitive(field), f"{path} would be stored for a week"


def test_sensitive_fields_are_cleared_at_every_depth() -> None:
    page = chat_pb2.ListMessagesResponse(
        messages=[chat_pb2.Message(message_id="m", contents=[chat_pb2.Content(text="said")])]
    )
    clear_sensitive(page)
    assert page == chat_pb2.ListMessagesResponse(
        messages=[chat_pb2.Message(message_id="m", contents=[chat_pb2.Content()])]
    )


def test_what_was_cleared_comes_back_from_the_request() -> None:
    request = workspace_pb2.CreateWorkspaceRequest(name="N", system_prompt="P", default_model="m")
    answer = workspace_pb2.CreateWorkspaceResponse(workspace=workspace_pb2.Workspace(workspace_id="w"))
    restore_sensitive(answer, request)
    wanted = workspace_pb2.Workspace(workspace_id="w", name="N", system_prompt="P")
    assert answer == workspace_pb2.CreateWorkspaceResponse(workspace=wanted)


def requests(place: Place, user_id: str, api_key_id: str) -> dict[str, tuple[str, Any]]:
    """One of each method that keeps its answer, with the name of its stub."""
    org: dict[str, Any]
    robot: dict[str, Any]
    org, robot = {"org_id": place.org_id}, {"org_id": place.org_id, "user_id": user_id}
    return {
        "CreateOrg": ("orgs", org_pb2.CreateOrgRequest(name="Acme & co")),
        "CreateInvitation": (
            "orgs",
            org_pb2.CreateInvitationRequest(**org, email="An.Address@example.com", role=org_pb2.ROLE_MEMBER),
        ),
        "CreateWorkspace": ("workspaces", workspace_pb2.CreateWorkspaceRequest(**org, name="W", system_prompt="P")),
        "CreateConversation": (
            "chat",
            chat_pb2.CreateConversationRequest(workspace_id=place.workspace_id, title="Title"),
        ),
        "CreateTeam": ("teams", team_pb2.CreateTeamRequest(**org, name="T")),
        "CreateCustomRole": ("access", access_pb2.CreateCustomRoleRequest(**org, name="R", permissions=["org.read"])),
        "CreateServiceAccount": (
            "service_accounts",
            service_account_pb2.CreateServiceAccountRequest(**org, name="S", role=org_pb2.ROLE_MEMBER),
        ),
        "CreateApiKey": (
            "service_accounts",
            service_account_pb2.CreateApiKeyRequest(**robot, name="K", permissions=["org.read"]),
        ),
        "CreateWebhookEndpoint": (
            "webhooks",
            webhook_pb2.CreateWebhookEndpointRequest(**org, url=f"https://{WEBHOOK_HOST}/", description="D"),
        ),
        "RotateApiKey": ("service_accounts", service_account_pb2.RotateApiKeyRequest(**org, api_key_id=api_key_id)),
    }


@pytest.mark.parametrize("method", requests(Place(None, "", "", ""), "", ""))  # type: ignore[arg-type]
async def test_a_repeated_call_gets_the_first_answer_and_the_store_has_no_text(
    method: str, place: Place, stores: Stores
) -> None:
    accounts = place.owner.service_accounts
    made = await accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(org_id=place.org_id, name="Robot", role=org_pb2.ROLE_ADMIN)
    )
    user_id = made.service_account.user_id
    key = await accounts.CreateApiKey(
        service_account_pb2.CreateApiKeyRequest(
            org_id=place.org_id, user_id=user_id, name="Key of a robot", permissions=["org.read"]
        )
    )
    stub, request = requests(place, user_id, key.api_key.api_key_id)[method]
    request.request_id = str(uuid.uuid4())
    call = getattr(getattr(place.owner, stub), method)
    first, again = await call(request), await call(request)
    if "secret" in first.DESCRIPTOR.fields_by_name:
        assert again.secret == ""
        again.secret = first.secret
    assert again == first
    ((reply,),) = await sql(stores, "SELECT reply FROM replies WHERE request_id = %s", request.request_id)
    stored = type(first).FromString(reply)
    assert not [path for path, field in text_fields(stored.DESCRIPTOR) if is_sensitive(field) and _at(stored, path)]


def _at(message: Any, path: str) -> Any:
    for name in path.split("."):
        message = getattr(message, name)
    return message


async def test_a_repeated_acceptance_names_the_organization(place: Place, new_person: NewPerson) -> None:
    person = await new_person()
    invited = await place.owner.orgs.CreateInvitation(
        org_pb2.CreateInvitationRequest(org_id=place.org_id, email=person.email, role=org_pb2.ROLE_MEMBER)
    )
    request = org_pb2.AcceptInvitationRequest(token=invited.token, request_id=str(uuid.uuid4()))
    first = await person.orgs.AcceptInvitation(request)
    assert first.org.name == "Acme"
    assert await person.orgs.AcceptInvitation(request) == first


async def test_an_answer_is_kept_for_seven_days(place: Place, app: App, stores: Stores) -> None:
    make = [team_pb2.CreateTeamRequest(org_id=place.org_id, name="T", request_id=str(uuid.uuid4())) for _ in range(2)]
    old, young = [await place.owner.teams.CreateTeam(request) for request in make]
    age = "UPDATE replies SET create_time = now() - %s::interval WHERE request_id = %s"
    await sql(stores, age, "7 days 1 minute", make[0].request_id)
    await sql(stores, age, "6 days 23 hours", make[1].request_id)
    await purge_idempotent_replies(app.db, Pass("purge"))
    assert (await place.owner.teams.CreateTeam(make[1])).team.team_id == young.team.team_id
    assert (await place.owner.teams.CreateTeam(make[0])).team.team_id != old.team.team_id
