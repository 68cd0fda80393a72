"""Crashes, each made of what the process had stored when it died, and one real one."""

import hashlib
import os
import signal
from pathlib import Path
from uuid import UUID

import grpc
import obstore
import pytest
from obstore.store import S3Store

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.data_life.exports.store import has_file
from aiworkspace_server.documents.content import Content, PiecesMissing
from aiworkspace_server.documents.lost_writes import LostWrites
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.settings import Settings
from tests.support.documents import begin, download, files_in, messages
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import Place, new_place, people, reconnected
from tests.support.server_process import ServerProcess
from tests.support.settings import environment, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.tcp_gate import TcpGate
from tests.support.waiting import until

from .objects import LARGE, PIECE, URL, content_of, in_mongo, keys_of, settle


async def pieces(content: Content, size: int = PIECE + 9) -> tuple[UUID, bytes]:
    """Store a file as an upload does before it ends."""
    file_id, data = new_id(), os.urandom(size)
    for number in range(-(-size // PIECE)):
        await content.append(file_id, number, data[number * PIECE : (number + 1) * PIECE])
    return file_id, data


async def read(content: Content, file_id: UUID, offset: int = 0, end: int | None = None) -> bytes:
    return b"".join([part async for part in content.read(file_id, offset, end)])


async def test_completing_again_changes_nothing(app: App, bucket: S3Store, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content)
    writes = [await content.complete(file_id, len(data)) for _ in range(3)]
    assert [bool(each) for each in writes] == [True, False, False]
    assert await read(content, file_id) == data
    assert await content.stored(file_id) == (2, len(data))
    assert len(await keys_of(bucket, place)) == 1


async def test_pieces_left_beside_the_object_are_deleted(app: App, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content)
    await content.complete(file_id, len(data))
    await content.append(file_id, 0, b"of another stream, which came too late")
    assert await content.stored(file_id) == (2, len(data))
    assert await read(content, file_id) == data
    await content.complete(file_id, len(data))
    assert "chunks" not in await in_mongo(app, place)


async def test_reader_of_pieces_goes_on_in_the_object(app: App, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content, 30 * PIECE + 5)
    parts = content.read(file_id, 7)
    found = await anext(parts)
    await content.complete(file_id, len(data))
    assert found + b"".join([part async for part in parts]) == data[7:]


async def test_missing_pieces_make_no_object(app: App, bucket: S3Store, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content, LARGE)
    await app.mongo.database["documents.chunks"].delete_one({"files_id": file_id, "n": 45})
    with pytest.raises(PiecesMissing):
        await content.complete(file_id, len(data))
    assert await keys_of(bucket, place) == []


async def test_object_of_no_upload_is_deleted(app: App, bucket: S3Store, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content)
    assert await content.complete(file_id, len(data))
    young = LostWrites(app.db, files_in(app.mongo, URL), has_file)
    await young.settle()
    assert len(await keys_of(bucket, place)) == 1, "it may still be written"
    await settle(app)
    assert await keys_of(bucket, place) == []
    assert await in_mongo(app, place) == {}


async def test_object_that_appears_after_its_upload_was_given_up_is_deleted(
    app: App, bucket: S3Store, place: Place
) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content)
    await content.complete(file_id, len(data))
    await content.delete(file_id)
    assert await keys_of(bucket, place) == []
    await obstore.put_async(bucket, f"of/a/server/orgs/{place.org_id}/{file_id}", data)
    await settle(app)
    assert await keys_of(bucket, place) == []
    assert await in_mongo(app, place) == {}


@pytest.mark.parametrize("died", ["before its document", "after its document"])
async def test_object_that_is_needed_stays(
    app: App, own_stores: Stores, bucket: S3Store, place: Place, died: str
) -> None:
    data = os.urandom(PIECE + 9)
    upload_id = await begin(place.owner, place.workspace_id, data)
    parts = [data[:PIECE], data[PIECE:]]
    content = content_of(app, place)
    for number, part in enumerate(parts):
        await content.append(UUID(upload_id), number, part)
    await content.complete(UUID(upload_id), len(data))
    if died == "after its document":
        await place.owner.documents.UploadDocument(messages(upload_id, b"", offset=len(data)))
    await settle(app)
    assert await in_mongo(app, place) == {"files": 1}
    response = await place.owner.documents.UploadDocument(messages(upload_id, b"", offset=len(data)))
    assert response.document.sha256 == hashlib.sha256(data).hexdigest()
    assert await download(place.owner, response.document.document_id) == data
    assert len(await keys_of(bucket, place)) == 1


async def test_cancelled_upload_takes_its_object_along(app: App, bucket: S3Store, place: Place) -> None:
    data = os.urandom(PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    content = content_of(app, place)
    await content.append(UUID(upload_id), 0, data)
    await content.complete(UUID(upload_id), len(data))
    await place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id))
    assert await keys_of(bucket, place) == []
    assert await outcome(place.owner.documents.UploadDocument(messages(upload_id, data))) == NOT_FOUND


async def test_killed_server_finishes_the_upload_after_its_restart(
    stores: Stores, bucket: S3Store, gate: TcpGate, tmp_path: Path
) -> None:
    own = await other_databases(stores, "killed_with_objects")
    values = environment(Settings.model_validate(store_settings(own) | {"document_store": URL}))
    data = os.urandom(LARGE)
    mongo = Mongo(own.mongo)
    async with ServerProcess(tmp_path / "server", values, "--migrate") as server:
        async with people(server.address) as new_person:
            place = await new_place(new_person)
            upload_id = await begin(place.owner, place.workspace_id, data)
            gate.fall_silent()
            uploading = place.owner.documents.UploadDocument(messages(upload_id, data))
            await until(lambda: mongo.database["documents.writes"].count_documents({}))
            await server.end(signal.SIGKILL)
            with pytest.raises(grpc.aio.AioRpcError):
                await uploading
        gate.open()
        await server.start()
        owner = reconnected(place.owner, server.address)
        found = await owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
        assert found.upload.committed_bytes == len(data)
        response = await owner.documents.UploadDocument(messages(upload_id, b"", offset=len(data)))
        assert await download(owner, response.document.document_id) == data
        assert len(await keys_of(bucket, place)) == 1
        await owner.channel.close()
    await mongo.close()
