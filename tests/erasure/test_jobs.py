"""The jobs that erase: ended by nothing but their work, whatever happens to the server and the stores meanwhile."""

import signal
import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import chat_pb2, org_pb2, service_account_pb2, workspace_pb2
from tests.erasure.conftest import Site
from tests.standin import Script, Standin
from tests.support.orgs import delete_org
from tests.support.people import Person, Place, make_conversation, make_place
from tests.support.postgres import as_owner, sql
from tests.support.runs import say
from tests.support.waiting import until

pytestmark = pytest.mark.waits

COLLECTIONS = ("conversations", "runs", "run_events")
MODEL = "openai/gpt-4o-mini"


async def furnished(site: Site) -> tuple[Place, str]:
    """A place in which something was said, and the id of the run."""
    place = await make_place(await site.person())
    events = await say(place.owner, place.conversation_id, "hello")
    return place, events[0].run_id


async def documents_of(site: Site, org_id: str) -> int:
    return sum([await site.count(collection, org_id=org_id) for collection in COLLECTIONS])


def late_event(org_id: str, run_id: str) -> dict[str, Any]:
    return {"_id": uuid.uuid4(), "org_id": UUID(org_id), "run_id": UUID(run_id), "first": 9999, "events": [b"late"]}


def late_conversation(place: Place) -> dict[str, Any]:
    ids = {"org_id": place.org_id, "workspace_id": place.workspace_id, "user_id": place.owner.user_id}
    return {"_id": uuid.uuid4(), **{name: UUID(value) for name, value in ids.items()}, "title": "late"}


async def test_what_a_late_writer_stores_after_an_organization_was_erased_goes_with_the_next_pass(site: Site) -> None:
    place, run_id = await furnished(site)
    await delete_org(place.owner, place.org_id)
    await site.first_pass(place.org_id)
    assert await documents_of(site, place.org_id) == 0
    await site.documents["run_events"].insert_one(late_event(place.org_id, run_id))
    await site.documents["conversations"].insert_one(late_conversation(place))
    await site.last_pass("org", place.org_id)
    assert await documents_of(site, place.org_id) == 0


async def test_what_a_late_writer_stores_in_an_erased_workspace_goes_with_the_next_pass(site: Site) -> None:
    place, run_id = await furnished(site)
    request = workspace_pb2.DeleteWorkspaceRequest(workspace_id=place.workspace_id)
    await place.owner.workspaces.DeleteWorkspace(request)
    await site.first_pass(place.workspace_id)
    assert await documents_of(site, place.org_id) == 0
    await site.documents["run_events"].insert_one(late_event(place.org_id, run_id))  # which names no workspace
    await site.documents["conversations"].insert_one(late_conversation(place))
    await site.last_pass("workspace", place.workspace_id)
    assert await documents_of(site, place.org_id) == 0


async def test_what_a_late_writer_stores_in_a_deleted_conversation_goes_with_the_next_pass(site: Site) -> None:
    place, run_id = await furnished(site)
    request = chat_pb2.DeleteConversationRequest(conversation_id=place.conversation_id)
    await place.owner.chat.DeleteConversation(request)
    await site.documents["run_events"].insert_one(late_event(place.org_id, run_id))
    conversations, this = site.documents["conversations"], {"_id": UUID(place.conversation_id)}
    await conversations.update_one(this, {"$set": {"delete_time": datetime(2026, 1, 2, tzinfo=UTC)}})
    await until(lambda: conversations.count_documents({**this, "purge_time": {"$ne": None}}))
    assert await site.count("run_events", org_id=place.org_id) == 0


async def test_what_an_earlier_release_deleted_without_a_job_is_erased(site: Site) -> None:
    org, workspace = (await furnished(site))[0], (await furnished(site))[0]
    for table, row_id in (("orgs", org.org_id), ("workspaces", workspace.workspace_id)):
        delete = f"UPDATE {table} SET delete_time = now() - interval '1 hour' WHERE id = %s"
        await sql(site.stores, delete, row_id)
    for table, row_id in (("orgs", org.org_id), ("workspaces", workspace.workspace_id)):
        erased = f"SELECT 1 FROM {table} WHERE id = %s AND erase_time IS NOT NULL AND name = ''"
        await until(lambda erased=erased, row_id=row_id: sql(site.stores, erased, row_id))  # type: ignore[misc]
    for place in (org, workspace):
        assert await documents_of(site, place.org_id) == 0


