"""Documents and collections: read, listed, changed, deleted, and what stays of equal bytes."""

import asyncio
import hashlib
import os
import uuid
from typing import Any
from uuid import UUID

import pytest
from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from tests.support.documents import begin, download, get, messages, read, replace, upload, watch
from tests.support.orgs import delete_org
from tests.support.outcomes import ETAG_MISMATCH, INVALID, NOT_FOUND, OK, PERMISSION_MISSING, outcome, refusal
from tests.support.pagination import read_all
from tests.support.people import Person, Place, make_workspace
from tests.support.postgres import sql
from tests.support.staff import Team
from tests.support.stores import Stores
from tests.support.waiting import until
from tests.support.workspaces import CLOSED, delete_workspace, set_visibility

PIECE = 256 << 10


async def make_collection(person: Person, workspace_id: str, name: str = "Papers", **fields: str) -> pb.Collection:
    request = pb.CreateCollectionRequest(workspace_id=workspace_id, name=name, **fields)
    made: pb.CreateCollectionResponse = await person.documents.CreateCollection(request)
    return made.collection


async def list_names(person: Person, workspace_id: str, collection_id: str = "") -> list[str]:
    request = pb.ListDocumentsRequest(workspace_id=workspace_id, collection_id=collection_id)
    found = await read_all(person.documents.ListDocuments, request, "documents", 2)
    return [document.name for document in found]


def delete(person: Person, document_id: str) -> Any:
    return person.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id))


async def files_of(app: App, org_id: str) -> set[str]:
    """The ids of the files of which MongoDB has something."""
    where = {"org_id": UUID(org_id)}
    pieces = await app.mongo.database["documents.chunks"].distinct("files_id", where)
    return {str(each) for each in (*pieces, *await app.mongo.database["documents.files"].distinct("_id", where))}


async def test_documents_are_listed_page_by_page_the_latest_first(place: Place) -> None:
    for number in range(5):
        await upload(place.owner, place.workspace_id, b"%d" % number, name=f"{number}.txt")
    assert await list_names(place.owner, place.workspace_id) == [f"{number}.txt" for number in (4, 3, 2, 1, 0)]


async def test_a_document_is_in_several_collections(place: Place) -> None:
    papers, notes = [await make_collection(place.owner, place.workspace_id, name) for name in ("Papers", "Notes")]
    ids = sorted([papers.collection_id, notes.collection_id])
    both = await upload(place.owner, place.workspace_id, b"1", name="both", collection_ids=ids)
    await upload(place.owner, place.workspace_id, b"2", name="one", collection_ids=[notes.collection_id])
    await upload(place.owner, place.workspace_id, b"3", name="none")
    assert list(both.collection_ids) == ids
    assert await list_names(place.owner, place.workspace_id) == ["none", "one", "both"]
    assert await list_names(place.owner, place.workspace_id, papers.collection_id) == ["both"]
    assert await list_names(place.owner, place.workspace_id, notes.collection_id) == ["one", "both"]
    await place.owner.documents.DeleteCollection(pb.DeleteCollectionRequest(collection_id=notes.collection_id))
    found = (await get(place.owner, both.document_id)).document
    assert list(found.collection_ids) == [papers.collection_id]
    assert len(await list_names(place.owner, place.workspace_id)) == 3


async def test_a_document_is_renamed_and_moved(place: Place) -> None:
    collection = await make_collection(place.owner, place.workspace_id)
    document = await upload(place.owner, place.workspace_id, b"x", name="old")

    async def update(*paths: str, etag: str = "", **fields: Any) -> pb.Document:
        given = pb.Document(document_id=document.document_id, etag=etag, **fields)
        request = pb.UpdateDocumentRequest(document=given, update_mask=FieldMask(paths=paths))
        response: pb.UpdateDocumentResponse = await place.owner.documents.UpdateDocument(request)
        return response.document

    changed = await update(name=" new ", etag=document.etag)
    assert (changed.name, changed.etag) == ("new", "2")
    changed = await update(collection_ids=[collection.collection_id])
    assert (changed.name, list(changed.collection_ids)) == ("new", [collection.collection_id])
    assert not (await update("collection_ids")).collection_ids
    assert await outcome(update(name="x", etag=document.etag)) == ETAG_MISMATCH
    assert await outcome(update("name")) == INVALID
    assert (await get(place.owner, document.document_id)).document.name == "new"


