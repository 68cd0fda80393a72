"""Every method by reflection: each audited call leaves exactly one entry, and no change is made without one."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import auth_pb2, org_pb2, workspace_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import running
from aiworkspace_server.settings import Settings
from tests.audit.conftest import Company
from tests.backdoor import as_owner, sql, until_blocked
from tests.conftest import Stores, other_databases, store_settings
from tests.contracts.surface import ENDPOINTS, Endpoint, name_of
from tests.people import NewPerson, Person, join, make_conversation, make_place, people
from tests.refusals import PASSWORD_WRONG, PERMISSION_MISSING, outcome

PUBLIC = options.ACCESS_MODE_PUBLIC


def is_audited(endpoint: Endpoint) -> bool:
    return bool(endpoint.descriptor.GetOptions().Extensions[options.audited])


AUDITED = [endpoint for endpoint in ENDPOINTS if is_audited(endpoint)]
IN_ORG = [endpoint for endpoint in AUDITED if endpoint.access.scope]


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
async def test_an_audited_call_leaves_one_entry_and_others_none(
    endpoint: Endpoint, stores: Stores, new_person: NewPerson
) -> None:
    owner, member = await new_person(), await new_person()
    code, entries = await _call(stores, endpoint, owner, await _belongings(owner, member))
    knows_account = endpoint.access.mode != PUBLIC or "email" in endpoint.descriptor.input_type.fields_by_name
    expected = [(name_of(endpoint).replace(".", "/"), code)] if is_audited(endpoint) and knows_account else []
    assert entries == expected


@pytest.mark.parametrize("endpoint", IN_ORG, ids=name_of)
async def test_a_call_without_permission_leaves_one_entry(
    endpoint: Endpoint, stores: Stores, new_person: NewPerson
) -> None:
    owner, viewer = await new_person(), await new_person()
    ids = await _belongings(owner, viewer)
    ids |= {"conversation_id": await make_conversation(viewer, ids["workspace_id"]), "user_id": owner.user_id}
    request = org_pb2.UpdateMemberRequest(
        member=org_pb2.Member(org_id=ids["org_id"], user_id=viewer.user_id, role=org_pb2.ROLE_VIEWER)
    )
    request.update_mask.paths.append("role")
    await owner.orgs.UpdateMember(request)
    code, entries = await _call(stores, endpoint, viewer, ids)
    assert (code, entries) == ("PERMISSION_DENIED", [(name_of(endpoint).replace(".", "/"), "PERMISSION_DENIED")])


@pytest.mark.parametrize("endpoint", IN_ORG, ids=name_of)
async def test_an_outsiders_call_leaves_none(endpoint: Endpoint, stores: Stores, new_person: NewPerson) -> None:
    owner, member, outsider = await new_person(), await new_person(), await new_person()
    assert await _call(stores, endpoint, outsider, await _belongings(owner, member)) == ("NOT_FOUND", [])


@pytest.mark.parametrize("endpoint", AUDITED, ids=name_of)
async def test_without_its_entry_no_change_is_made(
    endpoint: Endpoint, other_stores: Stores, other_person: NewPerson
) -> None:
    owner, member = await other_person(), await other_person()
    ids = await _belongings(owner, member)
    async with _unable_to_record(other_stores):
        before = await _tables(other_stores)
        code, _ = await _call(other_stores, endpoint, owner, ids)
        assert code != "OK"
        assert await _tables(other_stores) == before


async def test_a_refusal_that_cannot_be_recorded_is_still_that_refusal(
    other_stores: Stores, other_person: NewPerson
) -> None:
    owner, viewer = await other_person(), await other_person()
    ids = await _belongings(owner, viewer, org_pb2.ROLE_VIEWER)
    async with _unable_to_record(other_stores):
        request = org_pb2.DeleteOrgRequest(org_id=ids["org_id"])
        assert await outcome(viewer.orgs.DeleteOrg(request)) == PERMISSION_MISSING


async def test_a_call_whose_caller_goes_away_is_recorded_and_undone(company: Company, stores: Stores) -> None:
    request = workspace_pb2.CreateWorkspaceRequest(org_id=company.org_id, name="W")
    async with as_owner(stores) as database, database.transaction():
        await database.execute("SELECT 1 FROM audit_heads WHERE chain_id = %s FOR UPDATE", (company.org_id,))
        call = asyncio.ensure_future(company.owner.workspaces.CreateWorkspace(request))
        await until_blocked(stores, call)
        call.cancel()
        await asyncio.wait([call])
    entries: list[Any] = []
    for _ in range(500):
        if len(entries := await company.log.events()) > 1:
            break
        await asyncio.sleep(0.02)
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


async def _belongings(
    owner: Person, member: Person, role: org_pb2.Role.ValueType = org_pb2.ROLE_MEMBER
) -> dict[str, str]:
    """Ids of an organization's things, for a request of any method."""
    place = await make_place(owner)
    await join(owner, place.org_id, member, role)
    invitation = org_pb2.CreateInvitationRequest(org_id=place.org_id, email="i@example.com", role=org_pb2.ROLE_VIEWER)
    return {
        "org_id": place.org_id,
        "workspace_id": place.workspace_id,
        "conversation_id": place.conversation_id,
        "user_id": member.user_id,
        "invitation_id": (await owner.orgs.CreateInvitation(invitation)).invitation.invitation_id,
        "session_id": owner.tokens.session_id,
    }


async def _call(
    stores: Stores, endpoint: Endpoint, person: Person, ids: dict[str, str]
) -> tuple[str, list[tuple[str, str]]]:
    """The status code, and method and code of each entry that there is of the call."""
    request, call_id = endpoint.request(ids), str(uuid.uuid4())
    if "email" in request.DESCRIPTOR.fields_by_name and endpoint.access.mode == PUBLIC:
        request.email = person.email
    if "update_mask" in request.DESCRIPTOR.fields_by_name:
        request.update_mask.paths.append(_first_changeable(request))
    outcome = await endpoint.call(person, request, (("x-request-id", call_id),))
    assert outcome.code != grpc.StatusCode.UNKNOWN
    if endpoint.access.mode == PUBLIC:
        await asyncio.sleep(0.3)  # what was refused is recorded after the answer
    rows = await sql(stores, "SELECT method, code FROM audit_events WHERE request_id = %s", call_id)
    return outcome.code.name, [(method, code) for method, code in rows]


def _first_changeable(request: Any) -> str:
    """A field of the resource in an update that anybody may set."""
    resource = next(value for _, value in request.ListFields() if hasattr(value, "DESCRIPTOR"))
    return next(
        name for name in ("name", "display_name", "role", "title") if name in resource.DESCRIPTOR.fields_by_name
    )


@asynccontextmanager
async def _unable_to_record(stores: Stores) -> AsyncIterator[None]:
    await sql(stores, "REVOKE INSERT ON audit_events FROM aiworkspace_app")
    try:
        yield
    finally:
        await sql(stores, "GRANT INSERT ON audit_events TO aiworkspace_app")


async def _tables(stores: Stores) -> dict[str, Any]:
    """A hash of each table's content."""
    names = await sql(stores, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {
        name: (await sql(stores, f"SELECT md5(string_agg(t::text, '' ORDER BY t::text)) FROM {name} t"))[0][0]
        for (name,) in names
    }
