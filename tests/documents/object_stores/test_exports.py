"""Exports of a server whose files are in an object store."""

from uuid import UUID

from obstore.store import S3Store

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.timestamps import now
from tests.support.exports import delete_export, download_export, export_jobs, export_org, opened
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.stores import Stores
from tests.support.waiting import until

from .objects import URL, in_mongo, keys_of, settle


async def test_an_export_becomes_an_object_and_goes_with_it(app: App, bucket: S3Store, place: Place) -> None:
    export = await export_org(place.owner, place.org_id)
    assert export.state == pb.EXPORT_STATE_READY
    assert (len(await keys_of(bucket, place)), await in_mongo(app, place)) == (1, {"files": 1})
    data = await download_export(place.owner, export)
    assert opened(data).rows("org")
    await delete_export(place.owner, place.org_id, export.export_id)

    async def erased() -> bool:
        return not await keys_of(bucket, place) and not await in_mongo(app, place)

    await until(erased)


async def test_a_write_that_did_not_end_costs_no_export_its_object(
    app: App, bucket: S3Store, place: Place, own_stores: Stores
) -> None:
    """The process died after the export was READY, and before the write was noted as ended."""
    export = await export_org(place.owner, place.org_id)
    ((file_id,),) = await sql(own_stores, "SELECT file_id FROM exports WHERE id = %s", export.export_id)
    write = {"_id": new_id(), "file_id": file_id, "store": URL, "begin_time": now(), "org_id": UUID(place.org_id)}
    await app.mongo.database["documents.writes"].insert_one(write)
    await settle(app)
    assert await in_mongo(app, place) == {"files": 1}
    opened(await download_export(place.owner, export))


async def test_an_object_of_a_lost_attempt_is_deleted(
    app: App, bucket: S3Store, place: Place, own_stores: Stores
) -> None:
    """The process died after the object was stored, and before the export was READY."""
    export = await export_org(place.owner, place.org_id)
    unfinished = (
        "UPDATE exports SET state = 'running', sha256 = NULL, end_time = NULL, expire_time = NULL WHERE id = %s"
    )
    await sql(own_stores, unfinished, export.export_id)
    before = await keys_of(bucket, place)
    await export_jobs(app, store=URL).export(place.org_id, export.export_id)
    after = await keys_of(bucket, place)
    assert len(after) == 1
    assert before != after
    opened(await download_export(place.owner, export))
