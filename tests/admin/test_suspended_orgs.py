"""Organizations that an operator has suspended: nothing in them works, nothing is lost, and they come back at once."""

import asyncio
import time
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import access_pb2, auth_pb2, chat_pb2, document_pb2, org_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import App, running
from aiworkspace_server.auth.authority import ROLES, OrgSuspended
from aiworkspace_server.documents import versions
from aiworkspace_server.documents.ingestion import Ingestion
from aiworkspace_server.documents.metering import Metering
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.audit_log import Log
from tests.support.documents import upload, watch
from tests.support.operators import appoint, list_all, reinstate_org, suspend_org
from tests.support.orgs import accept, get_org, invite
from tests.support.outcomes import NOT_FOUND, OK, ORG_SUSPENDED, outcome, refusal
from tests.support.people import (
    NewPerson,
    Person,
    Place,
    join,
    make_org,
    make_place,
    make_workspace,
    people,
    reconnected,
)
from tests.support.postgres import sql
from tests.support.runs import OPENAI, first_deltas, say, send, talk
from tests.support.service_accounts import insert_account
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.surface import ENDPOINTS, Endpoint, name_of
from tests.support.waiting import until

IN_ORGS = [each for each in ENDPOINTS if each.access.mode == options.ACCESS_MODE_PERMISSION]
REFUSED = [each for each in IN_ORGS if not each.access.while_suspended]


@pytest.fixture(scope="module")
async def closed(new_person: NewPerson, operator: Person) -> tuple[Person, dict[str, str]]:
    """The owner of a suspended organization, and ids of things in it."""
    place = await make_place(await new_person())
    events = await say(place.owner, place.conversation_id, "hello")
    document = await upload(place.owner, place.workspace_id, b"words")
    request = document_pb2.CreateCollectionRequest(workspace_id=place.workspace_id, name="Papers")
    collection = await place.owner.documents.CreateCollection(request)
    begun = document_pb2.CreateUploadRequest(
        workspace_id=place.workspace_id, name="a.txt", size_bytes=1, sha256="0" * 64
    )
    await suspend_org(operator, place.org_id)
    await reinstate_org(operator, place.org_id)
    ids = {
        "org_id": place.org_id,
        "workspace_id": place.workspace_id,
        "conversation_id": place.conversation_id,
        "run_id": events[0].run_id,
        "user_id": place.owner.user_id,
        "document_id": document.document_id,
        "collection_id": collection.collection.collection_id,
        "upload_id": (await place.owner.documents.CreateUpload(begun)).upload.upload_id,
    }
    await suspend_org(operator, place.org_id)
    return place.owner, ids


@pytest.mark.parametrize("endpoint", REFUSED, ids=name_of)
async def test_every_call_of_an_owner_is_refused(endpoint: Endpoint, closed: tuple[Person, dict[str, str]]) -> None:
    owner, ids = closed
    refused = await endpoint.call(owner, endpoint.request(ids))
    assert (refused.code.name, b"ORG_SUSPENDED" in refused.details) == ("FAILED_PRECONDITION", True), refused.message


def test_get_org_alone_works_while_suspended() -> None:
    assert [name_of(each) for each in IN_ORGS if each.access.while_suspended] == ["OrgService.GetOrg"]


async def test_members_see_that_and_why(closed: tuple[Person, dict[str, str]]) -> None:
    owner, ids = closed
    org = await get_org(owner, ids["org_id"])
    assert (org.state, org.suspend_reason) == (org_pb2.ORG_STATE_SUSPENDED, "Unpaid.")
    [listed] = (await owner.orgs.ListOrgs(org_pb2.ListOrgsRequest())).orgs
    assert (listed.state, listed.suspend_reason) == (org_pb2.ORG_STATE_SUSPENDED, "Unpaid.")
    request = access_pb2.ExplainAccessRequest(method="OrgService/ListMembers", resource_id=ids["org_id"])
    assert await outcome(owner.access.ExplainAccess(request)) == OK
    assert "suspended" in (await owner.access.ExplainAccess(request)).refusal


async def test_outsiders_learn_nothing(closed: tuple[Person, dict[str, str]], new_person: NewPerson) -> None:
    _, ids = closed
    outsider = await new_person()
    assert await outcome(get_org(outsider, ids["org_id"])) == NOT_FOUND
    assert await outcome(outsider.orgs.ListMembers(org_pb2.ListMembersRequest(org_id=ids["org_id"]))) == NOT_FOUND


async def test_the_rest_of_an_account_goes_on(closed: tuple[Person, dict[str, str]]) -> None:
    owner, _ = closed
    assert await outcome(owner.auth.GetMe(auth_pb2.GetMeRequest())) == OK
    other = await make_org(owner, "Another")
    assert (await get_org(owner, other)).state == org_pb2.ORG_STATE_ACTIVE
    assert await outcome(make_workspace(owner, other)) == OK


