"""Legal holds: what they keep from whom, and until when."""

import asyncio
import hashlib
from collections.abc import Callable
from typing import Any
from uuid import UUID

import pytest

from aiworkspace.v1 import account_pb2, chat_pb2, document_pb2, org_pb2, service_account_pb2
from aiworkspace_server.app import App
from aiworkspace_server.orgs.holds import check_workspace
from tests.support.data_policies import get_policy, hold, release, set_retention
from tests.support.documents import download, messages, replace, upload, watch
from tests.support.orgs import delete_org, remove_member
from tests.support.outcomes import INVALID, LEGAL_HOLD, NOT_FOUND, OK, PERMISSION_MISSING, outcome
from tests.support.people import PASSWORD, NewPerson, Person, Place, join, make_conversation, make_place, make_workspace
from tests.support.runs import say
from tests.support.service_accounts import make_account
from tests.support.staff import Team
from tests.support.workspaces import delete_workspace


async def test_a_policy_is_set_and_read(place: Place) -> None:
    owner, org_id = place.owner, place.org_id
    first = (await get_policy(owner, org_id)).policy
    assert (first.org_id, first.workspace_id, first.held, first.retention.conversation_days) == (org_id, "", False, 0)
    kept = (await set_retention(owner, org_id, conversation_days=30, document_days=60, attempt_days=7)).policy
    held = (await hold(owner, org_id, reason="Case 7.")).policy
    assert held.retention == kept.retention
    assert (held.held, held.hold_reason) == (True, "Case 7.")
    again = (await hold(owner, org_id, reason="Case 8.")).policy
    assert (again.hold_time, again.hold_reason) == (held.hold_time, "Case 8.")
    assert (await get_policy(owner, org_id)).policy == again
    own = (await get_policy(owner, org_id, place.workspace_id)).policy
    assert (own.workspace_id, own.held) == (place.workspace_id, False)
    ended = (await release(owner, org_id)).policy
    assert (ended.held, ended.hold_reason, ended.HasField("hold_time")) == (False, "", False)
    assert ended.retention == kept.retention


async def test_a_hold_needs_a_reason(place: Place) -> None:
    assert await outcome(hold(place.owner, place.org_id, reason="")) == INVALID


async def test_only_owners_may(team: Team) -> None:
    for person in (team.admin, team.member, team.viewer):
        for call in (get_policy, set_retention, hold):
            assert await outcome(call(person, team.org_id)) == PERMISSION_MISSING
    assert await outcome(hold(team.outsider, team.org_id)) == NOT_FOUND
    assert await outcome(hold(team.owner, team.org_id)) == OK


async def test_workspaces_of_others_are_unknown(place: Place, new_person: NewPerson) -> None:
    other = await make_place(await new_person())
    for call in (get_policy, set_retention, hold):
        assert await outcome(call(place.owner, place.org_id, other.workspace_id)) == NOT_FOUND


# What cannot be deleted


def delete_conversation(place: Place) -> Any:
    return place.owner.chat.DeleteConversation(
        chat_pb2.DeleteConversationRequest(conversation_id=place.conversation_id)
    )


def delete_document(person: Person, document_id: str) -> Any:
    return person.documents.DeleteDocument(document_pb2.DeleteDocumentRequest(document_id=document_id))


async def deletions(place: Place) -> dict[str, Callable[[], Any]]:
    """Each of a workspace that a hold of it forbids."""
    collection = await place.owner.documents.CreateCollection(
        document_pb2.CreateCollectionRequest(workspace_id=place.workspace_id, name="Papers")
    )
    document = await upload(place.owner, place.workspace_id, b"old words")
    await watch(place.owner, document.document_id)
    deleted = document_pb2.DeleteCollectionRequest(collection_id=collection.collection.collection_id)
    return {
        "conversation": lambda: delete_conversation(place),
        "collection": lambda: place.owner.documents.DeleteCollection(deleted),
        "version": lambda: replace(place.owner, document.document_id, b"new words"),
        "document": lambda: delete_document(place.owner, document.document_id),
        "workspace": lambda: delete_workspace(place.owner, place.workspace_id),
    }


@pytest.mark.parametrize("whole", [True, False])
async def test_a_hold_keeps_everything_until_it_ends(whole: bool, place: Place) -> None:
    calls, scope = await deletions(place), "" if whole else place.workspace_id
    await say(place.owner, place.conversation_id, "hello")
    await hold(place.owner, place.org_id, scope)
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, LEGAL_HOLD)
    assert await outcome(delete_org(place.owner, place.org_id)) == LEGAL_HOLD
    listed = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    assert len((await place.owner.chat.ListMessages(listed)).messages) == 2
    await release(place.owner, place.org_id, scope)
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, OK)
    assert await outcome(delete_org(place.owner, place.org_id)) == OK


async def test_a_hold_of_one_workspace_leaves_others_alone(place: Place) -> None:
    other = await make_workspace(place.owner, place.org_id)
    await hold(place.owner, place.org_id, other)
    calls = await deletions(place)
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, OK)


async def test_a_version_whose_upload_began_before_the_hold_is_not_made(place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, b"old words")
    await watch(place.owner, document.document_id)
    data = b"new words"
    sha256 = hashlib.sha256(data).hexdigest()
    replacing = document_pb2.ReplaceDocumentRequest(
        document_id=document.document_id, size_bytes=len(data), sha256=sha256
    )
    upload_id = (await place.owner.documents.ReplaceDocument(replacing)).upload.upload_id
    await hold(place.owner, place.org_id, place.workspace_id)
    assert await outcome(place.owner.documents.UploadDocument(messages(upload_id, data))) == LEGAL_HOLD
    assert await download(place.owner, document.document_id) == b"old words"


async def test_accounts_with_something_in_a_held_organization_stay(place: Place, new_person: NewPerson) -> None:
    member, former = await new_person(), await new_person()
    for person in (member, former):
        await join(place.owner, place.org_id, person, org_pb2.ROLE_MEMBER)
    await say(former, await make_conversation(former, place.workspace_id), "hello")
    await remove_member(place.owner, place.org_id, former)
    robot = await make_account(place.owner, place.org_id)
    await hold(place.owner, place.org_id, place.workspace_id)
    account = service_account_pb2.DeleteServiceAccountRequest(org_id=place.org_id, user_id=robot)
    calls: dict[str, Callable[[], Any]] = {
        "member": lambda: delete_account(member),
        "former member": lambda: delete_account(former),
        "service account": lambda: place.owner.service_accounts.DeleteServiceAccount(account),
    }
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, LEGAL_HOLD)
    await release(place.owner, place.org_id, place.workspace_id)
    assert {name: await outcome(call()) for name, call in calls.items()} == dict.fromkeys(calls, OK)


def delete_account(person: Person) -> Any:
    return person.accounts.DeleteAccount(account_pb2.DeleteAccountRequest(password=PASSWORD))


async def test_a_hold_waits_for_deletions_in_progress(place: Place, app: App) -> None:
    org_id, workspace_id = UUID(place.org_id), UUID(place.workspace_id)
    async with app.db.read(org_id) as tx:
        await check_workspace(tx, org_id, workspace_id)
        call = asyncio.ensure_future(hold(place.owner, place.org_id))
        done, _ = await asyncio.wait([call], timeout=0.5)
        assert not done
    assert (await call).policy.held
