"""Jobs of documents: reading them, what ended versions leave behind, and uploads that were not finished."""

from datetime import timedelta

from ..kit.jobs import READING_QUEUE, SLOW_QUEUE, Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database
from ..kit.timestamps import now
from . import store, versions
from .content import PIECE_SECONDS
from .ending import ERASE_BYTES, ERASE_VERSION, Ending
from .ingestion import INGEST, WAKE, Ingestion
from .service import DocumentService
from .streams import CHECK_SECONDS

_END_UPLOADS, _FORGET_VERSIONS = "documents.end_uploads", "documents.forget_versions"
_EVERY_MINUTE = "* * * * *"
_EVERY_5_SECONDS = "* * * * * */5"
_AT_ONCE = 500
# After which no stream can still store a piece of an upload that was given up. Twice that, because clocks differ.
_SETTLED = timedelta(seconds=2 * (CHECK_SECONDS + PIECE_SECONDS))
_NOTICED = timedelta(seconds=10)  # after which no step can still store something of a version that has ended


class UploadJobs:
    def __init__(self, db: Database, documents: DocumentService) -> None:
        self._db = db
        self._documents = documents

    def register(self, jobs: Jobs) -> None:
        jobs.every(_EVERY_MINUTE, _END_UPLOADS, self.end_uploads)

    async def end_uploads(self) -> None:
        """Give up uploads that have expired, and delete what is left of those that were given up."""
        async with self._db.read() as tx:
            expired = await store.list_expired_uploads(tx, now(), _AT_ONCE)
            ended = await store.list_ended_uploads(tx, now() - _SETTLED, _AT_ONCE)
        this = Pass(_END_UPLOADS)
        for org_id, upload_id in expired:
            with this.item(org_id=org_id, upload_id=upload_id):
                await self._documents.end_expired(org_id, upload_id)
        for org_id, upload_id in ended:
            with this.item(org_id=org_id, upload_id=upload_id):
                await self._documents.forget_ended(org_id, upload_id)


class VersionJobs:
    def __init__(self, db: Database, ending: Ending, ingestion: Ingestion) -> None:
        self._db = db
        self._ending = ending
        self._ingestion = ingestion

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs. Needed to enqueue them, too."""
        jobs.add(INGEST, self._ingestion.ingest, READING_QUEUE, once=True)
        jobs.add(ERASE_BYTES, self._ending.erase_bytes, SLOW_QUEUE)
        jobs.add(ERASE_VERSION, self._ending.erase_version, SLOW_QUEUE)
        jobs.every(_EVERY_5_SECONDS, WAKE, self._ingestion.wake)
        jobs.every(_EVERY_5_SECONDS, _FORGET_VERSIONS, self.forget_versions)

    async def forget_versions(self) -> None:
        """Delete the tombstones of ended versions, with what late steps stored of them."""
        async with self._db.read() as tx:
            ended = await versions.list_ended(tx, now() - _NOTICED, _AT_ONCE)
        this = Pass(_FORGET_VERSIONS)
        for org_id, version_id in ended:
            with this.item(org_id=org_id, version_id=version_id):
                await self._ending.forget(org_id, version_id)
