"""Uploads: whole, in parts, after broken streams, with wrong bytes."""

import asyncio
import hashlib
import os
import uuid
from collections.abc import AsyncIterator
from typing import Any
from uuid import UUID

import grpc
import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from tests.support.documents import begin, download, messages, upload
from tests.support.outcomes import INVALID, NOT_FOUND, OK, REQUEST_ID_REUSED, UPLOAD_TAKEN_OVER, outcome, refusal
from tests.support.people import Place, make_workspace
from tests.support.staff import Team
from tests.support.waiting import until

MISMATCH = "INVALID_ARGUMENT UPLOAD_MISMATCH"
GAP = "OUT_OF_RANGE UPLOAD_GAP"
PIECE = 256 << 10


async def stored(app: App, file_id: str) -> int:
    """How many documents MongoDB has of a file."""
    pieces = await app.mongo.database["documents.chunks"].count_documents({"files_id": UUID(file_id)})
    return pieces + await app.mongo.database["documents.files"].count_documents({"_id": UUID(file_id)})


async def committed(place: Place, upload_id: str) -> int:
    response = await place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))
    return int(response.upload.committed_bytes)


@pytest.mark.parametrize("size", [1, 1000, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + 17])
async def test_what_was_uploaded_is_what_is_downloaded(place: Place, size: int) -> None:
    data = os.urandom(size)
    document = await upload(place.owner, place.workspace_id, data, name="report.pdf")
    assert (document.name, document.size_bytes, document.etag) == ("report.pdf", size, "1")
    assert document.sha256 == hashlib.sha256(data).hexdigest()
    assert document.user_id == place.owner.user_id
    assert await download(place.owner, document.document_id) == data


@pytest.mark.parametrize("size", [1000, 100_000, PIECE])
async def test_messages_may_have_any_size(place: Place, size: int) -> None:
    data = os.urandom(2 * PIECE + 333)
    upload_id = await begin(place.owner, place.workspace_id, data)
    response = await place.owner.documents.UploadDocument(messages(upload_id, data, size=size))
    assert response.committed_bytes == len(data)
    assert await download(place.owner, response.document.document_id) == data


async def test_a_broken_stream_goes_on_where_it_stopped(place: Place) -> None:
    data = os.urandom(4 * PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    sent = asyncio.Event()

    async def cut() -> AsyncIterator[pb.UploadDocumentRequest]:
        async for message in messages(upload_id, data[: 2 * PIECE + 100], finish=False):
            yield message
        sent.set()
        await asyncio.Event().wait()

    call = place.owner.documents.UploadDocument(cut())
    await sent.wait()
    await until(lambda: _reached(place, upload_id, 2 * PIECE))
    call.cancel()
    assert await committed(place, upload_id) == 2 * PIECE, "whole pieces"
    rest = messages(upload_id, data, offset=2 * PIECE)
    response = await place.owner.documents.UploadDocument(rest)
    assert await download(place.owner, response.document.document_id) == data


async def _reached(place: Place, upload_id: str, size: int) -> bool:
    return await committed(place, upload_id) == size


async def test_bytes_that_are_stored_are_skipped(place: Place) -> None:
    data = os.urandom(2 * PIECE + 5)
    upload_id = await begin(place.owner, place.workspace_id, data)
    part = await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    assert (part.committed_bytes, part.document.document_id) == (PIECE, "")
    response = await place.owner.documents.UploadDocument(messages(upload_id, data, size=100_000))
    assert await download(place.owner, response.document.document_id) == data


async def test_a_finished_upload_answers_again_with_its_document(place: Place) -> None:
    data = b"once"
    upload_id = await begin(place.owner, place.workspace_id, data)
    first = await place.owner.documents.UploadDocument(messages(upload_id, data))
    again = await place.owner.documents.UploadDocument(messages(upload_id, data, offset=4))
    assert again.committed_bytes == first.committed_bytes
    assert again.document.document_id == first.document.document_id
    found = (await place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))).upload
    assert (found.document_id, found.committed_bytes) == (first.document.document_id, 4)


