"""What an entry says, and in whose log it is."""

import asyncio
import uuid
from datetime import UTC, datetime
from typing import Any

from aiworkspace.v1 import account_pb2, audit_pb2, auth_pb2, chat_pb2, org_pb2, workspace_pb2
from tests.audit.conftest import Company
from tests.support.accounts import login
from tests.support.audit_log import Log, account_event, account_events, until_recorded
from tests.support.outcomes import INVALID, NOT_FOUND, OK, PASSWORD_WRONG, PERMISSION_MISSING, outcome
from tests.support.pagination import read_all
from tests.support.people import PASSWORD, NewPerson, Person, join, make_org, make_place, make_workspace
from tests.support.postgres import as_owner, sql
from tests.support.stores import Stores

CANARY = "canary-Rk3vTz9q"


async def test_an_entry_says_who_did_what_as_what_from_where(company: Company) -> None:
    before = datetime.now(UTC)
    request = org_pb2.UpdateOrgRequest(org=org_pb2.Org(org_id=company.org_id, name="New"))
    request.update_mask.paths.append("name")
    await company.owner.orgs.UpdateOrg(request, metadata=(("x-request-id", "mine-7"),))
    event, first = await company.log.events()
    assert (first.method, event.method, event.code, event.reason) == (
        "OrgService/CreateOrg",
        "OrgService/UpdateOrg",
        "OK",
        "",
    )
    assert (event.sequence, event.user_id, event.role) == (2, company.owner.user_id, "owner")
    assert (event.session_id, event.api_key_id) == (company.owner.tokens.session_id, "")
    assert event.address == "127.0.0.1"
    assert event.user_agent.startswith("grpc-python-asyncio/")
    assert event.request_id == "mine-7"
    assert dict(event.resources) == {"org_id": company.org_id}
    assert len(bytes.fromhex(event.hash)) == 32
    assert (event.create_time.ToDatetime(UTC) - before).total_seconds() < 60


async def test_ids_of_the_answer_are_in_the_entry(company: Company) -> None:
    workspace_id = await make_workspace(company.owner, company.org_id)
    event = (await company.log.events())[0]
    assert dict(event.resources) == {"org_id": company.org_id, "workspace_id": workspace_id}


async def test_a_refusal_is_recorded_with_its_reason(company: Company, new_person: NewPerson) -> None:
    viewer = await new_person()
    await join(company.owner, company.org_id, viewer, org_pb2.ROLE_VIEWER)
    request = org_pb2.RemoveMemberRequest(org_id=company.org_id, user_id=company.owner.user_id)
    assert await outcome(viewer.orgs.RemoveMember(request)) == PERMISSION_MISSING
    event = (await company.log.events())[0]
    assert (event.method, event.code, event.reason) == (
        "OrgService/RemoveMember",
        "PERMISSION_DENIED",
        "PERMISSION_MISSING",
    )
    assert (event.user_id, event.role) == (viewer.user_id, "viewer")
    assert dict(event.resources) == {"org_id": company.org_id, "user_id": company.owner.user_id}


async def test_a_request_that_breaks_the_rules_is_recorded_without_what_it_says(company: Company) -> None:
    request = org_pb2.RemoveMemberRequest(org_id=company.org_id, user_id=CANARY)
    assert await outcome(company.owner.orgs.RemoveMember(request)) == INVALID
    event = (await company.log.events())[0]
    assert (event.code, dict(event.resources)) == ("INVALID_ARGUMENT", {"org_id": company.org_id})


async def test_an_outsider_leaves_no_trace(company: Company, new_person: NewPerson) -> None:
    outsider = await new_person()
    request = org_pb2.DeleteOrgRequest(org_id=company.org_id)
    assert await outcome(outsider.orgs.DeleteOrg(request)) == NOT_FOUND
    assert len(await company.log.events()) == 1
    assert [event.method for event in await account_events(outsider)] == ["AuthService/Register"]


async def test_an_invitation_is_accepted_in_the_log_of_its_organization(
    company: Company, new_person: NewPerson
) -> None:
    person = await new_person()
    await join(company.owner, company.org_id, person, org_pb2.ROLE_MEMBER)
    event = (await company.log.events())[0]
    assert (event.method, event.code, event.user_id) == ("OrgService/AcceptInvitation", "OK", person.user_id)
    assert event.resources["org_id"] == company.org_id
    assert len(await account_events(person)) == 1


async def test_a_refused_invitation_is_in_the_log_of_who_tried(company: Company, new_person: NewPerson) -> None:
    invited, other = await new_person(), await new_person()
    invitation = org_pb2.CreateInvitationRequest(org_id=company.org_id, email=invited.email, role=org_pb2.ROLE_MEMBER)
    token = (await company.owner.orgs.CreateInvitation(invitation)).token
    assert await outcome(other.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token))) != OK
    assert len(await company.log.events()) == 2
    event = (await account_events(other))[0]
    assert (event.method, event.code != "OK") == ("OrgService/AcceptInvitation", True)


