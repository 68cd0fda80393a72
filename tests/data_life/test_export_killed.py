"""A server that is killed while it writes an export: another one begins anew, and nothing of the first is left."""

import os
import signal
from collections.abc import AsyncIterator
from pathlib import Path
from uuid import UUID

import pytest
from pymongo import AsyncMongoClient

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace_server.settings import Settings
from tests.support.documents import upload
from tests.support.exports import PIECE, begin_export, download_export, ended, opened
from tests.support.people import Person, make_org, make_workspace, reconnected
from tests.support.postgres import sql
from tests.support.server_process import ServerProcess
from tests.support.settings import environment, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until

pytestmark = pytest.mark.waits

SIZE = 40 << 20


@pytest.fixture
async def own_stores(stores: Stores) -> Stores:
    return await other_databases(stores, "killed_exports")


@pytest.fixture
async def server(own_stores: Stores, tmp_path: Path) -> AsyncIterator[ServerProcess]:
    values = Settings.model_validate(store_settings(own_stores))
    async with ServerProcess(tmp_path, environment(values), "--migrate") as server:
        yield server


async def test_another_server_writes_the_export_of_a_killed_one(server: ServerProcess, own_stores: Stores) -> None:
    owner = await Person(server.address).register()
    org_id = await make_org(owner)
    data = os.urandom(SIZE)
    document = await upload(owner, await make_workspace(owner, org_id), data, name="large.bin")
    export = (await begin_export(owner, org_id)).export
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(own_stores.mongo, uuidRepresentation="standard")
    chunks = client.get_default_database("aiworkspace")["documents.chunks"]
    query = "SELECT file_id FROM exports WHERE id = %s AND file_id IS NOT NULL"

    async def writing() -> UUID | None:
        for (file_id,) in await sql(own_stores, query, export.export_id):
            if await chunks.count_documents({"files_id": file_id}):
                return UUID(str(file_id))
        return None

    first = await until(writing)
    await server.end(signal.SIGKILL)
    await owner.channel.close()
    assert await sql(own_stores, "SELECT state FROM exports") == [("running",)], "it was killed in the middle"
    await server.start()
    again = reconnected(owner, server.address)
    found = await ended(again, org_id, export.export_id)
    assert found.state == pb.EXPORT_STATE_READY
    assert opened(await download_export(again, found)).members[f"documents/{document.document_id}/large.bin"] == data
    assert await sql(own_stores, "SELECT attempt_count FROM exports") == [(2,)]
    assert await chunks.count_documents({"files_id": first}) == 0
    assert await chunks.count_documents({}) == SIZE // PIECE + -(-found.size_bytes // PIECE)
    await again.channel.close()
    await client.close()
