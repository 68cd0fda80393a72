"""The bytes of documents in an object store: a server with moto's S3, and what differs from MongoDB."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from typing import Any
from uuid import UUID

import aiohttp
import obstore
import pytest
from moto.server import ThreadedMotoServer
from obstore.store import S3Store

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.documents.content import Content, PiecesMissing
from aiworkspace_server.documents.lost_writes import LostWrites
from aiworkspace_server.documents.objects import Objects
from aiworkspace_server.documents.service import DocumentService
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.errors import Unavailable
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.settings import Settings, SettingsError
from tests.support.documents import begin, download, files_in, messages, upload
from tests.support.orgs import delete_org
from tests.support.outcomes import NOT_FOUND, UNAVAILABLE, outcome
from tests.support.people import NewPerson, Place, make_workspace, new_place, people
from tests.support.settings import store_settings
from tests.support.stores import Stores, other_databases
from tests.support.tcp_gate import TcpGate, tcp_gate
from tests.support.waiting import until
from tests.support.workspaces import delete_workspace

PIECE = 256 << 10
URL = "s3://documents/of/a/server"
MISMATCH = "INVALID_ARGUMENT UPLOAD_MISMATCH"
LARGE = 12 << 20  # in three parts


@pytest.fixture(scope="module")
async def gate() -> AsyncIterator[TcpGate]:
    """The way to an S3 server with a bucket. The variables of the clouds point there."""
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    port = server.get_host_and_port()[1]
    async with aiohttp.ClientSession() as session, session.put(f"http://127.0.0.1:{port}/documents") as made:
        assert made.status == 200
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("AWS_", "AZURE_", "GOOGLE_"))]:
            patch.delenv(name)
        async with tcp_gate(port) as gate:
            patch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{gate.port}")
            patch.setenv("AWS_ACCESS_KEY_ID", "canary-key")
            patch.setenv("AWS_SECRET_ACCESS_KEY", "canary-secret")
            patch.setenv("AWS_REGION", "us-east-1")
            yield gate
    server.stop()


@pytest.fixture
def bucket(gate: TcpGate) -> Iterator[S3Store]:
    """The whole bucket, whatever prefix a server has in it."""
    gate.open()
    yield S3Store("documents", client_options={"allow_http": True})
    gate.open()


@pytest.fixture(scope="module")
async def own_stores(stores: Stores) -> Stores:
    return await other_databases(stores, "object_stores")


@pytest.fixture(scope="module")
async def app(own_stores: Stores, gate: TcpGate) -> AsyncIterator[App]:
    settings = Settings.model_validate(store_settings(own_stores) | {"document_store": f"{URL}/"})
    async with running(settings, migrating=True) as app:
        yield app


@pytest.fixture(scope="module")
async def new_person(app: App) -> AsyncIterator[NewPerson]:
    async with people(app.address) as new_person:
        yield new_person


@pytest.fixture
async def place(new_person: NewPerson, bucket: S3Store) -> Place:
    return await new_place(new_person)


async def keys(bucket: S3Store, prefix: str = "of/a/server/orgs/") -> list[str]:
    return [meta["path"] async for metas in obstore.list(bucket, prefix) for meta in metas]


async def keys_of(bucket: S3Store, place: Place) -> list[str]:
    return await keys(bucket, f"of/a/server/orgs/{place.org_id}/")


async def in_mongo(app: App, place: Place) -> dict[str, int]:
    """How many documents MongoDB has of the files of an organization, by collection."""
    where = {"org_id": UUID(place.org_id)}
    names = "chunks", "files", "writes"
    counts = {name: await app.mongo.database[f"documents.{name}"].count_documents(where) for name in names}
    return {name: count for name, count in counts.items() if count}


def content_of(app: App, place: Place, store: str | None = URL) -> Content:
    return files_in(app.mongo, store).of(UUID(place.org_id))


async def delete(place: Place, document_id: str) -> None:
    await place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=document_id))


# What is the same as in MongoDB


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
    other = DocumentService(app.db, files_in(app.mongo, other_url), Jobs(own_stores.postgres), Quota(1, 1), 1)
    progress = await other.receive(UUID(place.org_id), UUID(upload_id), messages(upload_id, data, offset=PIECE))
    assert progress.found
    document_id = str(progress.found.document.id)
    assert await download(place.owner, document_id) == data, "this server finds it, too"
    assert await keys(bucket, "elsewhere/orgs/") == [f"elsewhere/orgs/{place.org_id}/{upload_id}"]
    await delete(place, document_id)
    await until(lambda: _nothing(app, place))
    assert await keys(bucket, "elsewhere/orgs/") == []


async def _nothing(app: App, place: Place) -> bool:
    return not await in_mongo(app, place)


async def test_document_in_mongodb_is_read_and_deleted_after_the_setting_changes(
    app: App, own_stores: Stores, bucket: S3Store, place: Place
) -> None:
    data = os.urandom(PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    earlier = DocumentService(app.db, files_in(app.mongo), Jobs(own_stores.postgres), Quota(1, 1), 1)
    progress = await earlier.receive(UUID(place.org_id), UUID(upload_id), messages(upload_id, data))
    assert progress.found
    assert await in_mongo(app, place) == {"chunks": 2, "files": 1}
    document_id = str(progress.found.document.id)
    assert await download(place.owner, document_id, offset=3) == data[3:]
    assert await keys_of(bucket, place) == []
    await delete(place, document_id)
    await until(lambda: _nothing(app, place))


async def test_deleted_document_leaves_no_object(app: App, bucket: S3Store, place: Place) -> None:
    document = await upload(place.owner, place.workspace_id, os.urandom(PIECE + 1))
    await delete(place, document.document_id)
    await until(lambda: _nothing(app, place))
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
    await until(lambda: _nothing(app, place))
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


# Failures of the store


async def test_store_that_fails_in_the_middle_keeps_the_upload(
    app: App, bucket: S3Store, gate: TcpGate, place: Place
) -> None:
    data = os.urandom(LARGE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    gate.cut_after(7 << 20)
    assert await outcome(place.owner.documents.UploadDocument(messages(upload_id, data))) == UNAVAILABLE
    found = await place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
    assert (found.upload.committed_bytes, found.upload.document_id) == (len(data), "")
    gate.open()
    assert await keys_of(bucket, place) == []
    again = await place.owner.documents.UploadDocument(messages(upload_id, b"", offset=len(data)))
    assert await download(place.owner, again.document.document_id) == data
    assert (await in_mongo(app, place))["files"] == 1


async def test_store_that_is_away_refuses_downloads_and_comes_back(gate: TcpGate, place: Place) -> None:
    data = os.urandom(1000)
    document = await upload(place.owner, place.workspace_id, data)
    gate.cut_after(1)
    assert await outcome(download(place.owner, document.document_id)) == UNAVAILABLE
    gate.open()
    assert await download(place.owner, document.document_id) == data


async def test_document_deleted_while_the_store_is_away_goes_when_it_is_back(
    app: App, bucket: S3Store, gate: TcpGate, place: Place
) -> None:
    document = await upload(place.owner, place.workspace_id, os.urandom(1000))
    gate.cut_after(1)
    await delete(place, document.document_id)
    assert await outcome(download(place.owner, document.document_id)) == NOT_FOUND
    gate.open()
    await until(lambda: _nothing(app, place))
    assert await keys_of(bucket, place) == []


async def test_silent_store_is_unavailable_within_its_time(bucket: S3Store, gate: TcpGate) -> None:
    objects = Objects(URL, request_seconds=0.5)
    gate.fall_silent()

    async def parts() -> AsyncIterator[bytes]:
        for _ in range(30):
            yield bytes(PIECE)

    async def read() -> None:
        async for _ in objects.read("x", 0, 10):
            pass

    for call in (objects.write("x", parts()), read(), objects.delete("x"), objects.delete_under("x/")):
        with pytest.raises(Unavailable, match="document store"):
            await call
    with pytest.raises(SettingsError, match="DOCUMENT_STORE: s3://documents/of/a/server cannot be used"):
        await objects.check()


async def test_cancelled_write_leaves_no_object_and_no_parts(bucket: S3Store, gate: TcpGate) -> None:
    sent = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        for number in range(10**9):
            if number == 60:  # of which 40 are two parts
                sent.set()
            await asyncio.sleep(0)
            yield bytes(PIECE)

    writing = asyncio.create_task(Objects(URL, 30).write("cut/short", endless()))
    await sent.wait()
    writing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await writing
    assert await keys(bucket, "of/a/server/cut") == []
    address = f"http://127.0.0.1:{gate.port}/documents?uploads"
    async with aiohttp.ClientSession() as session, session.get(address) as response:
        assert "cut/short" not in await response.text()


# Crashes, each made of what the process had stored when it died


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


async def settle(app: App) -> None:
    """Do what the periodic job does, half an hour later."""
    past = {"$set": {"begin_time": now() - timedelta(minutes=30)}}
    await app.mongo.database["documents.writes"].update_many({}, past)
    await LostWrites(app.db, files_in(app.mongo, URL)).settle()


async def test_object_of_no_upload_is_deleted(app: App, bucket: S3Store, place: Place) -> None:
    content = content_of(app, place)
    file_id, data = await pieces(content)
    assert await content.complete(file_id, len(data))
    young = LostWrites(app.db, files_in(app.mongo, URL))
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


# The start of a server


@pytest.mark.parametrize(
    ("url", "variables"),
    [
        ("s3://no-such-bucket", {}),
        ("s3://documents", {"AWS_ENDPOINT_URL": "http://127.0.0.1:9"}),
        ("az://documents", {}),
    ],
)
async def test_server_does_not_start_with_an_unusable_store(
    own_stores: Stores, bucket: S3Store, monkeypatch: pytest.MonkeyPatch, url: str, variables: dict[str, Any]
) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    settings = Settings.model_validate(store_settings(own_stores) | {"document_store": url})
    with pytest.raises(SettingsError, match=f"DOCUMENT_STORE: {url} cannot be used: ") as raised:
        async with running(settings, migrating=False):
            pass
    assert "canary-secret" not in str(raised.value)
    assert len(raised.value.problems) == 1
    assert await keys(bucket, "check/") == []
