"""Reads documents of a workspace again, each as a new version with the same bytes, a page in each transaction.

The call makes the versions of the first page, and a job those of each further page. The job of the next page is
enqueued in the transaction of the one before, so a server that dies loses none. If a job runs twice, the
second run leaves out the documents of the first: their latest versions were made after the call.
"""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from ..kit.errors import NotFound
from ..kit.jobs import SLOW_QUEUE, Jobs
from ..kit.postgres import Database, WriteSession
from ..parsing.media_types import type_to_keep
from . import store, versions
from .ending import Ending
from .ingestion import INGEST
from .versions import Reindexed

REINDEX = "documents.reindex"
PAGE = 100  # documents


class Reindexing:
    def __init__(self, db: Database, jobs: Jobs, ending: Ending, page: int = PAGE) -> None:
        self._db = db
        self._jobs = jobs
        self._ending = ending
        self._page = page

    def register(self) -> None:
        self._jobs.add(REINDEX, self.go_on, SLOW_QUEUE)

    async def begin(self, tx: WriteSession, org_id: UUID, workspace_id: UUID, document_ids: Sequence[UUID]) -> int:
        """Have these documents read again, or all of the workspace if there are none. Return their number."""
        if not await store.hold_workspace(tx, workspace_id):
            raise NotFound("workspace_id")
        done = await self._do_page(tx, org_id, Reindexed(workspace_id, document_ids))
        if len(done) < self._page:
            return len(done)
        rest = Reindexed(workspace_id, document_ids, after=done[-1])
        count, latest = await versions.count_to_reindex(tx, rest)
        if count:
            await self._enqueue(tx, org_id, rest._replace(until=latest))
        return len(done) + count

    async def go_on(self, org_id: str, workspace_id: str, document_ids: str, after: str, until: str) -> None:
        """Do the next page, unless the workspace was deleted meanwhile. A job."""
        org, ids = UUID(org_id), [UUID(each) for each in document_ids.split()]
        which = Reindexed(UUID(workspace_id), ids, UUID(after), datetime.fromisoformat(until))
        async with self._db.write(org) as tx:
            if not await store.hold_workspace(tx, which.workspace_id):
                return
            done = await self._do_page(tx, org, which)
            if len(done) == self._page:
                await self._enqueue(tx, org, which._replace(after=done[-1]))

    async def _do_page(self, tx: WriteSession, org_id: UUID, which: Reindexed) -> list[UUID]:
        """Make versions of the first documents, at most a page. Return their ids."""
        documents = await versions.list_to_reindex(tx, which, self._page)
        for document, blob_id, media_type in documents:
            kept = type_to_keep(media_type, document.name)
            version = await versions.add(tx, document, blob_id, kept, later_than=which.until)
            await self._ending.end_superseded(tx, document, version)
        if documents:
            await tx.flush()
            await self._jobs.enqueue_once(tx, INGEST, org_id=org_id)
        return [document.id for document, _, _ in documents]

    async def _enqueue(self, tx: WriteSession, org_id: UUID, which: Reindexed) -> None:
        """Enqueue the job of a page that is not the first."""
        assert which.after
        assert which.until
        await self._jobs.enqueue(
            tx,
            REINDEX,
            org_id=org_id,
            workspace_id=which.workspace_id,
            document_ids=" ".join(str(each) for each in which.ids if each > which.after),
            after=which.after,
            until=which.until.isoformat(),
        )
