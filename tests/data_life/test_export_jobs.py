"""The jobs that write exports: crashes, servers that lose their claim, and failures that do not end."""

import os
from collections.abc import Awaitable, Callable
from datetime import timedelta
from uuid import UUID

import pytest
from pymongo.errors import ConnectionFailure

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.data_life.exports import store
from aiworkspace_server.data_life.exports.exporter import ClaimLost, Exporter
from aiworkspace_server.data_life.exports.jobs import MOST_ATTEMPTS
from aiworkspace_server.data_life.exports.models import ExportState
from aiworkspace_server.documents.content import Content, Files
from aiworkspace_server.documents.objects import ObjectStores
from aiworkspace_server.kit.timestamps import now
from tests.support.documents import files_in, upload
from tests.support.exports import PIECE, download_export, export_jobs, get_export, opened, stored_pieces
from tests.support.orgs import delete_org
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.stores import Stores

SOURCE_PIECES = 12


@pytest.fixture
async def export_id(place: Place, app: App) -> str:
    """An export of several pieces that nobody writes but the test."""
    await upload(place.owner, place.workspace_id, os.urandom(SOURCE_PIECES * PIECE), name="large.bin")
    async with app.db.write(UUID(place.org_id)) as tx:
        export = await store.create(tx, UUID(place.org_id), UUID(place.owner.user_id))
    assert export
    return str(export.id)


Step = Callable[[int], Awaitable[None]]


class Stepwise(Content):
    """Files of an organization in which something happens before each piece of an export is stored."""

    step: Step

    async def append(self, file_id: UUID, number: int, data: bytes) -> None:
        await self.step(number)
        await super().append(file_id, number, data)


class StepwiseFiles(Files):
    def __init__(self, app: App, step: Step) -> None:
        super().__init__(app.mongo, ObjectStores(None))
        self.app, self.step = app, step

    def of(self, org_id: UUID) -> Content:
        content = Stepwise(self.app.mongo, ObjectStores(None), org_id)
        content.step = self.step
        return content


def stepwise(app: App, step: Step, check_seconds: float = 0) -> Exporter:
    return Exporter(app.db, app.mongo, StepwiseFiles(app, step), check_seconds)


async def find(place: Place, export_id: str) -> pb.Export:
    found: pb.Export = (await get_export(place.owner, place.org_id, export_id)).export
    return found


async def in_files(app: App, place: Place, stores: Stores) -> dict[UUID, int]:
    """How many pieces each file has that is of no document."""
    blobs = {row[0] for row in await sql(stores, "SELECT id FROM blobs WHERE org_id = %s", place.org_id)}
    found = app.mongo.database["documents.chunks"].find({"org_id": UUID(place.org_id)}, ["files_id"])
    counts: dict[UUID, int] = {}
    async for piece in found:
        counts[piece["files_id"]] = counts.get(piece["files_id"], 0) + 1
    return {file_id: count for file_id, count in counts.items() if file_id not in blobs}


async def test_progress_shows_while_it_is_written(place: Place, app: App, export_id: str) -> None:
    seen: list[pb.Export] = []

    async def step(number: int) -> None:
        seen.append(await find(place, export_id))

    assert (await find(place, export_id)).state == pb.EXPORT_STATE_PENDING
    await export_jobs(app, stepwise(app, step)).export(place.org_id, export_id)
    assert {each.state for each in seen} == {pb.EXPORT_STATE_RUNNING}
    sizes = [each.size_bytes for each in seen]
    assert sizes == sorted(sizes)
    assert sizes[-1] >= (SOURCE_PIECES - 1) * PIECE
    assert seen[-1].row_count > 0
    ready = await find(place, export_id)
    assert (ready.state, ready.row_count) == (pb.EXPORT_STATE_READY, seen[-1].row_count)


async def test_a_second_attempt_begins_anew_and_leaves_nothing_of_the_first(
    place: Place, app: App, stores: Stores, export_id: str
) -> None:
    async def die(number: int) -> None:
        if number == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        await export_jobs(app, stepwise(app, die)).export(place.org_id, export_id)
    [left] = await in_files(app, place, stores)
    await export_jobs(app).export(place.org_id, export_id)
    export = await find(place, export_id)
    assert export.state == pb.EXPORT_STATE_READY
    assert left not in await in_files(app, place, stores)
    opened(await download_export(place.owner, export))


async def test_a_server_that_lost_its_claim_stops_and_deletes_what_it_stored(
    place: Place, app: App, stores: Stores, export_id: str
) -> None:
    async def taken_over(number: int) -> None:
        if number == 1:
            await export_jobs(app).export(place.org_id, export_id)

    numbers: list[int] = []

    async def step(number: int) -> None:
        numbers.append(number)
        await taken_over(number)

    await export_jobs(app, stepwise(app, step)).export(place.org_id, export_id)
    assert numbers == [0, 1], "it noticed before the next piece"
    export = await find(place, export_id)
    assert export.state == pb.EXPORT_STATE_READY
    assert len(await in_files(app, place, stores)) == 1
    opened(await download_export(place.owner, export))


