"""Who is an operator, since when and until when, and what that gives them."""

from uuid import UUID, uuid4

import pytest
from sqlalchemy import text

from aiworkspace.v1 import admin_pb2, audit_pb2, auth_pb2, org_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import App
from aiworkspace_server.auth.authority import ROLES
from tests.support.accounts import SignIn
from tests.support.audit_log import account_events
from tests.support.mailbox import Mailbox
from tests.support.operators import appoint, list_all, operator_events, run, suspend_org, verify
from tests.support.orgs import get_org
from tests.support.outcomes import NOT_FOUND, OK, OPERATOR_REQUIRED, SESSION_REQUIRED, UNAUTHENTICATED, outcome
from tests.support.pagination import read_all
from tests.support.people import NewPerson, Person, make_org
from tests.support.postgres import sql
from tests.support.service_accounts import insert_account
from tests.support.staff import Team
from tests.support.stores import Stores
from tests.support.surface import ENDPOINTS, Endpoint, name_of

OPERATORS_OWN = [each for each in ENDPOINTS if each.access.mode == options.ACCESS_MODE_OPERATOR]
IDS = {"org_id": str(uuid4()), "job_id": str(UUID(int=1))}


async def test_the_command_line_appoints_and_removes(
    stores: Stores, mailbox: Mailbox, new_person: NewPerson, operator: Person
) -> None:
    person = await new_person()
    assert await outcome(list_all(person)) == OPERATOR_REQUIRED
    refused = await run(stores, mailbox, "operators", "add", person.email)
    assert (refused.returncode, "not verified" in refused.stderr) == (1, True)
    await verify(stores, person)
    added = await run(stores, mailbox, "operators", "add", f" {person.email.upper()} ")
    assert (added.returncode, added.stdout) == (0, f"{person.email} is an operator now\n"), added.stderr
    assert await outcome(list_all(person)) == OK, "in the session of before"
    assert "already" in (await run(stores, mailbox, "operators", "add", person.email)).stdout
    assert person.email in (await run(stores, mailbox, "operators", "list")).stdout
    assert (await run(stores, mailbox, "operators", "remove", person.email)).returncode == 0
    assert await outcome(list_all(person)) == OPERATOR_REQUIRED, "at once"
    again = await run(stores, mailbox, "operators", "remove", person.email)
    assert (again.returncode, "is no operator" in again.stderr) == (1, True)
    recorded = [(e.method, e.role, e.resources["user_id"]) for e in await operator_events(operator, person.user_id)]
    assert recorded == [(f"operators {verb}", "operator", person.user_id) for verb in ("remove", "add")]


async def test_an_address_without_an_account_is_not_appointed(stores: Stores, mailbox: Mailbox) -> None:
    ran = await run(stores, mailbox, "operators", "add", "nobody@example.com")
    assert (ran.returncode, "has no account" in ran.stderr) == (1, True)


async def test_the_role_of_the_server_cannot_appoint(app: App, new_person: NewPerson) -> None:
    person = await new_person()
    with pytest.raises(Exception, match="permission denied for table operators"):
        async with app.db.write() as tx:
            await tx.execute(text("INSERT INTO operators VALUES (:id, now())"), {"id": person.user_id})


@pytest.mark.parametrize("endpoint", OPERATORS_OWN, ids=name_of)
async def test_nobody_else_may(endpoint: Endpoint, team: Team, stranger: Person, stores: Stores) -> None:
    request = endpoint.request(IDS | {"org_id": team.org_id})
    for person in (team.owner, team.member, team.outsider):
        refused = await endpoint.call(person, request)
        assert (refused.code.name, b"OPERATOR_REQUIRED" in refused.details) == ("PERMISSION_DENIED", True)
    stranger.bearer.token = ""
    assert (await endpoint.call(stranger, request)).code.name == "UNAUTHENTICATED"
    await insert_account(stores, team.org_id, "owner", stranger, *ROLES["owner"])
    refused = await endpoint.call(stranger, request)
    assert (refused.code.name, b"SESSION_REQUIRED" in refused.details) == ("PERMISSION_DENIED", True)


async def test_no_key_is_an_operators(team: Team, stranger: Person, stores: Stores) -> None:
    """Not even that of an account which stands in the table."""
    await insert_account(stores, team.org_id, "owner", stranger, "org.read")
    await sql(stores, "INSERT INTO operators VALUES (%s, now())", stranger.user_id)
    assert await outcome(list_all(stranger)) == SESSION_REQUIRED


