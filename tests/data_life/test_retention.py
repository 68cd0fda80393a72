"""Retention: what is deleted, when, and what stays."""

from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import chat_pb2
from aiworkspace_server.app import App
from aiworkspace_server.chat.erasure import ChatEraser
from aiworkspace_server.data_life import store
from aiworkspace_server.data_life.retention import RetentionJob
from aiworkspace_server.documents.erasure import DocumentEraser
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.ids import first_id_at
from aiworkspace_server.kit.timestamps import now
from tests.support.data_policies import hold, release, set_retention
from tests.support.documents import document_service, get, upload, watch
from tests.support.operators import reinstate_org, suspend_org
from tests.support.outcomes import NOT_FOUND, OK, outcome
from tests.support.people import Person, Place, make_conversation, make_workspace
from tests.support.postgres import sql
from tests.support.runs import say
from tests.support.stores import Stores

OLD = timedelta(days=10)


@pytest.fixture
def job(app: App, stores: Stores) -> RetentionJob:
    documents = document_service(app.db, app.mongo, stores, Quota(1 << 30, 1000), 1 << 20)
    unused: Any = None
    return RetentionJob(
        app.db,
        app.mongo,
        ChatEraser(app.db, app.mongo, app.engine.cancellation, app.engine.bus),
        DocumentEraser(app.db, app.mongo, unused, documents, unused),
    )


async def age_conversation(app: App, conversation_id: str) -> str:
    """Lets a conversation be one of ten days ago. Its id tells when it was made, so it gets another one."""
    conversations, runs = app.mongo.database["conversations"], app.mongo.database["runs"]
    found: Any = await conversations.find_one({"_id": UUID(conversation_id)})
    new = first_id_at(now() - OLD)
    new = UUID(int=new.int | (UUID(conversation_id).int & ((1 << 62) - 1)))
    await conversations.insert_one(found | {"_id": new, "update_time": now() - OLD})
    await conversations.delete_one({"_id": UUID(conversation_id)})
    await runs.update_many({"conversation_id": UUID(conversation_id)}, {"$set": {"conversation_id": new}})
    return str(new)


async def old_conversation(app: App, stores: Stores, person: Person, workspace_id: str) -> str:
    before = await make_conversation(person, workspace_id)
    await say(person, before, "hello")
    after = await age_conversation(app, before)
    await sql(stores, "UPDATE run_claims SET conversation_id = %s WHERE conversation_id = %s", after, before)
    return after


async def old_document(stores: Stores, person: Person, workspace_id: str, text: str) -> str:
    document = await upload(person, workspace_id, text.encode())
    await watch(person, document.document_id)
    await sql(stores, "UPDATE documents SET update_time = %s WHERE id = %s", now() - OLD, document.document_id)
    return document.document_id


def read(person: Person, conversation_id: str) -> Any:
    return person.chat.GetConversation(chat_pb2.GetConversationRequest(conversation_id=conversation_id))


async def test_old_conversations_are_erased_and_others_stay(
    place: Place, app: App, stores: Stores, job: RetentionJob
) -> None:
    old = await old_conversation(app, stores, place.owner, place.workspace_id)
    await say(place.owner, place.conversation_id, "hello")
    org_id = UUID(place.org_id)
    await set_retention(place.owner, place.org_id, conversation_days=11)
    await job.delete_old_of(org_id)
    assert await outcome(read(place.owner, old)) == OK, "not old enough"
    await set_retention(place.owner, place.org_id, conversation_days=9)
    await job.delete_old_of(org_id)
    assert await outcome(read(place.owner, old)) == NOT_FOUND
    assert await app.mongo.database["runs"].count_documents({"conversation_id": UUID(old)}) == 0
    assert await outcome(read(place.owner, place.conversation_id)) == OK


async def test_a_conversation_in_which_somebody_spoke_stays(
    place: Place, app: App, stores: Stores, job: RetentionJob
) -> None:
    old = await old_conversation(app, stores, place.owner, place.workspace_id)
    await say(place.owner, old, "again")
    await set_retention(place.owner, place.org_id, conversation_days=9)
    await job.delete_old_of(UUID(place.org_id))
    assert await outcome(read(place.owner, old)) == OK


async def test_old_documents_are_deleted_and_others_stay(place: Place, stores: Stores, job: RetentionJob) -> None:
    old = await old_document(stores, place.owner, place.workspace_id, "old words")
    fresh = (await upload(place.owner, place.workspace_id, b"fresh words")).document_id
    await set_retention(place.owner, place.org_id, document_days=9)
    await job.delete_old_of(UUID(place.org_id))
    assert await outcome(get(place.owner, old)) == NOT_FOUND
    assert await outcome(get(place.owner, fresh)) == OK


