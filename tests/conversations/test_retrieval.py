"""Which documents answers are based on: set for a workspace, and for a conversation instead."""

import uuid
from typing import Any

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1 import document_pb2, workspace_pb2
from aiworkspace.v1.workspace_pb2 import Retrieval
from aiworkspace_server.app import App
from tests.support.outcomes import INVALID, OK, outcome, refusal
from tests.support.people import Place, make_workspace
from tests.support.runs import say
from tests.support.sources import ALL, Library
from tests.support.workspaces import get_workspace

NONE = Retrieval()
RANDOM = str(uuid.uuid4())


async def make_collection(place: Place, workspace_id: str = "") -> str:
    request = document_pb2.CreateCollectionRequest(workspace_id=workspace_id or place.workspace_id, name="Papers")
    return str((await place.owner.documents.CreateCollection(request)).collection.collection_id)


def set_own(place: Place, retrieval: Retrieval | None, *paths: str) -> Any:
    """Change the conversation."""
    conversation = pb.Conversation(conversation_id=place.conversation_id, retrieval=retrieval)
    mask = FieldMask(paths=paths)
    return place.owner.chat.UpdateConversation(
        pb.UpdateConversationRequest(conversation=conversation, update_mask=mask)
    )


def set_common(place: Place, retrieval: Retrieval | None, *paths: str) -> Any:
    """Change the workspace."""
    workspace = workspace_pb2.Workspace(workspace_id=place.workspace_id, retrieval=retrieval)
    mask = FieldMask(paths=paths)
    return place.owner.workspaces.UpdateWorkspace(
        workspace_pb2.UpdateWorkspaceRequest(workspace=workspace, update_mask=mask)
    )


async def test_retrieval_is_set_returned_and_cleared(place: Place) -> None:
    wanted = Retrieval(collection_ids=[await make_collection(place)], max_passages=30)
    assert (await set_own(place, wanted)).conversation.retrieval == wanted
    assert (await set_common(place, wanted)).workspace.retrieval == wanted
    read = pb.GetConversationRequest(conversation_id=place.conversation_id)
    assert (await place.owner.chat.GetConversation(read)).conversation.retrieval == wanted
    assert (await get_workspace(place.owner, place.workspace_id)).retrieval == wanted
    assert not (await set_own(place, None, "retrieval")).conversation.HasField("retrieval")
    assert not (await set_common(place, None, "retrieval")).workspace.HasField("retrieval")
    assert (await set_own(place, NONE)).conversation.HasField("retrieval")


async def test_retrieval_is_given_to_what_is_made(place: Place) -> None:
    wanted = Retrieval(collection_ids=[await make_collection(place)])
    create = pb.CreateConversationRequest(workspace_id=place.workspace_id, retrieval=wanted)
    assert (await place.owner.chat.CreateConversation(create)).conversation.retrieval == wanted
    made = workspace_pb2.CreateWorkspaceRequest(org_id=place.org_id, name="W", retrieval=ALL)
    assert (await place.owner.workspaces.CreateWorkspace(made)).workspace.retrieval == ALL


async def test_collection_has_to_be_in_the_workspace(place: Place) -> None:
    elsewhere = await make_collection(place, await make_workspace(place.owner, place.org_id))
    for collection_id in (elsewhere, RANDOM):
        unknown = Retrieval(collection_ids=[await make_collection(place), collection_id])
        create = pb.CreateConversationRequest(workspace_id=place.workspace_id, retrieval=unknown)
        made = workspace_pb2.CreateWorkspaceRequest(org_id=place.org_id, name="W", retrieval=unknown)
        for call, field in (
            (set_own(place, unknown), "conversation.retrieval.collection_ids"),
            (set_common(place, unknown), "workspace.retrieval.collection_ids"),
            (place.owner.chat.CreateConversation(create), "retrieval.collection_ids"),
            (place.owner.workspaces.CreateWorkspace(made), "retrieval.collection_ids"),
        ):
            refused = await refusal(call)
            assert refused
            assert (refused.code, refused.metadata["field"]) == ("NOT_FOUND", field)


@pytest.mark.parametrize(
    "retrieval",
    [
        Retrieval(collection_ids=[RANDOM] * 21),
        Retrieval(collection_ids=["papers"]),
        Retrieval(max_passages=31),
        Retrieval(max_passages=-1),
    ],
)
async def test_retrieval_outside_its_bounds_is_refused(retrieval: Retrieval, place: Place) -> None:
    for call in (set_own(place, retrieval), set_common(place, retrieval)):
        assert await outcome(call) == INVALID


async def test_conversation_replaces_what_the_workspace_names(
    app: App, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = Library().serve(app, monkeypatch)
    collection_id = await make_collection(place)

    async def searched() -> list[tuple[bool, int]]:
        """For one message: whether all documents were searched, and for how many passages."""
        library.queries.clear()
        await say(place.owner, place.conversation_id, "hello", model="echo/echo")
        return [(query.collection_ids is None, query.limit) for query in library.queries]

    assert await searched() == []
    await set_common(place, ALL)
    assert await searched() == [(True, 8)]
    await set_own(place, Retrieval(collection_ids=[collection_id], max_passages=3))
    assert await searched() == [(False, 3)]
    await set_own(place, NONE)
    assert await searched() == []
    await set_own(place, None, "retrieval")
    assert await searched() == [(True, 8)]
    assert await outcome(set_common(place, None, "retrieval")) == OK