async def test_collections_are_listed_and_changed(place: Place) -> None:
    made = [await make_collection(place.owner, place.workspace_id, name) for name in ("a", "b", "c")]
    request = pb.ListCollectionsRequest(workspace_id=place.workspace_id)
    assert await read_all(place.owner.documents.ListCollections, request, "collections", 2) == made
    given = pb.Collection(collection_id=made[0].collection_id, description="What it is for", etag="1")
    change = pb.UpdateCollectionRequest(collection=given)
    changed = (await place.owner.documents.UpdateCollection(change)).collection
    assert (changed.name, changed.description, changed.etag) == ("a", "What it is for", "2")
    assert await outcome(place.owner.documents.UpdateCollection(change)) == ETAG_MISMATCH
    found = await place.owner.documents.GetCollection(pb.GetCollectionRequest(collection_id=made[0].collection_id))
    assert found.collection == changed


async def test_a_collection_of_another_workspace_is_not_found(place: Place) -> None:
    other = await make_workspace(place.owner, place.org_id)
    collection = await make_collection(place.owner, other)
    document = await upload(place.owner, place.workspace_id, b"x")
    given = pb.Document(document_id=document.document_id, collection_ids=[collection.collection_id])
    request = pb.ListDocumentsRequest(workspace_id=place.workspace_id, collection_id=collection.collection_id)
    for call in (
        begin(place.owner, place.workspace_id, b"y", collection_ids=[collection.collection_id]),
        place.owner.documents.UpdateDocument(pb.UpdateDocumentRequest(document=given)),
        place.owner.documents.ListDocuments(request),
    ):
        assert await outcome(call) == NOT_FOUND


async def test_ranges(place: Place) -> None:
    data = os.urandom(2 * PIECE + 100)
    document_id = (await upload(place.owner, place.workspace_id, data)).document_id
    for offset, length in [(0, 1), (5, 0), (PIECE - 1, 2), (PIECE, PIECE), (2 * PIECE + 99, 5), (len(data), 0)]:
        wanted = data[offset : offset + length] if length else data[offset:]
        assert await download(place.owner, document_id, offset=offset, length=length) == wanted
    refused = await refusal(download(place.owner, document_id, offset=len(data) + 1))
    assert refused
    assert (refused.code, refused.reason) == ("OUT_OF_RANGE", "OFFSET_TOO_LARGE")
    assert refused.metadata == {"size_bytes": str(len(data))}


async def test_a_download_names_the_version_and_its_bytes(place: Place) -> None:
    data = os.urandom(2 * PIECE + 100)
    document = await upload(place.owner, place.workspace_id, data)
    for offset, length, count in [(0, 0, 3), (PIECE + 1, 5, 1), (len(data), 0, 1)]:
        request = pb.DownloadDocumentRequest(document_id=document.document_id, offset=offset, length=length)
        first, *others = [each async for each in place.owner.documents.DownloadDocument(request)]
        assert (first.version_id, first.size_bytes) == (document.version_id, len(data))
        assert first.sha256 == document.sha256 == hashlib.sha256(data).hexdigest()
        assert [(each.version_id, each.size_bytes, each.sha256) for each in others] == [("", 0, "")] * (count - 1)


async def test_an_earlier_version_is_downloaded_until_it_ends(place: Place) -> None:
    old, new = b"\x89PNG\r\n\x1a\n" + os.urandom(PIECE), os.urandom(PIECE)
    first = await read(place.owner, place.workspace_id, b"old " * 10)
    document_id = first.document_id
    second = await replace(place.owner, document_id, old)  # which is never READY
    assert (await watch(place.owner, document_id))[-1].state == pb.DOCUMENT_STATE_FAILED
    assert await download(place.owner, document_id) == old
    assert await download(place.owner, document_id, version_id=second.version_id, offset=PIECE) == old[PIECE:]
    assert await download(place.owner, document_id, version_id=first.version_id) == b"old " * 10
    await replace(place.owner, document_id, new)
    assert await outcome(download(place.owner, document_id, version_id=second.version_id)) == NOT_FOUND
    assert await download(place.owner, document_id, version_id=first.version_id) == b"old " * 10
    await delete(place.owner, document_id)
    assert await outcome(download(place.owner, document_id, version_id=first.version_id)) == NOT_FOUND


async def test_a_version_of_another_document_is_not_found(place: Place) -> None:
    one = await upload(place.owner, place.workspace_id, b"one")
    other = await upload(place.owner, place.workspace_id, b"other")
    for version_id in (other.version_id, str(uuid.uuid4())):
        refused = await refusal(download(place.owner, one.document_id, version_id=version_id))
        assert refused
        assert (refused.code, refused.metadata) == ("NOT_FOUND", {"field": "version_id"})


