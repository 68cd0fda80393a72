"""Every method by reflection: each audited call leaves exactly one entry, and no change is made without one."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import access_pb2, account_pb2, auth_pb2, org_pb2, service_account_pb2, team_pb2, workspace_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.audit.conftest import Company
from tests.support.audit_log import until_recorded
from tests.support.belongings import keep_documents
from tests.support.budgets import make_budget
from tests.support.documents import begin, fail
from tests.support.erasures import erase_org
from tests.support.exports import export_org
from tests.support.orgs import delete_org, remove_member, update_member
from tests.support.outcomes import PASSWORD_WRONG, PERMISSION_MISSING, outcome
from tests.support.people import NewPerson, Person, join, make_conversation, make_place, people
from tests.support.postgres import as_owner, sql, until_blocked, until_no_jobs
from tests.support.settings import WEBHOOK_HOST, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.surface import ENDPOINTS, Endpoint, name_of, names_documents
from tests.support.waiting import until
from tests.support.webhooks import make_endpoint

PUBLIC = options.ACCESS_MODE_PUBLIC


def is_audited(endpoint: Endpoint) -> bool:
    return bool(endpoint.descriptor.GetOptions().Extensions[options.audited])


AUDITED = [endpoint for endpoint in ENDPOINTS if is_audited(endpoint)]
IN_ORG = [endpoint for endpoint in AUDITED if endpoint.access.scope]


@dataclass(frozen=True)
class Scene:
    """An organization for calls that change nothing, with ids for requests of any method."""

    owner: Person
    viewer: Person
    outsider: Person
    ids: dict[str, str]


async def _set_up(new_person: NewPerson) -> Scene:
    owner, viewer, outsider = await new_person(), await new_person(), await new_person()
    return Scene(owner, viewer, outsider, await _belongings(owner, viewer, org_pb2.ROLE_VIEWER))


@pytest.fixture(scope="module")
async def scene(new_person: NewPerson) -> Scene:
    return await _set_up(new_person)


@pytest.fixture(scope="module")
async def other_scene(other_person: NewPerson) -> Scene:
    """At the server that cannot record."""
    return await _set_up(other_person)


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
async def test_an_audited_call_leaves_one_entry_and_others_none(
    endpoint: Endpoint, stores: Stores, new_person: NewPerson, scene: Scene
) -> None:
    if endpoint.reads:
        owner, ids = scene.owner, scene.ids
    else:
        owner, member = await new_person(), await new_person()
        ids = await _belongings(owner, member, documents=names_documents(endpoint))
    if "export_id" in endpoint.descriptor.input_type.fields_by_name:
        ids = ids | {"export_id": (await export_org(owner, ids["org_id"])).export_id}
    if name_of(endpoint) == "DocumentService.RetryDocument":
        await fail(stores, ids["document_id"])
    if name_of(endpoint) == "DataService.EraseUser":  # of members there are no erasures
        await remove_member(owner, ids["org_id"], member)
    code, entries = await _call(stores, endpoint, owner, ids)
    knows_account = endpoint.access.mode != PUBLIC or "email" in endpoint.descriptor.input_type.fields_by_name
    # Strangers who register an address that has an account must not fill the log of its owner.
    recorded = is_audited(endpoint) and knows_account and name_of(endpoint) != "AuthService.Register"
    expected = [(name_of(endpoint).replace(".", "/"), code)] if recorded else []
    assert entries == expected
    # This machine's pages are not requested: tests/documents/test_import.py has a server that does.
    succeeds = endpoint in IN_ORG and name_of(endpoint) != "DocumentService.ImportWebPage"
    assert code == "OK" or not succeeds, "a success leaves one entry, too"


@pytest.fixture(scope="module")
async def viewers_own(scene: Scene) -> dict[str, str]:
    """What somebody began who may do so no more."""
    await update_member(scene.owner, scene.ids["org_id"], scene.viewer, role=org_pb2.ROLE_MEMBER)
    workspace_id = scene.ids["workspace_id"]
    conversation_id = await make_conversation(scene.viewer, workspace_id)
    upload_id = await begin(scene.viewer, workspace_id, b"on its way")
    await update_member(scene.owner, scene.ids["org_id"], scene.viewer, role=org_pb2.ROLE_VIEWER)
    return {"conversation_id": conversation_id, "upload_id": upload_id}


@pytest.mark.parametrize("endpoint", IN_ORG, ids=name_of)
async def test_a_call_without_permission_leaves_one_entry(
    endpoint: Endpoint, stores: Stores, scene: Scene, viewers_own: dict[str, str]
) -> None:
    ids = scene.ids | viewers_own | {"user_id": scene.owner.user_id}
    code, entries = await _call(stores, endpoint, scene.viewer, ids)
    assert (code, entries) == ("PERMISSION_DENIED", [(name_of(endpoint).replace(".", "/"), "PERMISSION_DENIED")])


@pytest.mark.parametrize("endpoint", IN_ORG, ids=name_of)
async def test_an_outsiders_call_leaves_none(endpoint: Endpoint, stores: Stores, scene: Scene) -> None:
    assert await _call(stores, endpoint, scene.outsider, scene.ids) == ("NOT_FOUND", [])


@pytest.mark.parametrize("endpoint", AUDITED, ids=name_of)
async def test_without_its_entry_no_change_is_made(
    endpoint: Endpoint, other_stores: Stores, other_scene: Scene
) -> None:
    async with _unable_to_record(other_stores):
        before = await _tables(other_stores)
        code, _ = await _call(other_stores, endpoint, other_scene.owner, other_scene.ids)
        assert code != "OK"
        assert await _tables(other_stores) == before


@pytest.mark.parametrize("method", ["VerifyEmail", "ResetPassword"])
async def test_what_a_mailed_token_changes_is_recorded_with_it(
    method: str, other_stores: Stores, other_person: NewPerson
) -> None:
    person = await other_person()
    fields = {"token": await _mailed_token(other_stores, person, "verify" if method == "VerifyEmail" else "reset")}
    if method == "ResetPassword":
        fields["new_password"] = "another passphrase, quite new"
    request = getattr(account_pb2, f"{method}Request")(**fields)
    async with _unable_to_record(other_stores):
        before = await _tables(other_stores)
        assert await outcome(getattr(person.accounts, method)(request)) == "INTERNAL INTERNAL"
        await until_recorded()  # what cannot be recorded now must not come after the success
        assert await _tables(other_stores) == before
    await getattr(person.accounts, method)(request)
    query = "SELECT method, code, user_id FROM audit_events WHERE chain_id = %s ORDER BY sequence DESC LIMIT 1"
    assert await sql(other_stores, query, person.user_id) == [(f"AccountService/{method}", "OK", None)]


async def test_a_refusal_that_cannot_be_recorded_is_still_that_refusal(
    other_stores: Stores, other_scene: Scene
) -> None:
    async with _unable_to_record(other_stores):
        assert await outcome(delete_org(other_scene.viewer, other_scene.ids["org_id"])) == PERMISSION_MISSING


async def test_a_call_whose_caller_goes_away_is_recorded_and_undone(company: Company, stores: Stores) -> None:
    request = workspace_pb2.CreateWorkspaceRequest(org_id=company.org_id, name="W")
    async with as_owner(stores) as database, database.transaction():
        await database.execute("SELECT 1 FROM audit_heads WHERE chain_id = %s FOR UPDATE", (company.org_id,))
        call = asyncio.ensure_future(company.owner.workspaces.CreateWorkspace(request))
        await until_blocked(stores, call)
        call.cancel()
        await asyncio.wait([call])

    async def recorded() -> bool:
        return len(await company.log.events()) > 1

    await until(recorded)
    entries = await company.log.events()
    assert [event.code for event in entries] == ["CANCELLED", "OK"]
    listed = await company.owner.workspaces.ListWorkspaces(workspace_pb2.ListWorkspacesRequest(org_id=company.org_id))
    assert not listed.workspaces
    assert (await company.log.verify()).valid


async def test_a_server_that_stops_has_recorded_what_it_answered(stores: Stores) -> None:
    own = await other_databases(stores, "audit_stop")
    settings = Settings.model_validate(store_settings(own))
    async with running(settings, migrating=True) as app, people(app.address) as new_person:
        person = await new_person()
        wrong = auth_pb2.LoginRequest(email=person.email, password="not the right password")
        assert await outcome(person.auth.Login(wrong)) == PASSWORD_WRONG
    assert await sql(own, "SELECT code FROM audit_events ORDER BY sequence") == [("OK",), ("UNAUTHENTICATED",)]


async def _mailed_token(stores: Stores, person: Person, purpose: str) -> str:
    """A token as one that was mailed to the person."""
    await until_no_jobs(stores)  # the one that the registration mails ends those before it
    token = uuid.uuid4().hex
    row = "INSERT INTO email_tokens VALUES (%s, %s, %s, %s, sha256(%s), now(), now() + interval '1 hour')"
    await sql(stores, row, uuid.uuid4(), person.user_id, purpose, person.email, token.encode())
    return token


async def _belongings(
    owner: Person, member: Person, role: org_pb2.Role.ValueType = org_pb2.ROLE_MEMBER, *, documents: bool = True
) -> dict[str, str]:
    """Ids of an organization's things, for a request of any method, or of any that names no documents."""
    place = await make_place(owner)
    await join(owner, place.org_id, member, role)
    org_id, permissions = place.org_id, ["workspace.read"]
    invitation = org_pb2.CreateInvitationRequest(org_id=org_id, email="i@example.com", role=org_pb2.ROLE_VIEWER)
    team = await owner.teams.CreateTeam(team_pb2.CreateTeamRequest(org_id=org_id, name="T"))
    custom = access_pb2.CreateCustomRoleRequest(org_id=org_id, name="R", permissions=permissions)
    account = service_account_pb2.CreateServiceAccountRequest(org_id=org_id, name="S", role=org_pb2.ROLE_MEMBER)
    account_id = (await owner.service_accounts.CreateServiceAccount(account)).service_account.user_id
    key = service_account_pb2.CreateApiKeyRequest(org_id=org_id, user_id=account_id, name="K", permissions=permissions)
    in_workspace = workspace_pb2.SetWorkspaceMemberRequest(
        workspace_id=place.workspace_id, user_id=member.user_id, role=workspace_pb2.WORKSPACE_ROLE_VIEWER
    )
    await owner.workspaces.SetWorkspaceMember(in_workspace)
    in_team = team_pb2.AddTeamMemberRequest(org_id=org_id, team_id=team.team.team_id, user_id=member.user_id)
    await owner.teams.AddTeamMember(in_team)
    budget = await make_budget(owner, org_id, 10**12)
    webhook = (await make_endpoint(owner, org_id, f"https://{WEBHOOK_HOST}/", event_types=[1])).webhook_endpoint
    return {
        **(await _documents(owner, place.workspace_id) if documents else {}),
        "budget_id": budget.budget_id,
        "erasure_id": (await erase_org(owner, org_id)).erasure.erasure_id,
        "webhook_endpoint_id": webhook.webhook_endpoint_id,
        "run_id": str(uuid.uuid4()),
        "team_id": team.team.team_id,
        "custom_role_id": (await owner.access.CreateCustomRole(custom)).role.custom_role_id,
        "service_account_id": account_id,
        "api_key_id": (await owner.service_accounts.CreateApiKey(key)).api_key.api_key_id,
        "org_id": place.org_id,
        "workspace_id": place.workspace_id,
        "conversation_id": place.conversation_id,
        "user_id": member.user_id,
        "invitation_id": (await owner.orgs.CreateInvitation(invitation)).invitation.invitation_id,
        "session_id": owner.tokens.session_id,
    }


