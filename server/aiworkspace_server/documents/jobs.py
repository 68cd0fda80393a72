"""Jobs of documents: bytes that no document has any more, and uploads that were not finished."""

from datetime import timedelta

from ..kit.jobs import SLOW_QUEUE, Jobs
from ..kit.postgres import Database
from ..kit.timestamps import now
from . import store
from .service import ERASE_BYTES, DocumentService

_END_UPLOADS = "documents.end_uploads"
_EVERY_MINUTE = "* * * * *"
_AT_ONCE = 500
_SETTLED = timedelta(minutes=1)  # after which no stream can still store something of an upload that was given up


class DocumentJobs:
    def __init__(self, db: Database, documents: DocumentService) -> None:
        self._db = db
        self._documents = documents

    def register(self, jobs: Jobs) -> None:
        """Declare the jobs. Needed to enqueue them, too."""
        jobs.add(ERASE_BYTES, self._documents.erase_bytes, SLOW_QUEUE)
        jobs.every(_EVERY_MINUTE, _END_UPLOADS, self.end_uploads)

    async def end_uploads(self) -> None:
        """Give up uploads that have expired, and delete what is left of those that were given up."""
        async with self._db.read() as tx:
            expired = await store.list_expired_uploads(tx, now(), _AT_ONCE)
            ended = await store.list_ended_uploads(tx, now() - _SETTLED, _AT_ONCE)
        for org_id, upload_id in expired:
            await self._documents.end_expired(org_id, upload_id)
        for org_id, upload_id in ended:
            await self._documents.forget_ended(org_id, upload_id)
