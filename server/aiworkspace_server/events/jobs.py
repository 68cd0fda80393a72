"""Deletes events that were kept for long enough, and what was sent of them."""

from datetime import timedelta

from ..kit.jobs import Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database
from ..kit.timestamps import now
from . import store

RETENTION = timedelta(days=30)

_PURGE, _EVERY_10_MINUTES = "events.purge", "*/10 * * * *"
_BATCH = 1000


class Retention:
    def __init__(self, db: Database) -> None:
        self._db = db

    def register(self, jobs: Jobs) -> None:
        jobs.every(_EVERY_10_MINUTES, _PURGE, self.purge)

    async def purge(self) -> None:
        """Delete old events, batch by batch, each in its own transaction."""
        before, this, deleted = now() - RETENTION, Pass(_PURGE), 1
        while deleted:
            deleted = 0
            async with self._db.read() as tx:
                org_ids = await store.list_orgs_with_old(tx, before, _BATCH)
            for org_id in org_ids:
                with this.item(org_id=org_id):
                    async with self._db.write(org_id) as tx:
                        deleted += await store.delete_old(tx, before, _BATCH)