async def test_a_run_in_progress_is_settled_before_its_organization_is_erased(site: Site, standin: Standin) -> None:
    standin.script("gpt-4o-mini", Script(tokens=("word ",) * 1500, seconds_per_token=0.02))
    place = await make_place(await site.person(), MODEL)
    request = chat_pb2.SendMessageRequest(conversation_id=place.conversation_id, content="hello")
    stream = place.owner.chat.SendMessage(request)
    await stream.read()
    await delete_org(place.owner, place.org_id)
    await site.first_pass(place.org_id)
    stream.cancel()
    assert await sql(site.stores, "SELECT state FROM run_claims WHERE org_id = %s", place.org_id) == [("closed",)]
    entries = "SELECT sum(reserved_nanos) FROM ledger_entries WHERE org_id = %s"
    assert await sql(site.stores, entries, place.org_id) == [(0,)]
    assert await documents_of(site, place.org_id) == 0
    await site.last_pass("org", place.org_id)
    assert await documents_of(site, place.org_id) == 0


async def test_a_deleted_service_account_leaves_neither_name_nor_conversations(site: Site) -> None:
    place = await make_place(await site.person())
    accounts, name = place.owner.service_accounts, f"robot-{uuid.uuid4().hex}"
    made = await accounts.CreateServiceAccount(
        service_account_pb2.CreateServiceAccountRequest(org_id=place.org_id, name=name, role=org_pb2.ROLE_MEMBER)
    )
    user_id = made.service_account.user_id
    permissions = ["workspace.read", "chat.read", "chat.send"]
    key = await accounts.CreateApiKey(
        service_account_pb2.CreateApiKeyRequest(
            org_id=place.org_id, user_id=user_id, name=name, permissions=permissions
        )
    )
    robot = Person(site.server.address)
    site.people.append(robot)
    robot.bearer.token = key.secret
    await say(robot, await make_conversation(robot, place.workspace_id), name)
    await accounts.DeleteServiceAccount(
        service_account_pb2.DeleteServiceAccountRequest(org_id=place.org_id, user_id=user_id)
    )
    await site.first_pass(user_id)
    assert await site.find(name) == {}


@asynccontextmanager
async def held_up(site: Site, org_id: str) -> AsyncIterator[None]:
    """The job that erases the organization comes to its teams, and no further."""
    async with as_owner(site.stores) as owner, owner.transaction():
        await owner.execute("SELECT 1 FROM teams WHERE org_id = %s FOR UPDATE", (org_id,))
        yield


async def waiting(site: Site) -> bool:
    """Whether a transaction waits for a lock."""
    query = "SELECT 1 FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE 'DELETE FROM teams%%'"
    return bool(await sql(site.stores, query))


async def test_a_job_goes_on_after_kill_9_in_the_middle_of_it(site: Site) -> None:
    place, _ = await furnished(site)
    await sql(site.stores, "INSERT INTO teams VALUES (%s, %s, 'T', 1, now(), now())", place.org_id, uuid.uuid4())
    async with held_up(site, place.org_id):
        await delete_org(place.owner, place.org_id)
        await until(lambda: waiting(site))
        await site.server.end(signal.SIGKILL)
        assert await documents_of(site, place.org_id) > 0
    await site.server.start()
    await site.first_pass(place.org_id)
    assert await documents_of(site, place.org_id) == 0
    await site.last_pass("org", place.org_id)


async def test_a_job_ends_after_mongodb_was_paused(site: Site) -> None:
    place, _ = await furnished(site)
    site.mongo.pause()
    try:
        await delete_org(place.owner, place.org_id)
        failed = (
            "SELECT 1 FROM procrastinate_jobs WHERE task_name = 'erasure.org' AND attempts > 0 AND args->>'org_id' = %s"
        )
        await until(lambda: sql(site.stores, failed, place.org_id), 90)
    finally:
        site.mongo.go_on()
    await site.first_pass(place.org_id)
    assert await documents_of(site, place.org_id) == 0
