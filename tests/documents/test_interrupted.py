"""Uploads whose caller loses the right to them, and uploads that go on in another process."""

import asyncio
import os
from collections.abc import AsyncIterator
from uuid import UUID

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.documents.store import Quota
from aiworkspace_server.kit.mongo import Mongo
from aiworkspace_server.kit.postgres import Database
from tests.support.documents import begin, document_service, download, messages
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
        for _ in range(60):
            yield pb.UploadDocumentRequest(offset=PIECE)
            await asyncio.sleep(0.5)
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