async def _documents(owner: Person, workspace_id: str) -> dict[str, str]:
    kept = await keep_documents(owner, workspace_id)
    return {**kept, "upload_id": await begin(owner, workspace_id, b"on its way")}


async def _call(
    stores: Stores, endpoint: Endpoint, person: Person, ids: dict[str, str]
) -> tuple[str, list[tuple[str, str]]]:
    """The status code, and method and code of each entry that there is of the call."""
    request, call_id = endpoint.request(_fitting(endpoint, ids)), str(uuid.uuid4())
    if "visibility" in request.DESCRIPTOR.fields_by_name:
        request.visibility = workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS
    if "permissions" in request.DESCRIPTOR.fields_by_name:
        request.permissions.append("workspace.read")
    if "email" in request.DESCRIPTOR.fields_by_name and endpoint.access.mode == PUBLIC:
        request.email = person.email
    if "update_mask" in request.DESCRIPTOR.fields_by_name:
        request.update_mask.paths.append(_first_changeable(request))
    outcome = await endpoint.call(person, request, (("x-request-id", call_id),))
    assert outcome.code != grpc.StatusCode.UNKNOWN
    if endpoint.access.mode == PUBLIC:
        await until_recorded()  # what was refused is so after the answer
    rows = await sql(stores, "SELECT method, code FROM audit_events WHERE request_id = %s", call_id)
    return outcome.code.name, [(method, code) for method, code in rows]