async def test_a_gap_says_where_to_go_on(place: Place) -> None:
    data = os.urandom(3 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    refused = await refusal(place.owner.documents.UploadDocument(messages(upload_id, data, offset=2 * PIECE)))
    assert refused
    assert (f"{refused.code} {refused.reason}", refused.metadata) == (GAP, {"committed_bytes": str(PIECE)})
    assert await committed(place, upload_id) == PIECE


@pytest.mark.parametrize("wrong", ["hash", "too short", "too long", "hash of a resumed one"])
async def test_wrong_bytes_leave_nothing(app: App, place: Place, wrong: str) -> None:
    data = os.urandom(PIECE + 100)
    upload_id = await begin(place.owner, place.workspace_id, data)
    sent = {"too short": data[:-1], "too long": data + b"x"}.get(wrong, data[:-1] + b"?")
    if "resumed" in wrong:
        await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    assert await outcome(place.owner.documents.UploadDocument(messages(upload_id, sent))) == MISMATCH
    assert await outcome(place.owner.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id))) == NOT_FOUND
    assert await stored(app, upload_id) == 0
    listed = await place.owner.documents.ListDocuments(pb.ListDocumentsRequest(workspace_id=place.workspace_id))
    assert not listed.documents


async def test_a_cancelled_upload_is_gone(app: App, place: Place) -> None:
    data = os.urandom(2 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    await place.owner.documents.UploadDocument(messages(upload_id, data[:PIECE], finish=False))
    await place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id))
    assert await stored(app, upload_id) == 0
    for call in (
        place.owner.documents.UploadDocument(messages(upload_id, data)),
        place.owner.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id)),
    ):
        assert await outcome(call) == NOT_FOUND


async def test_of_two_streams_one_finishes(place: Place) -> None:
    data = os.urandom(8 * PIECE)
    upload_id = await begin(place.owner, place.workspace_id, data)
    calls = [place.owner.documents.UploadDocument(messages(upload_id, data)) for _ in range(2)]
    outcomes = sorted([await outcome(call) for call in calls])
    if outcomes != [OK, OK]:  # the second began when the first had finished
        assert outcomes.count(UPLOAD_TAKEN_OVER) >= 1
    response = await place.owner.documents.UploadDocument(messages(upload_id, data))
    assert await download(place.owner, response.document.document_id) == data
    listed = await place.owner.documents.ListDocuments(pb.ListDocumentsRequest(workspace_id=place.workspace_id))
    assert len(listed.documents) == 1


async def test_a_request_id_begins_one_upload(place: Place) -> None:
    request_id = str(uuid.uuid4())
    ids = {await begin(place.owner, place.workspace_id, b"data", request_id=request_id) for _ in range(3)}
    assert len(ids) == 1
    with pytest.raises(grpc.aio.AioRpcError) as raised:
        await begin(place.owner, place.workspace_id, b"other", request_id=request_id)
    assert REQUEST_ID_REUSED.split()[0] in str(raised.value.code())


async def test_another_member_does_not_see_an_upload(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id)
    upload_id = await begin(team.owner, workspace_id, b"mine")
    for colleague in (team.admin, team.member):
        for call in (
            colleague.documents.GetUpload(pb.GetUploadRequest(upload_id=upload_id)),
            colleague.documents.UploadDocument(messages(upload_id, b"mine")),
            colleague.documents.CancelUpload(pb.CancelUploadRequest(upload_id=upload_id)),
        ):
            assert await outcome(call) == NOT_FOUND


@pytest.mark.parametrize(
    "fields",
    [
        {"name": ""},
        {"name": "a\nb"},
        {"size_bytes": 0},
        {"size_bytes": 1 << 50},
        {"sha256": "00"},
        {"sha256": "z" * 64},
        {"collection_ids": ["x"]},
        {"collection_ids": [str(uuid.UUID(int=7))] * 2},
    ],
    ids=str,
)
async def test_invalid_uploads_are_refused(place: Place, fields: dict[str, object]) -> None:
    valid: dict[str, Any] = {"workspace_id": place.workspace_id, "name": "a", "size_bytes": 1, "sha256": "0" * 64}
    assert await outcome(place.owner.documents.CreateUpload(pb.CreateUploadRequest(**{**valid, **fields}))) == INVALID


async def test_a_stream_without_an_upload_is_refused(place: Place) -> None:
    async def nothing() -> AsyncIterator[pb.UploadDocumentRequest]:
        return
        yield

    assert await outcome(place.owner.documents.UploadDocument(nothing())) == INVALID
    assert await outcome(place.owner.documents.UploadDocument(messages("", b"x"))) == INVALID