@pytest.mark.parametrize("lost", ["verify_time = NULL", "delete_time = now(), email = NULL, password_hash = NULL"])
async def test_an_operator_needs_a_verified_account(lost: str, stores: Stores, new_person: NewPerson) -> None:
    person = await appoint(stores, new_person)
    assert await outcome(list_all(person)) == OK
    await sql(stores, f"UPDATE users SET {lost} WHERE id = %s", person.user_id)
    assert await outcome(list_all(person)) == OPERATOR_REQUIRED


async def test_a_session_that_ended_is_no_operators(stores: Stores, new_person: NewPerson, sign_in: SignIn) -> None:
    device = await sign_in(person := await appoint(stores, new_person))
    await person.auth.RevokeSession(auth_pb2.RevokeSessionRequest(session_id=device.tokens.session_id))
    assert await outcome(list_all(device)) == UNAUTHENTICATED


async def test_an_operator_has_no_rights_inside_an_organization(operator: Person, team: Team) -> None:
    assert await outcome(get_org(operator, team.org_id)) == NOT_FOUND
    log = audit_pb2.ListAuditEventsRequest(org_id=team.org_id)
    assert await outcome(operator.audit.ListAuditEvents(log)) == NOT_FOUND
    assert not (await operator.orgs.ListOrgs(org_pb2.ListOrgsRequest())).orgs


async def test_all_organizations_are_listed_without_what_is_in_them(operator: Person, team: Team) -> None:
    other = await make_org(team.outsider, "Other")
    rows = await read_all(operator.admin.ListAllOrgs, admin_pb2.ListAllOrgsRequest(), "orgs", 7)
    listed = {org.org_id: org for org in rows}
    assert listed.keys() >= {team.org_id, other}
    assert (listed[other].name, listed[other].member_count) == ("Other", 1)
    assert listed[team.org_id].state == org_pb2.ORG_STATE_ACTIVE
    names = set(admin_pb2.AdminOrg.DESCRIPTOR.fields_by_name)
    assert names == {"org_id", "name", "state", "state_reason", "suspend_time", "member_count", "create_time"}


async def test_the_database_lists_organizations_for_operators_alone(app: App, owner: Person, operator: Person) -> None:
    await make_org(owner)
    question = text("SELECT id FROM list_all_orgs(CAST(:who AS uuid), NULL, NULL, 10)")
    async with app.db.read() as tx:
        for who, found in ((operator.user_id, True), (owner.user_id, False), (None, False)):
            assert bool((await tx.execute(question, {"who": who})).all()) == found


async def test_what_operators_do_is_in_their_own_log(operator: Person, owner: Person) -> None:
    org_id = await make_org(owner)
    await suspend_org(operator, org_id)
    await list_all(operator)
    unknown = str(uuid4())
    assert await outcome(suspend_org(operator, unknown)) == NOT_FOUND
    latest = (await operator_events(operator))[:3]
    assert [(e.method, e.code, e.role, e.user_id) for e in latest] == [
        ("AdminService/SuspendOrg", "NOT_FOUND", "operator", operator.user_id),
        ("AdminService/ListAllOrgs", "OK", "operator", operator.user_id),
        ("AdminService/SuspendOrg", "OK", "operator", operator.user_id),
    ]
    assert [e.resources["org_id"] for e in await operator_events(operator, unknown)] == [unknown]
    assert not [e for e in await account_events(operator) if "Admin" in e.method]


async def test_the_log_of_operators_is_verified(operator: Person, stores: Stores) -> None:
    await list_all(operator)
    request = audit_pb2.VerifyOperatorChainRequest()
    noted = await operator.audit.VerifyOperatorChain(request)
    assert (noted.valid, noted.sequence > 0) == (True, True)
    again = audit_pb2.VerifyOperatorChainRequest(known_sequence=noted.sequence, known_hash=noted.hash)
    assert (await operator.audit.VerifyOperatorChain(again)).valid
    change = "UPDATE audit_events SET code = %s WHERE chain_id = %s AND sequence = %s"
    await sql(stores, change, "FORGED", UUID(int=0), noted.sequence)
    found = await operator.audit.VerifyOperatorChain(request)
    assert (found.valid, found.broken_sequence) == (False, noted.sequence)
    await sql(stores, change, "OK", UUID(int=0), noted.sequence)
    assert (await operator.audit.VerifyOperatorChain(request)).valid


async def test_refused_calls_do_not_get_into_the_operators_log(operator: Person, new_person: NewPerson) -> None:
    person, before = await new_person(), (await operator_events(operator))[0].sequence
    assert await outcome(suspend_org(person, IDS["org_id"])) == OPERATOR_REQUIRED
    assert (await operator_events(operator))[0].sequence == before
    latest = (await account_events(person))[0]
    assert (latest.method, latest.code, latest.reason) == (
        "AdminService/SuspendOrg",
        "PERMISSION_DENIED",
        "OPERATOR_REQUIRED",
    )
