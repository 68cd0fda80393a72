"""Documents that are read again, more of them than one transaction takes."""

from dataclasses import dataclass
from typing import Any
from uuid import UUID

import pytest
from psycopg.types.json import Jsonb

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.documents.ending import Ending
from aiworkspace_server.documents.models import Document, DocumentVersion
from aiworkspace_server.documents.reindexing import PAGE, REINDEX, Reindexing
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import WriteSession
from tests.support.documents import document_reindexing, fail, get, read, upload, watch
from tests.support.people import Place
from tests.support.postgres import sql, until_no_jobs
from tests.support.stores import Stores

JOBS_OF = "SELECT args FROM procrastinate_jobs WHERE task_name = %s AND args->>'workspace_id' = %s ORDER BY id"
DONE = "DELETE FROM procrastinate_jobs WHERE task_name = %s AND args = %s"
ORPHAN = """
  UPDATE procrastinate_jobs SET queue_name = 'slow', status = 'doing'
  WHERE task_name = %s AND args->>'workspace_id' = %s
"""

# A document as often as there are ids, each with the version that could not be read.
MULTIPLY = """
  WITH copies AS (SELECT * FROM unnest(%s::uuid[], %s::uuid[]) AS c(document_id, version_id)),
  versions AS (
    INSERT INTO document_versions
    SELECT (jsonb_populate_record(v, jsonb_build_object('id', c.version_id, 'document_id', c.document_id))).*
    FROM document_versions v, copies c WHERE v.document_id = %s)
  INSERT INTO documents
  SELECT (jsonb_populate_record(d, jsonb_build_object('id', c.document_id, 'latest_version_id', c.version_id))).*
  FROM documents d, copies c WHERE d.id = %s
"""
NUMBERS = """
  SELECT v.number, count(*) FROM documents d JOIN document_versions v ON v.id = d.latest_version_id
  WHERE d.workspace_id = %s GROUP BY 1 ORDER BY 1
"""


@dataclass(frozen=True)
class Desk:
    """What has documents of a place read again, two in a transaction. No server does its jobs: `work` does."""

    app: App
    stores: Stores
    place: Place
    reindexing: Reindexing

    @property
    def org_id(self) -> UUID:
        return UUID(self.place.org_id)

    async def read(self, count: int) -> list[str]:
        """Ids of new documents, in their order."""
        owner, workspace_id = self.place.owner, self.place.workspace_id
        return sorted([(await read(owner, workspace_id, b"word %d" % n)).document_id for n in range(count)])

    async def begin(self, *ids: str) -> int:
        named = [UUID(each) for each in ids]
        async with self.app.db.write(self.org_id) as tx:
            return await self.reindexing.begin(tx, self.org_id, UUID(self.place.workspace_id), named)

    async def jobs(self) -> list[dict[str, Any]]:
        """Arguments of the jobs for further pages."""
        return [args for (args,) in await sql(self.stores, JOBS_OF, REINDEX, self.place.workspace_id)]

    async def work(self) -> int:
        """Do the jobs, until there is none. Return their number."""
        count = 0
        while jobs := await self.jobs():
            await self.reindexing.go_on(**jobs[0])
            await sql(self.stores, DONE, REINDEX, Jsonb(jobs[0]))
            count += 1
        return count

    async def numbers(self, ids: list[str]) -> list[int]:
        """Numbers of the latest versions."""
        return [(await get(self.place.owner, each)).document.version for each in ids]


@pytest.fixture
def desk(app: App, stores: Stores, place: Place) -> Desk:
    return Desk(app, stores, place, document_reindexing(app.db, app.mongo, stores, page=2))


