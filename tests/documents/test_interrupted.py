"""Uploads whose caller loses the right to them, and uploads that go on in another process."""

import asyncio
import os
from collections.abc import AsyncIterator
from uuid import UUID

import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.errors import Aborted, AppError, NotFound
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.postgres import Database
from tests.support.documents import begin, document_service, download, forget_upload, messages, upload_streams
from tests.support.orgs import suspend
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import Place, make_workspace
from tests.support.staff import Team
from tests.support.stores import Stores
from tests.support.waiting import until

PIECE = 256 << 10


async def test_who_lost_the_right_does_not_finish(team: Team) -> None:
    workspace_id, data = await make_workspace(team.owner, team.org_id), os.urandom(2 * PIECE)
    upload_id = await begin(team.member, workspace_id, data)

    async def slowly() -> AsyncIterator[pb.UploadDocumentRequest]:
        yield pb.UploadDocumentRequest(upload_id=upload_id, data=data[:PIECE])
        for _ in range(15):  # seldom, so that none is being sent when the server ends the call
            yield pb.UploadDocumentRequest(offset=PIECE)
            await asyncio.sleep(2)
        yield pb.UploadDocumentRequest(offset=PIECE, data=data[PIECE:], finish=True)

    uploading = asyncio.create_task(outcome(team.member.documents.UploadDocument(slowly())))

    async def begun() -> bool:
        found = await team.member.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
        return bool(found.upload.committed_bytes == PIECE)

    await until(begun)
    await suspend(team.owner, team.org_id, team.member)
    assert await uploading == NOT_FOUND
    listed = await team.owner.documents.ListDocuments(pb.ListDocumentsRequest(workspace_id=workspace_id))
    assert not listed.documents


async def test_another_server_goes_on(stores: Stores, place: Place) -> None:
    """It shares nothing with the first but the databases."""
    data = os.urandom(3 * PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(upload_id, data[: 2 * PIECE], finish=False))
    db, mongo = Database(stores.postgres), Mongo(stores.mongo)
    other = document_service(db, mongo, stores, Quota(1, 1), 1)
    rest = messages(upload_id, data, offset=PIECE + 7, size=100_000)
    progress = await other.receive(UUID(place.org_id), UUID(upload_id), rest)
    assert progress.found
    assert await download(place.owner, str(progress.found.document.id)) == data
    await mongo.close()
    await db.close()


class Paused:
    """A stream of an upload that sends the first piece, and the rest when it is told to."""

    def __init__(self, place: Place, upload_id: str, data: bytes, *, finish: bool = True) -> None:
        self._place, self._upload_id, self._data, self._finish = place, upload_id, data, finish
        self.goes_on, self.ends = asyncio.Event(), asyncio.Event()
        self.call = place.owner.documents.UploadDocument(self._messages())

    async def _messages(self) -> AsyncIterator[pb.UploadDocumentRequest]:
        yield pb.UploadDocumentRequest(upload_id=self._upload_id, data=self._data[:PIECE])
        await self.goes_on.wait()
        async for message in messages(self._upload_id, self._data, offset=PIECE, finish=self._finish):
            yield message
        await self.ends.wait()

    async def begun(self) -> bool:
        found = await self._place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=self._upload_id))
        return bool(found.upload.committed_bytes == PIECE)


async def pieces(app: App, upload_id: str) -> int:
    return await app.mongo.database["documents.chunks"].count_documents({"files_id": UUID(upload_id)})


async def files(app: App, upload_id: str) -> int:
    return await app.mongo.database["documents.files"].count_documents({"_id": UUID(upload_id)})


@pytest.mark.parametrize("ends", ["finishing", "without finishing", "broken"])
async def test_a_stream_that_outlives_its_upload_leaves_nothing(
    app: App, stores: Stores, place: Place, ends: str
) -> None:
    data = os.urandom(3 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    stream = Paused(place, upload_id, data, finish=ends == "finishing")
    await until(stream.begun)
    await place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id))
    await forget_upload(app, stores, upload_id, "end_time")
    stream.goes_on.set()
    if ends == "broken":
        await until(lambda: pieces(app, upload_id))
        stream.call.cancel()
    else:
        stream.ends.set()
        assert await outcome(stream.call) == NOT_FOUND

    async def nothing() -> bool:
        return not (await pieces(app, upload_id) or await files(app, upload_id))

    await until(nothing)


async def test_a_stream_that_was_overtaken_leaves_the_document_as_it_is(app: App, stores: Stores, place: Place) -> None:
    data = os.urandom(3 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    stream = Paused(place, upload_id, data)
    await until(stream.begun)
    document = (await place.owner.documents.UploadDocument(messages(upload_id, data))).document
    await forget_upload(app, stores, upload_id, "expire_time")
    stream.goes_on.set()
    stream.ends.set()
    assert await outcome(stream.call) == NOT_FOUND
    assert await download(place.owner, document.document_id) == data


@pytest.mark.parametrize(("check_seconds", "sent"), [(0, 2), (1e6, 8)], ids=["at every piece", "at the end"])
@pytest.mark.parametrize("how", ["cancelled", "taken over"])
async def test_a_stream_notices_the_end_of_its_turn(
    app: App, stores: Stores, place: Place, how: str, check_seconds: float, sent: int
) -> None:
    data, org_id = os.urandom(8 * PIECE), UUID(place.org_id)
    upload_id = await begin(place.owner, place.workspace_id, data)
    streams, taken = upload_streams(app.db, app.mongo, stores, check_seconds), list[int]()

    async def interrupted() -> AsyncIterator[pb.UploadDocumentRequest]:
        async for message in messages(upload_id, data, finish=False):
            if message.offset == PIECE and how == "cancelled":
                await place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id))
            elif message.offset == PIECE:
                await place.owner.documents.UploadDocument(messages(upload_id, b"", finish=False))
            taken.append(message.offset)
            yield message

    error: type[AppError] = NotFound if how == "cancelled" else Aborted
    with pytest.raises(error):
        await streams.receive(org_id, UUID(upload_id), interrupted())
    assert len(taken) == sent
    assert await pieces(app, upload_id) == (0 if how == "cancelled" else sent if sent == 8 else 1)