def _fitting(endpoint: Endpoint, ids: dict[str, str]) -> dict[str, str]:
    """Those that may stand in one request."""
    service = endpoint.descriptor.containing_service.name
    if service == "ServiceAccountService":
        ids = ids | {"user_id": ids["service_account_id"]}
    if service == "BudgetService":  # the organization's
        return {name: ids[name] for name in ("org_id", "budget_id")}
    left_out = {"WorkspaceService": "team_id", "AccessService": ""}.get(service, "custom_role_id")
    return {name: value for name, value in ids.items() if name != left_out}


def _first_changeable(request: Any) -> str:
    """A field of the resource in an update that anybody may set."""
    resource = next(value for _, value in request.ListFields() if hasattr(value, "DESCRIPTOR"))
    names = "name", "display_name", "role", "title", "hard", "enabled"
    return next(name for name in names if name in resource.DESCRIPTOR.fields_by_name)


@asynccontextmanager
async def _unable_to_record(stores: Stores) -> AsyncIterator[None]:
    await sql(stores, "REVOKE INSERT ON audit_events FROM aiworkspace_app")
    try:
        yield
    finally:
        await sql(stores, "GRANT INSERT ON audit_events TO aiworkspace_app")


async def _tables(stores: Stores) -> dict[str, Any]:
    """A hash of each table's content, but for jobs, leases of servers and deliveries, which go on by themselves."""
    others = "^procrastinate|^servers$|^webhook_deliveries$"
    ours = f"SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename !~ '{others}'"
    names = await sql(stores, ours)
    return {
        name: (await sql(stores, f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} t"))[0][0]
        for (name,) in names
    }