async def test_a_workspace_may_keep_longer_or_shorter(place: Place, stores: Stores, job: RetentionJob) -> None:
    longer, shorter = [await make_workspace(place.owner, place.org_id) for _ in range(2)]
    kept = {
        workspace_id: await old_document(stores, place.owner, workspace_id, f"words of {workspace_id}")
        for workspace_id in (place.workspace_id, longer, shorter)
    }
    await set_retention(place.owner, place.org_id, document_days=11)
    await set_retention(place.owner, place.org_id, shorter, document_days=9)
    await job.delete_old_of(UUID(place.org_id))
    found = {each: await outcome(get(place.owner, document_id)) for each, document_id in kept.items()}
    assert found == {place.workspace_id: OK, longer: OK, shorter: NOT_FOUND}
    await set_retention(place.owner, place.org_id, document_days=9)
    await set_retention(place.owner, place.org_id, longer, document_days=11)
    await job.delete_old_of(UUID(place.org_id))
    found = {each: await outcome(get(place.owner, document_id)) for each, document_id in kept.items()}
    assert found == {place.workspace_id: NOT_FOUND, longer: OK, shorter: NOT_FOUND}


async def attempts(person: Person, run_id: str) -> int:
    return len((await person.chat.ListAttempts(chat_pb2.ListAttemptsRequest(run_id=run_id))).attempts)


async def old_run(stores: Stores, app: App, place: Place, conversation_id: str = "") -> str:
    """A run whose claim is of ten days ago, as its id says."""
    before = (await say(place.owner, conversation_id or place.conversation_id, "hello"))[0].run_id
    after = UUID(int=first_id_at(now() - OLD).int | (UUID(before).int & ((1 << 62) - 1)))
    runs = app.mongo.database["runs"]
    found: Any = await runs.find_one({"_id": UUID(before)})
    await runs.insert_one(found | {"_id": after})
    await runs.delete_one({"_id": UUID(before)})
    await sql(stores, "UPDATE run_claims SET run_id = %s WHERE run_id = %s", after, before)
    return str(after)


async def test_attempts_of_old_runs_are_deleted_and_messages_stay(
    place: Place, app: App, stores: Stores, job: RetentionJob
) -> None:
    old = await old_run(stores, app, place)
    fresh = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    await set_retention(place.owner, place.org_id, attempt_days=9)
    await job.delete_old_of(UUID(place.org_id))
    assert (await attempts(place.owner, old), await attempts(place.owner, fresh)) == (0, 1)
    listed = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    assert len((await place.owner.chat.ListMessages(listed)).messages) == 4


@pytest.mark.parametrize("whole", [True, False])
async def test_a_hold_stops_retention_until_it_ends(
    whole: bool, place: Place, app: App, stores: Stores, job: RetentionJob
) -> None:
    run_id = await old_run(stores, app, place)
    conversation_id = await old_conversation(app, stores, place.owner, place.workspace_id)
    document_id = await old_document(stores, place.owner, place.workspace_id, "old words")
    await set_retention(place.owner, place.org_id, conversation_days=9, document_days=9, attempt_days=9)
    scope = "" if whole else place.workspace_id
    await hold(place.owner, place.org_id, scope)
    await job.delete_old_of(UUID(place.org_id))
    assert await outcome(read(place.owner, conversation_id)) == OK
    assert await outcome(get(place.owner, document_id)) == OK
    assert await attempts(place.owner, run_id) == 1
    await release(place.owner, place.org_id, scope)
    await job.delete_old_of(UUID(place.org_id))
    assert await outcome(read(place.owner, conversation_id)) == NOT_FOUND
    assert await outcome(get(place.owner, document_id)) == NOT_FOUND
    assert await attempts(place.owner, run_id) == 0


async def test_runs_that_a_hold_passed_over_are_looked_at_after_it(
    place: Place, app: App, stores: Stores, job: RetentionJob
) -> None:
    held = await old_run(stores, app, place)
    other = await make_conversation(place.owner, await make_workspace(place.owner, place.org_id))
    later = await old_run(stores, app, place, other)
    await set_retention(place.owner, place.org_id, attempt_days=9)
    await hold(place.owner, place.org_id, place.workspace_id)
    await job.delete_old_of(UUID(place.org_id))
    assert (await attempts(place.owner, held), await attempts(place.owner, later)) == (1, 0)
    await release(place.owner, place.org_id, place.workspace_id)
    await job.delete_old_of(UUID(place.org_id))
    assert await attempts(place.owner, held) == 0


async def test_organizations_with_a_retention_are_found(place: Place, app: App, operator: Person) -> None:
    org_id = UUID(place.org_id)
    assert org_id not in await store.list_orgs(app.db)
    await set_retention(place.owner, place.org_id, place.workspace_id, document_days=9)
    assert org_id in await store.list_orgs(app.db)
    await suspend_org(operator, place.org_id)
    assert org_id not in await store.list_orgs(app.db)
    await reinstate_org(operator, place.org_id)
    await set_retention(place.owner, place.org_id, place.workspace_id)
    assert org_id not in await store.list_orgs(app.db)


async def test_the_job_does_all_organizations(place: Place, stores: Stores, job: RetentionJob) -> None:
    old = await old_document(stores, place.owner, place.workspace_id, "old words")
    await set_retention(place.owner, place.org_id, document_days=9)
    await job.delete_old()
    assert await outcome(get(place.owner, old)) == NOT_FOUND
