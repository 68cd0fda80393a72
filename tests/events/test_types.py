"""Which changes have events, and which ids these have."""

from typing import Any
from uuid import uuid4

from aiworkspace.v1 import account_pb2, budget_pb2, document_pb2, org_pb2, service_account_pb2, team_pb2, workspace_pb2
from aiworkspace.v1.event_pb2 import EventType
from aiworkspace_server.app import App
from aiworkspace_server.events.types import name_of, type_of
from tests.support.budgets import change_limit, make_budget, spend, spender
from tests.support.documents import read, replace
from tests.support.events import last_sequence, list_events, told
from tests.support.orgs import accept, invite, reinstate, remove_member, suspend, update_member, update_org
from tests.support.outcomes import outcome
from tests.support.people import PASSWORD, NewPerson, Person, Place, join, make_org, make_workspace, new_place
from tests.support.postgres import sql, until_no_jobs
from tests.support.service_accounts import make_account, make_key, revoke_key, rotate_key
from tests.support.stores import Stores
from tests.support.teams import add, delete_group, make_group, take_out
from tests.support.workspaces import delete_workspace, set_visibility, update_workspace


def test_every_type_has_its_own_name() -> None:
    types = [EventType.ValueType(value.number) for value in EventType.DESCRIPTOR.values if value.number]
    names = [name_of(each) for each in types]
    assert [type_of(name) for name in names] == types
    spelled = [name.replace(".", "_").upper() for name in names]
    assert spelled == [EventType.Name(each).removeprefix("EVENT_TYPE_") for each in types]


async def test_a_new_organization_has_no_events(owner: Person) -> None:
    org_id = await make_org(owner)
    assert (await told(owner, org_id), await last_sequence(owner, org_id)) == ([], 0)


async def test_an_event_says_what_changed_and_nothing_else(owner: Person) -> None:
    org_id = await make_org(owner)
    workspace_id = await make_workspace(owner, org_id)
    [event] = await list_events(owner, org_id)
    assert (event.org_id, event.sequence, event.type) == (org_id, 1, EventType.EVENT_TYPE_WORKSPACE_CREATED)
    assert dict(event.resources) == {"workspace_id": workspace_id}
    assert event.event_id
    assert event.HasField("create_time")


async def test_changes_of_members(owner: Person, new_person: NewPerson) -> None:
    org_id, person, leaver = await make_org(owner), await new_person(), await new_person()
    await update_org(owner, org_id, name="Renamed")
    invited = await invite(owner, org_id, person.email)
    await accept(person, invited.token)
    await join(owner, org_id, leaver, org_pb2.ROLE_MEMBER)
    await update_member(owner, org_id, person, role=org_pb2.ROLE_VIEWER)
    await suspend(owner, org_id, person)
    await suspend(owner, org_id, person)  # changes nothing
    await reinstate(owner, org_id, person)
    await remove_member(owner, org_id, person)
    await remove_member(leaver, org_id, leaver)
    who, left = {"user_id": person.user_id}, {"user_id": leaver.user_id}
    assert await told(owner, org_id) == [
        ("org_updated", {}),
        ("member_added", who),
        ("member_added", left),
        *[("member_updated", who)] * 3,
        ("member_removed", who),
        ("member_removed", left),
    ]


async def test_a_deleted_account_leaves_each_of_its_organizations(owner: Person, new_person: NewPerson) -> None:
    person, orgs = await new_person(), [await make_org(owner) for _ in range(3)]
    for org_id in orgs:
        await join(owner, org_id, person, org_pb2.ROLE_MEMBER)
    await person.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=PASSWORD))
    for org_id in orgs:
        assert (await told(owner, org_id))[-1] == ("member_removed", {"user_id": person.user_id})


async def test_changes_of_teams(owner: Person) -> None:
    org_id = await make_org(owner)
    team_id = await make_group(owner, org_id)
    await add(owner, org_id, team_id, owner.user_id)
    await add(owner, org_id, team_id, owner.user_id)  # is in it already
    await take_out(owner, org_id, team_id, owner.user_id)
    team = team_pb2.Team(org_id=org_id, team_id=team_id, name="Chemists")
    await owner.teams.UpdateTeam(team_pb2.UpdateTeamRequest(team=team))
    await delete_group(owner, org_id, team_id)
    which, member = {"team_id": team_id}, {"team_id": team_id, "user_id": owner.user_id}
    assert await told(owner, org_id) == [
        ("team_created", which),
        *[("team_updated", member)] * 2,
        ("team_updated", which),
        ("team_deleted", which),
    ]


