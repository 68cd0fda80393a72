"""What tests know of an object store, of MongoDB, and of the files in both."""

from datetime import timedelta
from uuid import UUID

import obstore
from obstore.store import S3Store

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.data_life.exports.store import has_file
from aiworkspace_server.documents.content import Content
from aiworkspace_server.documents.lost_writes import LostWrites
from aiworkspace_server.kit.timestamps import now
from tests.support.documents import files_in
from tests.support.people import Place

PIECE = 256 << 10
URL = "s3://documents/of/a/server"
MISMATCH = "INVALID_ARGUMENT UPLOAD_MISMATCH"
LARGE = 12 << 20  # in three parts


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


async def nothing(app: App, place: Place) -> bool:
    return not await in_mongo(app, place)


async def settle(app: App) -> None:
    """Do what the periodic job does, half an hour later."""
    past = {"$set": {"begin_time": now() - timedelta(minutes=30)}}
    await app.mongo.database["documents.writes"].update_many({}, past)
    await LostWrites(app.db, files_in(app.mongo, URL), has_file).settle()