async def test_a_repeated_creation_is_recorded_each_time(company: Company) -> None:
    request = workspace_pb2.CreateWorkspaceRequest(org_id=company.org_id, name="W", request_id=str(uuid.uuid4()))
    answers = [await company.owner.workspaces.CreateWorkspace(request) for _ in range(2)]
    events = (await company.log.events())[:2]
    assert {event.resources["workspace_id"] for event in events} == {answers[0].workspace.workspace_id}


async def test_a_repeated_creation_of_an_organization_makes_no_second_log(owner: Person, stores: Stores) -> None:
    count = "SELECT count(*) FROM audit_heads"
    request = org_pb2.CreateOrgRequest(name="Acme", request_id=str(uuid.uuid4()))
    org_id = (await owner.orgs.CreateOrg(request)).org.org_id
    heads = await sql(stores, count)
    assert (await owner.orgs.CreateOrg(request)).org.org_id == org_id
    assert await sql(stores, count) == heads
    event = (await account_events(owner))[0]
    assert (event.method, event.resources["org_id"]) == ("OrgService/CreateOrg", org_id)


async def test_a_deleted_conversation_is_recorded_though_it_is_not_in_postgresql(owner: Person) -> None:
    place = await make_place(owner)
    log, request = Log(owner, place.org_id), chat_pb2.DeleteConversationRequest(conversation_id=place.conversation_id)
    await owner.chat.DeleteConversation(request)
    event = (await log.events())[0]
    assert (event.method, event.code) == ("ChatService/DeleteConversation", "OK")
    assert event.resources["conversation_id"] == place.conversation_id
    assert await outcome(owner.chat.DeleteConversation(request)) == NOT_FOUND
    assert len(await log.events()) == 3


async def test_sign_ins_are_in_the_log_of_the_account(new_person: NewPerson) -> None:
    person = await new_person()
    first = person.tokens.session_id
    await person.log_in()
    assert await outcome(person.auth.Login(login(person.email, "not the right password"))) == PASSWORD_WRONG
    refused = await account_event(person, 3)
    assert (refused.method, refused.code, refused.reason) == ("AuthService/Login", "UNAUTHENTICATED", "PASSWORD_WRONG")
    assert (refused.user_id, refused.session_id, dict(refused.resources)) == ("", "", {})
    _, signed_in, register = await account_events(person)
    assert (register.method, register.code, register.resources["session_id"]) == ("AuthService/Register", "OK", first)
    assert (signed_in.method, signed_in.code) == ("AuthService/Login", "OK")
    assert signed_in.resources["session_id"] == person.tokens.session_id


async def test_a_password_is_changed_in_the_log_of_the_account(new_person: NewPerson) -> None:
    person = await new_person()
    wrong = auth_pb2.ChangePasswordRequest(current_password="not the right one", new_password="another passphrase")
    right = auth_pb2.ChangePasswordRequest(current_password=PASSWORD, new_password="another passphrase")
    assert await outcome(person.auth.ChangePassword(wrong)) == PASSWORD_WRONG
    assert await outcome(person.auth.ChangePassword(right)) == OK
    codes = [(event.method, event.code) for event in await account_events(person)]
    assert codes[:2] == [("AuthService/ChangePassword", "OK"), ("AuthService/ChangePassword", "UNAUTHENTICATED")]


async def test_refused_sign_ins_of_unknown_accounts_write_nothing(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    person.email = f"nobody-{person.email}"
    before = await sql(stores, "SELECT count(*) FROM audit_heads")
    assert await outcome(person.auth.Login(login(person.email, PASSWORD))) == PASSWORD_WRONG
    await until_recorded()
    assert await sql(stores, "SELECT count(*) FROM audit_heads") == before


async def test_a_refused_sign_in_is_answered_before_it_is_recorded(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    async with as_owner(stores) as database, database.transaction():
        await database.execute("SELECT 1 FROM audit_heads WHERE chain_id = %s FOR UPDATE", (person.user_id,))
        assert await outcome(person.auth.Login(login(person.email, "not the right password"))) == PASSWORD_WRONG
        assert len(await account_events(person)) == 1
    await account_event(person, 2)


async def test_a_person_sees_the_log_of_their_own_account_alone(new_person: NewPerson) -> None:
    one, other = await new_person(), await new_person()
    await one.log_in()
    assert len(await account_events(one)) == 2
    assert len(await account_events(other)) == 1


async def test_reading_leaves_no_entry(company: Company) -> None:
    await company.owner.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=company.org_id))
    await company.log.verify()
    assert len(await company.log.events()) == 1


async def test_members_may_not_read_the_log(company: Company, new_person: NewPerson) -> None:
    member, outsider = await new_person(), await new_person()
    await join(company.owner, company.org_id, member, org_pb2.ROLE_MEMBER)
    request = audit_pb2.ListAuditEventsRequest(org_id=company.org_id)
    assert await outcome(member.audit.ListAuditEvents(request)) == PERMISSION_MISSING
    assert await outcome(outsider.audit.ListAuditEvents(request)) == NOT_FOUND