async def test_keys_are_refused_and_work_again(
    place: Place, operator: Person, stranger: Person, stores: Stores
) -> None:
    await insert_account(stores, place.org_id, "admin", stranger, *ROLES["admin"])
    members = org_pb2.ListMembersRequest(org_id=place.org_id)
    assert await outcome(stranger.orgs.ListMembers(members)) == OK
    await suspend_org(operator, place.org_id)
    assert await outcome(stranger.orgs.ListMembers(members)) == ORG_SUSPENDED
    assert (await get_org(stranger, place.org_id)).state == org_pb2.ORG_STATE_SUSPENDED
    await reinstate_org(operator, place.org_id)
    assert await outcome(stranger.orgs.ListMembers(members)) == OK


async def test_operators_see_the_state_and_its_reason(operator: Person, place: Place) -> None:
    first = await suspend_org(operator, place.org_id, "Unpaid since March.")
    again = await suspend_org(operator, place.org_id, "Unpaid since April.")
    assert (first.state, again.suspend_time) == (org_pb2.ORG_STATE_SUSPENDED, first.suspend_time)
    [found] = [
        each
        for each in (await list_all(operator, state=org_pb2.ORG_STATE_SUSPENDED)).orgs
        if each.org_id == place.org_id
    ]
    assert (found.state_reason, found.member_count) == ("Unpaid since April.", 1)
    back = await reinstate_org(operator, place.org_id, "Paid.")
    assert (back.state, back.state_reason, back.HasField("suspend_time")) == (org_pb2.ORG_STATE_ACTIVE, "Paid.", False)
    assert await reinstate_org(operator, place.org_id, "Nothing to do.") == back
    active = (await list_all(operator, state=org_pb2.ORG_STATE_ACTIVE)).orgs
    assert [each.state_reason for each in active if each.org_id == place.org_id] == ["Paid."]
    org = await get_org(place.owner, place.org_id)
    assert (org.state, org.suspend_reason) == (org_pb2.ORG_STATE_ACTIVE, "")


async def test_deleted_organizations_cannot_be_suspended(operator: Person, owner: Person, stores: Stores) -> None:
    org_id = await make_org(owner)
    await suspend_org(operator, org_id)
    await reinstate_org(operator, org_id)
    await owner.orgs.DeleteOrg(org_pb2.DeleteOrgRequest(org_id=org_id))
    assert await outcome(suspend_org(operator, org_id)) == NOT_FOUND
    assert await outcome(reinstate_org(operator, org_id)) == NOT_FOUND
    reason = "SELECT state_reason FROM orgs WHERE id = %s"
    await until(lambda: _is(stores, reason, org_id, ("",)))  # erased with the rest


async def test_nobody_joins(place: Place, operator: Person, new_person: NewPerson) -> None:
    guest = await new_person()
    invited = await invite(place.owner, place.org_id, guest.email)
    await suspend_org(operator, place.org_id)
    assert await outcome(accept(guest, invited.token)) == ORG_SUSPENDED
    await reinstate_org(operator, place.org_id)
    assert await outcome(accept(guest, invited.token)) == OK


async def test_the_organizations_log_has_it_without_the_operators_ids(operator: Person, place: Place) -> None:
    log = Log(place.owner, place.org_id)
    before = len(await log.events())
    await suspend_org(operator, place.org_id)
    await reinstate_org(operator, place.org_id)
    entries = await log.since(before)
    assert [(e.method, e.role, e.code) for e in entries] == [
        ("AdminService/ReinstateOrg", "operator", "OK"),
        ("AdminService/SuspendOrg", "operator", "OK"),
    ]
    for entry in entries:
        assert (entry.user_id, entry.session_id, entry.address, entry.user_agent) == ("", "", "", "")
        assert entry.resources["org_id"] == place.org_id
    assert (await log.verify()).valid


# What is in progress


async def test_an_answer_in_progress_is_cancelled_and_its_streams_end(
    place: Place, operator: Person, standin: Standin, app: App, stores: Stores
) -> None:
    enough = talk(standin)
    stream = send(place, model=OPENAI)
    run_id = (await first_deltas(stream, 1))[0].run_id
    begin = time.monotonic()
    await suspend_org(operator, place.org_id)

    async def read_on() -> None:
        async for _ in stream:
            pass

    await refusal(read_on())
    assert time.monotonic() - begin < 5
    claim = "SELECT state, stop FROM run_claims WHERE run_id = %s"
    await until(lambda: _is(stores, claim, run_id, ("closed", "cancelled")))
    settled = "SELECT kind FROM ledger_entries WHERE run_id = %s ORDER BY id"
    assert [kind for (kind,) in await sql(stores, settled, run_id)] == ["reserve", "settle"]
    enough.set()
    await reinstate_org(operator, place.org_id)
    request = chat_pb2.GetRunRequest(run_id=run_id)
    assert (await place.owner.chat.GetRun(request)).run.state == chat_pb2.RUN_STATE_CANCELLED