async def test_workspace_with_more_documents_than_a_page_is_read_again(stores: Stores, place: Place) -> None:
    owner, workspace_id, more = place.owner, place.workspace_id, 2 * PAGE
    first = (await upload(owner, workspace_id, b"\x00\x01\x02\x03" * 100, name="x.bin")).document_id
    await watch(owner, first)
    await fail(stores, first)
    ids = [[new_id() for _ in range(more)] for _ in range(2)]
    await sql(stores, MULTIPLY, *ids, first, first)
    request = pb.ReindexDocumentsRequest(workspace_id=workspace_id, request_id=str(new_id()))
    assert (await owner.documents.ReindexDocuments(request)).document_count == more + 1
    assert (await get(owner, first)).document.version == 2, "of a small workspace all have it when the call returns"
    assert (await owner.documents.ReindexDocuments(request)).document_count == more + 1
    await until_no_jobs(stores, workspace_id)
    assert (await owner.documents.ReindexDocuments(request)).document_count == more + 1
    assert await sql(stores, JOBS_OF, REINDEX, workspace_id) == []
    assert await sql(stores, NUMBERS, workspace_id) == [(2, more + 1)]


async def test_each_job_reads_one_page_of_what_the_call_found(desk: Desk) -> None:
    ids = await desk.read(6)
    assert await desk.begin() == 6
    assert await desk.numbers(ids) == [2, 2, 1, 1, 1, 1]
    later = await read(desk.place.owner, desk.place.workspace_id, b"uploaded after the call")
    assert await desk.work() == 3
    assert await desk.numbers([*ids, later.document_id]) == [2] * 6 + [1]
    for document_id in ids:
        assert (await watch(desk.place.owner, document_id))[-1].ready_version == 2


async def test_only_named_documents_of_further_pages_are_read_again(desk: Desk) -> None:
    ids = await desk.read(6)
    assert await desk.begin(*ids[:5:2], ids[5]) == 4
    await desk.work()
    assert await desk.numbers(ids) == [2, 1, 2, 1, 2, 2]


async def test_full_last_page_has_no_job_behind_it(desk: Desk) -> None:
    ids = await desk.read(2)
    assert await desk.begin() == 2
    assert await desk.jobs() == []
    assert await desk.numbers(ids) == [2, 2]


async def test_documents_that_are_deleted_meanwhile_are_left_out(desk: Desk) -> None:
    ids = await desk.read(6)
    assert await desk.begin() == 6
    for deleted in ids[1], ids[2], ids[4]:  # the last one of the first page, and two that come later
        await desk.place.owner.documents.DeleteDocument(pb.DeleteDocumentRequest(document_id=deleted))
    await desk.work()
    assert await desk.numbers([ids[0], ids[3], ids[5]]) == [2] * 3


async def test_job_ends_with_its_workspace(desk: Desk) -> None:
    ids = await desk.read(3)
    await desk.begin()
    # At a time that lets nothing be erased yet.
    deleted = "UPDATE workspaces SET delete_time = now() + interval '1 h' WHERE id = %s"
    await sql(desk.stores, deleted, desk.place.workspace_id)
    assert await desk.work() == 1
    assert await sql(desk.stores, "SELECT number FROM document_versions WHERE document_id = %s", ids[2]) == [(1,)]


async def test_job_that_dies_is_repeated_and_reads_no_document_twice(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    ids, end_superseded = await desk.read(7), Ending.end_superseded
    # By the clock of another server, which is ahead of this one.
    ahead = "UPDATE document_versions SET create_time = now() + interval '1 h' WHERE org_id = %s"
    await sql(desk.stores, ahead, desk.org_id)
    assert await desk.begin() == 7
    [second] = await desk.jobs()

    async def die(ending: Ending, tx: WriteSession, document: Document, version: DocumentVersion) -> None:
        await end_superseded(ending, tx, document, version)
        if str(document.id) == ids[3]:
            raise RuntimeError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(Ending, "end_superseded", die)
        with pytest.raises(RuntimeError, match="killed"):
            await desk.reindexing.go_on(**second)
    assert await desk.jobs() == [second]
    assert await desk.numbers(ids) == [2, 2, 1, 1, 1, 1, 1]

    await desk.reindexing.go_on(**second)
    assert len(await desk.jobs()) == 2, "its process was killed before it deleted the first"
    assert await desk.numbers(ids) == [2, 2, 2, 2, 1, 1, 1]
    for document_id in ids[:4]:
        assert (await watch(desk.place.owner, document_id))[-1].ready_version == 2
    await sql(desk.stores, ORPHAN, REINDEX, desk.place.workspace_id)  # a server of the product finds both
    await until_no_jobs(desk.stores, desk.place.workspace_id)
    assert await desk.numbers(ids) == [2] * 7