async def test_filters_find_what_they_name_and_nothing_else(company: Company, new_person: NewPerson) -> None:
    viewer = await new_person()
    await join(company.owner, company.org_id, viewer, org_pb2.ROLE_VIEWER)
    workspace_id = await make_workspace(company.owner, company.org_id)
    middle = (await company.log.events())[0].create_time
    await asyncio.sleep(0.002)
    delete = workspace_pb2.DeleteWorkspaceRequest(workspace_id=workspace_id)
    assert await outcome(viewer.workspaces.DeleteWorkspace(delete)) == PERMISSION_MISSING
    await company.owner.workspaces.DeleteWorkspace(delete)

    async def found(**wanted: Any) -> list[int]:
        return [event.sequence for event in await company.log.events(**wanted)]

    assert await found() == [6, 5, 4, 3, 2, 1]
    assert await found(method="WorkspaceService/DeleteWorkspace") == [6, 5]
    assert await found(user_id=viewer.user_id) == [5, 3]
    assert await found(resource_id=workspace_id) == [6, 5, 4]
    assert await found(resource_id=workspace_id.upper()) == [6, 5, 4]
    assert await found(resource_id=company.org_id, user_id=viewer.user_id) == [3]
    assert await found(code="PERMISSION_DENIED") == [5]
    assert await found(resource_id=workspace_id, code="OK") == [6, 4]
    assert await found(start_time=middle) == [6, 5, 4]
    assert await found(end_time=middle) == [3, 2, 1]
    assert await found(start_time=middle, resource_id=workspace_id, user_id=company.owner.user_id) == [6, 4]
    assert await found(start_time=datetime(2200, 1, 1, tzinfo=UTC)) == []
    assert await found(method="OrgService") == []
    assert await found(user_id=str(uuid.uuid4())) == []


async def test_pages_add_up(company: Company) -> None:
    for _ in range(6):
        await make_workspace(company.owner, company.org_id)
    request = audit_pb2.ListAuditEventsRequest(org_id=company.org_id, user_id=company.owner.user_id)
    for size in (1, 2, 3, 7, 10):
        events = await read_all(company.owner.audit.ListAuditEvents, request, "events", size)
        assert [event.sequence for event in events] == [7, 6, 5, 4, 3, 2, 1]
    account = audit_pb2.ListAccountEventsRequest()
    events = await read_all(company.owner.audit.ListAccountEvents, account, "events", 2)
    assert [event.sequence for event in events] == list(range(len(events), 0, -1))


async def test_two_organizations_have_nothing_in_common(company: Company, owner: Person) -> None:
    other = Company(owner, await make_org(owner))
    await make_workspace(owner, other.org_id)
    assert len(await company.log.events()) == 1
    assert await company.log.events(resource_id=other.org_id) == []
    assert {event.resources["org_id"] for event in await other.log.events()} == {other.org_id}
    one, two = (await company.log.verify()), (await other.log.verify())
    assert (one.sequence, two.sequence) == (1, 2)
    assert one.hash != two.hash


async def test_nothing_that_people_write_is_in_the_log(new_person: NewPerson, stores: Stores) -> None:
    person = await new_person()
    org_id = await make_org(person, CANARY)
    fields: dict[str, Any] = {"name": CANARY, "system_prompt": CANARY}
    workspace = (
        await person.workspaces.CreateWorkspace(workspace_pb2.CreateWorkspaceRequest(org_id=org_id, **fields))
    ).workspace
    update = workspace_pb2.UpdateWorkspaceRequest(workspace=workspace)
    update.update_mask.paths[:] = ["name", "system_prompt"]
    await person.workspaces.UpdateWorkspace(update)
    me = auth_pb2.UpdateMeRequest(user=auth_pb2.User(display_name=CANARY))
    me.update_mask.paths.append("display_name")
    await person.auth.UpdateMe(me)
    await person.auth.Login(auth_pb2.LoginRequest(email=person.email, password=PASSWORD, device_name=CANARY))
    await outcome(person.auth.Login(login(person.email, CANARY)))
    invitation = org_pb2.CreateInvitationRequest(org_id=org_id, email=f"{CANARY}@example.com", role=org_pb2.ROLE_VIEWER)
    token = (await person.orgs.CreateInvitation(invitation)).token
    await outcome(person.orgs.AcceptInvitation(org_pb2.AcceptInvitationRequest(token=token)))
    await outcome(person.accounts.ResetPassword(account_pb2.ResetPasswordRequest(token=CANARY, new_password=CANARY)))
    await account_event(person, 5)
    rows = await sql(stores, "SELECT e::text FROM audit_events e WHERE chain_id IN (%s, %s)", org_id, person.user_id)
    assert len(rows) >= 8
    secrets = (CANARY, PASSWORD, person.email, token, person.tokens.access_token, person.tokens.refresh_token)
    assert not [secret for secret in secrets for row in rows if secret.lower() in row[0].lower()]