async def _is(stores: Stores, query: str, value: str, expected: tuple[Any, ...]) -> bool:
    return await sql(stores, query, value) == [expected]


async def test_a_stream_that_only_waits_ends_within_five_seconds(place: Place, operator: Person) -> None:
    document = await upload(place.owner, place.workspace_id, b"words")
    await watch(place.owner, document.document_id)
    upload_id = (
        await place.owner.documents.CreateUpload(
            document_pb2.CreateUploadRequest(
                workspace_id=place.workspace_id, name="a.txt", size_bytes=2, sha256="0" * 64
            )
        )
    ).upload.upload_id
    asked = asyncio.Event()

    async def parts() -> Any:
        yield document_pb2.UploadDocumentRequest(upload_id=upload_id, data=b"a")
        asked.set()
        await asyncio.Event().wait()

    call = asyncio.ensure_future(place.owner.documents.UploadDocument(parts()))
    await asked.wait()
    begin = time.monotonic()
    await suspend_org(operator, place.org_id)
    assert await outcome(call) == ORG_SUSPENDED
    assert time.monotonic() - begin < 5


async def test_documents_are_not_read_on_until_the_reinstatement(
    place: Place, operator: Person, app: App, stores: Stores
) -> None:
    org_id = UUID(place.org_id)
    document = await upload(place.owner, place.workspace_id, b"The walrus sleeps.")
    await watch(place.owner, document.document_id)
    await suspend_org(operator, place.org_id)
    due = "UPDATE document_versions SET state = 'processing', step = 'chunked', due_time = now() WHERE document_id = %s"
    await sql(stores, due, document.document_id)
    async with app.db.read() as tx:
        assert org_id not in await versions.list_due_orgs(tx, now(), 10_000)
    never: Any = None  # has no steps to do
    await Ingestion(app.db, Jobs(stores.postgres), never, app.tasks).ingest(place.org_id)
    state = "SELECT state, claim_id FROM document_versions WHERE document_id = %s"
    assert await sql(stores, state, document.document_id) == [("processing", None)]
    tried = "SELECT attempt_count, reason FROM document_steps WHERE version_id = %s AND step = 'chunked'"
    assert await sql(stores, tried, document.version_id) == [(1, None)]
    await reinstate_org(operator, place.org_id)
    last = (await watch(place.owner, document.document_id))[-1]
    assert last.state == document_pb2.DOCUMENT_STATE_READY


async def test_no_embedding_is_paid_for(place: Place, operator: Person, app: App, stores: Stores) -> None:
    document = await upload(place.owner, place.workspace_id, b"The walrus sleeps.")
    await watch(place.owner, document.document_id)
    async with app.db.read(UUID(place.org_id)) as tx:
        version = await versions.find_ready(tx, UUID(document.version_id))
    assert version
    await suspend_org(operator, place.org_id)
    metering = Metering(app.db, app.ledger)
    with pytest.raises(OrgSuspended):
        await metering.reserve(version, UUID(place.owner.user_id), "openai/text-embedding-3-small", 10)
    await reinstate_org(operator, place.org_id)
    attempt = await metering.reserve(version, UUID(place.owner.user_id), "openai/text-embedding-3-small", 10)
    async with app.db.write(UUID(place.org_id)) as tx:
        await attempt.release(tx)


# On another process, whose caches know nothing of it


async def test_another_process_refuses_and_admits_within_a_second(stores: Stores, standin: Standin) -> None:
    own = await other_databases(stores, "suspended")
    values = provider_settings(standin) | store_settings(own) | {"redis_url": stores.redis}
    settings = Settings.model_validate(values)
    async with (
        running(settings, migrating=True) as one,
        running(settings, migrating=False) as two,
        people(one.address) as new_person,
    ):
        operator, owner, member = await appoint(own, new_person), await new_person(), await new_person()
        org_id = await make_org(owner)
        await join(owner, org_id, member, org_pb2.ROLE_MEMBER)
        there = reconnected(member, two.address)
        members = org_pb2.ListMembersRequest(org_id=org_id)
        assert await outcome(there.orgs.ListMembers(members)) == OK
        await suspend_org(operator, org_id)
        begin = time.monotonic()
        while await outcome(there.orgs.ListMembers(members)) != ORG_SUSPENDED:
            assert time.monotonic() - begin < 2
        await reinstate_org(operator, org_id)
        assert await outcome(there.orgs.ListMembers(members)) == OK, "refused only after a look at the database"
        await there.channel.close()
