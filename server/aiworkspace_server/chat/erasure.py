"""Erases what was said: documents in MongoDB, streams in Redis, and what the claims of runs have of their requests.

Every run has a claim in PostgreSQL, which stays. So the documents of a run are found also when a late writer stored
them after its conversation was gone, and a pass over all claims of a scope can be repeated at any time.
"""

import asyncio
from collections.abc import AsyncIterator, Collection, Sequence
from datetime import datetime, timedelta
from uuid import UUID

from sqlalchemy import ColumnElement, Row, true

from ..conversations.store import ConversationStore, list_orgs_of, list_unpurged
from ..kit.mongo import Filter, Mongo
from ..kit.postgres import Database
from ..kit.timestamps import now
from ..runs import claims
from ..runs.cancellation import Cancellation
from ..runs.store import RunStore
from ..runs.streams.redis import RedisEventBus
from ..runs.tables import RunClaim

# After this time, no call or run that began before the deletion can still write.
SETTLED = timedelta(minutes=1)

_BATCH = 500
_ENDING_SECONDS = 60  # that the end of runs is waited for before the job is put off
_LATELY = timedelta(hours=1)  # longer than a run whose server may still send something


class ChatEraser:
    """Each method is one pass: it cancels what is in progress, erases, and returns whether it found anything."""

    def __init__(self, db: Database, mongo: Mongo, cancellation: Cancellation, bus: RedisEventBus) -> None:
        self._db = db
        self._mongo = mongo
        self._cancellation = cancellation
        self._bus = bus

    async def erase_org(self, org_id: UUID) -> bool:
        found = await self._erase_runs(org_id, true())
        found += await self._runs(org_id).delete_all()
        return found + await self._conversations(org_id).delete_all() > 0

    async def erase_workspace(self, org_id: UUID, workspace_id: UUID) -> bool:
        found = await self._erase_runs(org_id, RunClaim.workspace_id == workspace_id)
        return found + await self._erase_conversations(org_id, {"workspace_id": workspace_id}) > 0

    async def erase_person(self, org_id: UUID, user_id: UUID) -> bool:
        """Erase what a person wrote in one organization."""
        found = await self._erase_runs(org_id, RunClaim.user_id == user_id)
        return found + await self._erase_conversations(org_id, {"user_id": user_id}) > 0

    async def list_orgs_of(self, user_id: UUID) -> set[UUID]:
        """The organizations in which there may be something to erase of a person, former ones included."""
        async with self._db.read() as tx:
            claimed = await claims.list_orgs_of(tx, user_id)
        return {*claimed, *await list_orgs_of(self._mongo, user_id)}

    def list_deleted(self) -> AsyncIterator[tuple[UUID, UUID]]:
        """List organization and id of conversations whose erasure is not finished."""
        return list_unpurged(self._mongo, now() - SETTLED)

    async def erase_conversation(self, org_id: UUID, conversation_id: UUID) -> bool:
        """Erase the content of a deleted conversation. Its id and times stay."""
        store, begin = self._conversations(org_id), now()
        deleted = await store.find_delete_time(conversation_id)
        found = await self._erase_runs(org_id, RunClaim.conversation_id == conversation_id)
        found += await self._runs(org_id).delete_of_conversations([conversation_id])
        if deleted and not found and begin - deleted >= SETTLED:
            await store.note_purge(conversation_id)
        return found > 0

    async def _erase_conversations(self, org_id: UUID, where: Filter) -> int:
        store, found = self._conversations(org_id), 0
        while ids := await store.some_ids(where, _BATCH):
            found += await self._runs(org_id).delete_of_conversations(ids) + await store.delete(ids)
        return found

    async def _erase_runs(self, org_id: UUID, which: ColumnElement[bool]) -> int:
        """Erase runs, after cancelling them, with all other runs of their conversations."""
        async with asyncio.timeout(_ENDING_SECONDS):
            await self._cancellation.cancel_all(org_id, which)
        store, found, after = self._runs(org_id), 0, None
        while rows := await self._list_claimed(org_id, which, after):
            ids = [row.run_id for row in rows]
            await self._bus.erase(ids, _lately(rows))
            found += await store.delete_of_conversations({row.conversation_id for row in rows})
            found += await store.delete(ids)
            await self._forget(org_id, ids)
            after = ids[-1]
        return found

    async def _list_claimed(
        self, org_id: UUID, which: ColumnElement[bool], after: UUID | None
    ) -> Sequence[Row[UUID, UUID, datetime]]:
        async with self._db.read(org_id) as tx:
            return await claims.list_claimed(tx, which, after, _BATCH)

    async def _forget(self, org_id: UUID, run_ids: Collection[UUID]) -> None:
        async with self._db.write(org_id) as tx:
            await claims.forget_contents(tx, run_ids)

    def _conversations(self, org_id: UUID) -> ConversationStore:
        return ConversationStore(self._mongo, org_id)

    def _runs(self, org_id: UUID) -> RunStore:
        return RunStore(self._mongo, org_id)


def _lately(rows: Sequence[Row[UUID, UUID, datetime]]) -> set[UUID]:
    since = now() - _LATELY
    return {row.run_id for row in rows if row.create_time > since}