async def test_a_deleted_document_is_gone_with_its_bytes(app: App, place: Place) -> None:
    document_id = (await upload(place.owner, place.workspace_id, os.urandom(PIECE + 1))).document_id
    await delete(place.owner, document_id)
    for call in (get(place.owner, document_id), download(place.owner, document_id), delete(place.owner, document_id)):
        assert await outcome(call) == NOT_FOUND
    assert await list_names(place.owner, place.workspace_id) == []

    async def erased() -> bool:
        return not await files_of(app, place.org_id)

    await until(erased)


async def test_equal_bytes_are_kept_once(app: App, stores: Stores, place: Place) -> None:
    data, other = os.urandom(PIECE + 1), await make_workspace(place.owner, place.org_id)
    first = await upload(place.owner, place.workspace_id, data, name="first")
    second = await upload(place.owner, other, data, name="second")
    assert first.document_id != second.document_id

    async def once() -> bool:
        return len(await files_of(app, place.org_id)) == 1

    await until(once)
    await delete(place.owner, first.document_id)
    assert await download(place.owner, second.document_id) == data
    await delete(place.owner, second.document_id)
    assert await sql(stores, "SELECT id FROM blobs WHERE org_id = %s", UUID(place.org_id)) == []


async def test_the_same_bytes_through_a_barrier(app: App, place: Place) -> None:
    data = os.urandom(PIECE + 1)
    ids = [await begin(place.owner, place.workspace_id, data, name=f"{number}") for number in range(8)]
    calls = [place.owner.documents.UploadDocument(messages(each, data)) for each in ids]
    documents = [response.document for response in await asyncio.gather(*calls)]
    assert len({document.document_id for document in documents}) == 8
    *others, last = documents
    assert [await outcome(delete(place.owner, each.document_id)) for each in others] == [OK] * 7
    assert await download(place.owner, last.document_id) == data
    assert len(await list_names(place.owner, place.workspace_id)) == 1


async def test_deleting_and_uploading_the_same_bytes_at_once(place: Place) -> None:
    data = os.urandom(1000)
    document = await upload(place.owner, place.workspace_id, data)
    for _ in range(10):
        _, new = await asyncio.gather(
            delete(place.owner, document.document_id), upload(place.owner, place.workspace_id, data)
        )
        assert await download(place.owner, new.document_id) == data
        document = new


async def test_who_may_what(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    document = await read(team.member, workspace_id, b"x")
    assert (await get(team.viewer, document.document_id)).document == document
    assert await download(team.viewer, document.document_id) == b"x"
    assert await outcome(delete(team.viewer, document.document_id)) == PERMISSION_MISSING
    assert await outcome(begin(team.viewer, workspace_id, b"x")) == PERMISSION_MISSING
    assert await outcome(get(team.outsider, document.document_id)) == NOT_FOUND
    assert await outcome(delete(team.owner, document.document_id)) == OK


async def test_a_closed_workspace_hides_its_documents(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    document = await upload(team.owner, workspace_id, b"x")
    await set_visibility(team.owner, workspace_id, CLOSED)
    assert await outcome(get(team.member, document.document_id)) == NOT_FOUND
    assert await outcome(get(team.owner, document.document_id)) == OK


@pytest.mark.parametrize("what", ["workspace", "organization"])
async def test_a_deleted_place_takes_its_documents_along(app: App, stores: Stores, place: Place, what: str) -> None:
    collection = await make_collection(place.owner, place.workspace_id)
    ids = [collection.collection_id]
    document = await upload(place.owner, place.workspace_id, os.urandom(PIECE + 1), collection_ids=ids)
    data = os.urandom(2 * PIECE)
    unfinished = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(unfinished, data[:PIECE], finish=False))
    if what == "workspace":
        await delete_workspace(place.owner, place.workspace_id)
    else:
        await delete_org(place.owner, place.org_id)
    assert await outcome(get(place.owner, document.document_id)) == NOT_FOUND

    async def erased() -> bool:
        tables = "documents", "collections", "collection_documents", "uploads", "blobs"
        counts = [await sql(stores, f"SELECT 1 FROM {each} WHERE org_id = %s", UUID(place.org_id)) for each in tables]
        return not any(counts) and not await files_of(app, place.org_id)

    await until(erased)


async def test_unknown_ids_are_not_found(place: Place) -> None:
    unknown = str(uuid.uuid4())
    for call in (get(place.owner, unknown), delete(place.owner, unknown), download(place.owner, unknown)):
        assert await outcome(call) == NOT_FOUND
