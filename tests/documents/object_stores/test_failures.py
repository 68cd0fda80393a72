"""Object stores that fail, are away, or do not answer."""

import asyncio
import os
from collections.abc import AsyncIterator

import aiohttp
import pytest
from obstore.store import S3Store

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.objects import Objects
from aiworkspace_server.kit.errors import Unavailable
from aiworkspace_server.settings import SettingsError
from tests.support.documents import begin, download, messages, upload
from tests.support.outcomes import NOT_FOUND, UNAVAILABLE, outcome
from tests.support.people import Place
from tests.support.tcp_gate import TcpGate
from tests.support.waiting import until

from .objects import LARGE, PIECE, URL, delete, in_mongo, keys, keys_of, nothing


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
    await until(lambda: nothing(app, place))
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
