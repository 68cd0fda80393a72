"""The log says of a call whose caller went away what became of it."""

import asyncio
from typing import Any

import grpc
import pytest

from aiworkspace.v1 import chat_pb2, org_pb2
from aiworkspace_server.conversations.store import ConversationStore
from aiworkspace_server.kit.errors import NotFound
from aiworkspace_server.orgs import service
from tests.support.audit_log import Log
from tests.support.people import Place, make_conversation
from tests.support.waiting import until


async def recorded(place: Place, method: str) -> list[str]:
    """Codes of the entries about the method, once there is one."""
    await until(lambda: entries_of(place, method))
    return await entries_of(place, method)


async def entries_of(place: Place, method: str) -> list[str]:
    return [event.code for event in await Log(place.owner, place.org_id).events() if event.method == method]


async def leave(call: Any, reached: asyncio.Event) -> None:
    """Goes away once the server has got so far."""
    await reached.wait()
    call.cancel()
    with pytest.raises(asyncio.CancelledError):
        await call
    assert await call.code() == grpc.StatusCode.CANCELLED


async def test_a_deletion_in_mongodb_is_recorded_as_done(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    delete, reached, go = ConversationStore.mark_deleted, asyncio.Event(), asyncio.Event()

    async def slow(store: ConversationStore, *arguments: Any) -> Any:
        reached.set()
        await go.wait()
        return await delete(store, *arguments)

    monkeypatch.setattr(ConversationStore, "mark_deleted", slow)
    conversation_id = await make_conversation(place.owner, place.workspace_id)
    request = chat_pb2.DeleteConversationRequest(conversation_id=conversation_id)
    await leave(place.owner.chat.DeleteConversation(request), reached)
    go.set()
    assert await recorded(place, "ChatService/DeleteConversation") == ["OK"]


async def test_a_change_that_was_not_committed_is_undone(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    update, reached, go = service.update_org, asyncio.Event(), asyncio.Event()

    async def slow(*arguments: Any) -> Any:
        reached.set()
        await go.wait()
        return await update(*arguments)

    monkeypatch.setattr(service, "update_org", slow)
    org = org_pb2.Org(org_id=place.org_id, name="Another")
    await leave(place.owner.orgs.UpdateOrg(org_pb2.UpdateOrgRequest(org=org)), reached)
    go.set()
    assert await recorded(place, "OrgService/UpdateOrg") == ["CANCELLED"]
    now = await place.owner.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=place.org_id))
    assert now.org.name == "Acme"


async def test_work_that_goes_on_and_fails_is_recorded_as_failed(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    reached, go = asyncio.Event(), asyncio.Event()

    async def fail(*_: Any) -> Any:
        reached.set()
        await go.wait()
        raise NotFound("conversation_id")

    monkeypatch.setattr(ConversationStore, "mark_deleted", fail)
    conversation_id = await make_conversation(place.owner, place.workspace_id)
    request = chat_pb2.DeleteConversationRequest(conversation_id=conversation_id)
    await leave(place.owner.chat.DeleteConversation(request), reached)
    go.set()
    assert await recorded(place, "ChatService/DeleteConversation") == ["NOT_FOUND"]