async def test_a_claim_that_is_lost_at_the_end_makes_nothing_ready(place: Place, app: App, export_id: str) -> None:
    async with app.db.write(UUID(place.org_id)) as tx:
        claim = await store.claim(tx, UUID(export_id), MOST_ATTEMPTS)
    assert claim
    await export_jobs(app).export(place.org_id, export_id)
    before = await find(place, export_id)
    with pytest.raises(ClaimLost):
        await Exporter(app.db, app.mongo, files_in(app.mongo), check_seconds=3600).write(claim)
    assert await find(place, export_id) == before
    opened(await download_export(place.owner, before))


@pytest.mark.parametrize("how", ["export", "organization"])
async def test_an_export_in_progress_ends_when_it_is_deleted(
    how: str, place: Place, app: App, stores: Stores, export_id: str
) -> None:
    numbers: list[int] = []

    async def step(number: int) -> None:
        numbers.append(number)
        if number == 1 and how == "export":
            await place.owner.data.DeleteExport(pb.DeleteExportRequest(org_id=place.org_id, export_id=export_id))
        elif number == 1:
            await delete_org(place.owner, place.org_id)
            await sql(stores, "DELETE FROM exports WHERE org_id = %s", place.org_id)

    await export_jobs(app, stepwise(app, step)).export(place.org_id, export_id)
    assert numbers == [0, 1]
    assert await in_files(app, place, stores) == {}
    assert await sql(stores, "SELECT FROM exports WHERE id = %s AND state = 'ready'", export_id) == []


async def test_what_a_dead_server_stored_too_late_is_deleted(
    place: Place, app: App, stores: Stores, export_id: str
) -> None:
    """By the periodic job, once no server can store more of it."""
    async with app.db.write(UUID(place.org_id)) as tx:
        late = await store.claim(tx, UUID(export_id), MOST_ATTEMPTS)
    assert late
    await export_jobs(app).export(place.org_id, export_id)
    export = await find(place, export_id)
    await files_in(app.mongo).of(late.org_id).append(late.file_id, 0, b"too late")
    await export_jobs(app).purge()
    assert late.file_id in await in_files(app, place, stores), "more may come"
    await sql(stores, "UPDATE exports SET end_time = %s WHERE id = %s", now() - timedelta(hours=1), export_id)
    await export_jobs(app).purge()
    assert late.file_id not in await in_files(app, place, stores)
    opened(await download_export(place.owner, export))
    assert await sql(stores, "SELECT FROM exports WHERE id = %s AND left_file_ids = '{}'", export_id) == [()]


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (RuntimeError("broken"), pb.EXPORT_FAILURE_REASON_INTERNAL),
        (ConnectionFailure("gone"), pb.EXPORT_FAILURE_REASON_STORE_UNAVAILABLE),
    ],
)
async def test_an_export_fails_after_ten_attempts(
    error: Exception,
    reason: pb.ExportFailureReason.ValueType,
    place: Place,
    app: App,
    stores: Stores,
    export_id: str,
) -> None:
    async def step(number: int) -> None:
        if number == 1:
            raise error

    jobs = export_jobs(app, stepwise(app, step))
    for _ in range(MOST_ATTEMPTS - 1):
        with pytest.raises(type(error)):
            await jobs.export(place.org_id, export_id)
        assert (await find(place, export_id)).state == pb.EXPORT_STATE_RUNNING
    await jobs.export(place.org_id, export_id)
    failed = await find(place, export_id)
    assert (failed.state, failed.failure_reason, failed.size_bytes) == (pb.EXPORT_STATE_FAILED, reason, 0)
    assert failed.HasField("expire_time")
    await sql(stores, "UPDATE exports SET end_time = %s WHERE id = %s", now() - timedelta(hours=1), export_id)
    await jobs.purge()
    assert await in_files(app, place, stores) == {}
    assert await sql(stores, "SELECT state FROM exports WHERE id = %s", export_id) == [(ExportState.FAILED,)]


async def test_an_export_that_kills_each_server_fails(place: Place, app: App, stores: Stores, export_id: str) -> None:
    used = "UPDATE exports SET state = 'running', attempt_count = %s WHERE id = %s"
    await sql(stores, used, MOST_ATTEMPTS, export_id)
    await export_jobs(app).export(place.org_id, export_id)
    failed = await find(place, export_id)
    assert (failed.state, failed.failure_reason) == (pb.EXPORT_STATE_FAILED, pb.EXPORT_FAILURE_REASON_INTERNAL)


async def test_a_job_that_runs_again_changes_nothing(place: Place, app: App, export_id: str) -> None:
    await export_jobs(app).export(place.org_id, export_id)
    before, pieces = await find(place, export_id), await stored_pieces(app, place.org_id)
    await export_jobs(app).export(place.org_id, export_id)
    assert (await find(place, export_id), await stored_pieces(app, place.org_id)) == (before, pieces)


async def test_a_document_whose_bytes_go_while_it_is_read_is_said_to_be_incomplete(
    place: Place, app: App, export_id: str
) -> None:
    last = {"org_id": UUID(place.org_id), "n": SOURCE_PIECES - 1}
    await app.mongo.database["documents.chunks"].delete_one(last)
    await export_jobs(app).export(place.org_id, export_id)
    found = opened(await download_export(place.owner, await find(place, export_id)))
    [entry] = [each for each in found.manifest["files"] if each["name"].startswith("documents/")]
    assert (entry["incomplete"], entry["bytes"]) == (True, (SOURCE_PIECES - 1) * PIECE)
