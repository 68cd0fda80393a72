"""What holds in MongoDB holds in an object store."""

import os
from uuid import UUID

import obstore
import pytest
from obstore.store import S3Store

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.ids import new_id
from tests.support.documents import begin, document_service, download, messages, upload
from tests.support.orgs import delete_org
from tests.support.outcomes import outcome
from tests.support.people import Place, make_workspace
from tests.support.stores import Stores
from tests.support.waiting import until
from tests.support.workspaces import delete_workspace

from .objects import LARGE, MISMATCH, PIECE, content_of, delete, in_mongo, keys, keys_of, nothing


@pytest.mark.parametrize("size", [1, PIECE, PIECE + 1, LARGE + 17])
async def test_document_becomes_one_object_without_pieces(app: App, bucket: S3Store, place: Place, size: int) -> None:
    data = os.urandom(size)
    upload_id = await begin(place.owner, place.workspace_id, data, name="../../secret name.txt")
    document = (await place.owner.documents.UploadDocument(messages(upload_id, data))).document
    assert await download(place.owner, document.document_id) == data
    assert await keys_of(bucket, place) == [f"of/a/server/orgs/{place.org_id}/{upload_id}"]
    assert await in_mongo(app, place) == {"files": 1}
    found = await place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
    assert found.upload.committed_bytes == size


async def test_range_returns_its_bytes_alone(place: Place) -> None:
    data = os.urandom(5 << 20)
    document_id = (await upload(place.owner, place.workspace_id, data)).document_id
    for offset, length in [(0, 1), (5, 0), (PIECE - 1, 2), (2 << 20, 3 << 20), (len(data) - 1, 5), (len(data), 0)]:
        wanted = data[offset : offset + length] if length else data[offset:]
        assert await download(place.owner, document_id, offset=offset, length=length) == wanted


async def test_upload_resumes_in_another_server_with_another_setting(
    app: App, own_stores: Stores, bucket: S3Store, place: Place
) -> None:
    data = os.urandom(3 * PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(upload_id, data[: 2 * PIECE], finish=False))
    other_url = "s3://documents/elsewhere"
    other = document_service(app.db, app.mongo, own_stores, Quota(1, 1), 1, store=other_url)
    progress = await other.receive(UUID(place.org_id), UUID(upload_id), messages(upload_id, data, offset=PIECE))
    assert progress.found
    document_id = str(progress.found.document.id)
    assert await download(place.owner, document_id) == data, "this server finds it, too"
    assert await keys(bucket, "elsewhere/orgs/") == [f"elsewhere/orgs/{place.org_id}/{upload_id}"]
    await delete(place, document_id)
    await until(lambda: nothing(app, place))
    assert await keys(bucket, "elsewhere/orgs/") == []


async def test_document_in_mongodb_is_read_and_deleted_after_the_setting_changes(
    app: App, own_stores: Stores, bucket: S3Store, place: Place
) -> None:
    data = os.urandom(PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    earlier = document_service(app.db, app.mongo, own_stores, Quota(1, 1), 1)
    progress = await earlier.receive(UUID(place.org_id), UUID(upload_id), messages(upload_id, data))
    assert progress.found
    assert await in_mongo(app, place) == {"chunks": 2, "files": 1}
    document_id = str(progress.found.document.id)
    assert await download(place.owner, document_id, offset=3) == data[3:]
    assert await keys_of(bucket, place) == []
    await delete(place, document_id)
    await until(lambda: nothing(app, place))


async def test_deleted_document_leaves_no_object(app: App, bucket: S3Store, place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, os.urandom(PIECE + 1))
    await delete(place, document.document_id)
    await until(lambda: nothing(app, place))
    assert await keys_of(bucket, place) == []


async def test_equal_bytes_are_one_object(app: App, bucket: S3Store, place: Place) -> None:
    data, other = os.urandom(PIECE + 1), await make_workspace(place.owner, place.org_id)
    first = await upload(place.owner, place.workspace_id, data)
    second = await upload(place.owner, other, data)

    async def once() -> bool:
        return await in_mongo(app, place) == {"files": 1}

    await until(once)
    assert len(await keys_of(bucket, place)) == 1
    await delete(place, first.document_id)
    assert await download(place.owner, second.document_id) == data
    await delete(place, second.document_id)
    await until(lambda: nothing(app, place))
    assert await keys_of(bucket, place) == []


@pytest.mark.parametrize("wrong", ["hash", "hash of a resumed one"])
async def test_wrong_hash_stores_no_object(app: App, bucket: S3Store, place: Place, wrong: str) -> None:
    data = os.urandom(PIECE + 100)
    upload_id = await begin(place.owner, place.workspace_id, data)
    if "resumed" in wrong:
        await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    sent = messages(upload_id, data[:-1] + b"?")
    assert await outcome(place.owner.documents.UploadDocument(sent)) == MISMATCH
    assert await in_mongo(app, place) == {}
    assert await keys_of(bucket, place) == []


@pytest.mark.parametrize("what", ["workspace", "organization"])
async def test_deleted_place_leaves_no_object(app: App, bucket: S3Store, place: Place, what: str) -> None:
    await upload(place.owner, place.workspace_id, os.urandom(PIECE + 1))
    stray = content_of(app, place)
    await stray.append(file_id := new_id(), 0, b"x")
    if what == "organization":  # whatever else has its prefix
        await obstore.put_async(bucket, f"of/a/server/orgs/{place.org_id}/{new_id()}", b"stray")
        await stray.complete(file_id, 1)
        await delete_org(place.owner, place.org_id)
    else:
        await stray.delete(file_id)
        await delete_workspace(place.owner, place.workspace_id)

    async def erased() -> bool:
        mongo = await in_mongo(app, place)
        return not {"chunks", "files"} & mongo.keys() and not await keys_of(bucket, place)

    assert await until(erased)