async def test_changes_of_service_accounts_and_keys(owner: Person) -> None:
    org_id = await make_org(owner)
    user_id = await make_account(owner, org_id)
    key = (await make_key(owner, org_id, user_id, ["org.read"])).api_key
    successor = (await rotate_key(owner, key)).api_key
    for _ in range(2):
        await revoke_key(owner, successor)
    deleting = service_account_pb2.DeleteServiceAccountRequest(org_id=org_id, user_id=user_id)
    await owner.service_accounts.DeleteServiceAccount(deleting)
    assert await told(owner, org_id) == [
        ("member_added", {"user_id": user_id}),
        ("api_key_created", {"api_key_id": key.api_key_id, "user_id": user_id}),
        ("api_key_created", {"api_key_id": successor.api_key_id, "user_id": user_id}),
        ("api_key_revoked", {"api_key_id": successor.api_key_id}),
        ("member_removed", {"user_id": user_id}),
    ]


async def test_changes_of_workspaces(owner: Person) -> None:
    org_id = await make_org(owner)
    workspace_id = await make_workspace(owner, org_id)
    await update_workspace(owner, workspace_id, name="Renamed")
    for _ in range(2):
        await set_visibility(owner, workspace_id, workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS)
    await delete_workspace(owner, workspace_id)
    which = {"workspace_id": workspace_id}
    assert await told(owner, org_id) == [
        ("workspace_created", which),
        *[("workspace_updated", which)] * 2,
        ("workspace_deleted", which),
    ]


async def test_changes_of_documents(place: Place) -> None:
    before = await last_sequence(place.owner, place.org_id)
    document = await read(place.owner, place.workspace_id, b"Bats hunt at night.")
    await replace(place.owner, document.document_id, b"Bats hunt insects.")
    unreadable = await read(place.owner, place.workspace_id, b"\x00\x01\x02\x03" * 100, name="x.bin")
    deleting = document_pb2.DeleteDocumentRequest(document_id=unreadable.document_id)
    await place.owner.documents.DeleteDocument(deleting)
    events = await told(place.owner, place.org_id, before)
    ids, others = (
        {"document_id": each.document_id, "workspace_id": place.workspace_id} for each in (document, unreadable)
    )
    assert [kind for kind, which in events if which == ids].count("document_uploaded") == 2
    assert ("document_ready", ids) in events
    assert [kind for kind, which in events if which == others] == [
        "document_uploaded",
        "document_failed",
        "document_deleted",
    ]


async def test_changes_of_budgets(app: App, new_person: NewPerson, stores: Stores) -> None:
    place = await new_place(new_person)
    before = await last_sequence(place.owner, place.org_id)
    budget = await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    await spend(app, spender(place), 600)
    await until_no_jobs(stores, place.org_id)
    await change_limit(place.owner, budget, 2_000)
    await place.owner.budgets.DeleteBudget(
        budget_pb2.DeleteBudgetRequest(org_id=place.org_id, budget_id=budget.budget_id)
    )
    which = {"budget_id": budget.budget_id}
    assert await told(place.owner, place.org_id, before) == [
        ("budget_created", which),
        ("budget_threshold_reached", which | {"subject_id": place.org_id}),
        ("budget_updated", which),
        ("budget_deleted", which),
    ]


async def test_a_refused_change_has_no_event(owner: Person) -> None:
    org_id = await make_org(owner)
    refused: Any = remove_member(owner, org_id, owner)
    assert await outcome(refused) == "FAILED_PRECONDITION LAST_OWNER"
    assert await outcome(delete_group(owner, org_id, str(uuid4()))) == "NOT_FOUND RESOURCE_NOT_FOUND"
    assert await told(owner, org_id) == []


async def test_a_repeated_alert_has_one_event(app: App, new_person: NewPerson, stores: Stores) -> None:
    """The job of an alert runs twice if a server dies during it."""
    place = await new_place(new_person)
    budget = await make_budget(place.owner, place.org_id, 1_000, alert_percents=[50])
    before = await last_sequence(place.owner, place.org_id)
    await spend(app, spender(place), 600)
    await until_no_jobs(stores, place.org_id)
    again = """
      INSERT INTO procrastinate_jobs (queue_name, task_name, args)
      SELECT 'default', 'budgets.alert', jsonb_build_object('org_id', org_id, 'budget_id', budget_id,
        'subject_id', subject_id, 'start_time', to_char(start_time, 'YYYY-MM-DD HH24:MI:SS+00:00'), 'percent', '50')
      FROM budget_windows WHERE budget_id = %s
    """
    await sql(stores, again, budget.budget_id)
    await until_no_jobs(stores, place.org_id)
    assert [kind for kind, _ in await told(place.owner, place.org_id, before)] == ["budget_threshold_reached"]
