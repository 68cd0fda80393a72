"""The periodic job that deletes what is older than an organization or a workspace keeps it.

Conversations and documents are deleted one by one, as their owners would delete them, each after a look at the holds.
What a crash leaves of a deletion is found by the jobs that complete every deletion.
"""

from contextlib import suppress
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

import structlog

from ..chat.erasure import ChatEraser
from ..conversations.store import ConversationStore
from ..documents.erasure import DocumentEraser
from ..kit.jobs import Jobs
from ..kit.mongo import Mongo
from ..kit.passes import Pass
from ..kit.postgres import Database, any_of
from ..kit.timestamps import now
from ..orgs.holds import DataPolicy, OnHold, check_workspace, list_held
from ..runs.store import RunStore
from ..runs.tables import RunClaim
from . import store

_RETENTION = "data_life.retention"
_EVERY_HOUR = "23 * * * *"
_BATCH = 100

log = structlog.get_logger("data_life")


class _Kept(NamedTuple):
    """How long a workspace keeps things, in days. 0: without end."""

    workspace_id: UUID
    conversation_days: int
    document_days: int
    attempt_days: int
    attempts_scope: UUID  # whose policy has the progress of deleting attempts


class RetentionJob:
    def __init__(self, db: Database, mongo: Mongo, chats: ChatEraser, documents: DocumentEraser) -> None:
        self._db = db
        self._mongo = mongo
        self._chats = chats
        self._documents = documents

    def register(self, jobs: Jobs) -> None:
        jobs.every(_EVERY_HOUR, _RETENTION, self.delete_old)

    async def delete_old(self) -> None:
        """Delete what is too old in all organizations."""
        this = Pass(_RETENTION)
        for org_id in await store.list_orgs(self._db):
            with this.item(org_id=org_id):
                await self.delete_old_of(org_id)

    async def delete_old_of(self, org_id: UUID) -> None:
        """Delete what is too old in one organization, but for what is held."""
        async with self._db.read(org_id) as tx:
            policies = {policy.scope_id: policy for policy in await store.list_policies(tx)}
            workspaces = await store.list_workspaces(tx)
        held = {scope_id for scope_id, policy in policies.items() if policy.hold_time}
        if org_id in held:
            return
        kept = [_kept(org_id, each, policies) for each in workspaces if each not in held]
        this, conversations, documents = Pass(_RETENTION), 0, 0
        for each in kept:
            with this.item(org_id=org_id, workspace_id=each.workspace_id), suppress(OnHold):
                conversations += await self._delete_conversations(org_id, each)
                documents += await self._delete_documents(org_id, each)
        attempts = await self._delete_attempts(org_id, kept, policies)
        if conversations or documents or attempts:
            counts = {"conversations": conversations, "documents": documents, "runs_without_attempts": attempts}
            log.info("retention_deleted", org_id=str(org_id), **counts)

    async def _delete_conversations(self, org_id: UUID, kept: _Kept) -> int:
        if not kept.conversation_days:
            return 0
        before, deleted = now() - timedelta(days=kept.conversation_days), 0
        conversations = ConversationStore(self._mongo, org_id)
        while ids := await conversations.list_unchanged(kept.workspace_id, before, _BATCH):
            for conversation_id in ids:
                async with self._db.read(org_id) as tx:  # its lock keeps a hold waiting until all is erased
                    await check_workspace(tx, org_id, kept.workspace_id)
                    if await conversations.mark_unchanged_deleted(conversation_id, before):
                        await self._chats.erase_conversation(org_id, conversation_id)
                        deleted += 1
        return deleted

    async def _delete_documents(self, org_id: UUID, kept: _Kept) -> int:
        if not kept.document_days:
            return 0
        before, deleted = now() - timedelta(days=kept.document_days), 0
        while True:
            async with self._db.read(org_id) as tx:
                ids = await store.old_documents(tx, kept.workspace_id, before, _BATCH)
            for document_id in ids:
                deleted += await self._documents.erase_old(org_id, document_id, before)
            if len(ids) < _BATCH:
                return deleted

    async def _delete_attempts(self, org_id: UUID, kept: list[_Kept], policies: dict[UUID, DataPolicy]) -> int:
        """Delete the attempts of old runs, for each policy of all runs that it concerns."""
        deleted = 0
        for scope_id in {each.attempts_scope for each in kept if each.attempt_days}:
            same = [each for each in kept if each.attempts_scope == scope_id]
            workspaces, until = {each.workspace_id for each in same}, policies[scope_id].attempts_until
            before = now() - timedelta(days=same[0].attempt_days)
            while found := await self._delete_some_attempts(org_id, scope_id, workspaces, until, before):
                deleted += found[1]
                until = found[0]
        return deleted

    async def _delete_some_attempts(
        self, org_id: UUID, scope_id: UUID, workspaces: set[UUID], until: UUID | None, before: datetime
    ) -> tuple[UUID, int] | None:
        """Return the last run of a batch, and how many had attempts. None if there is nothing left to do."""
        async with self._db.write(org_id) as tx:
            held = await list_held(tx, org_id)
            if org_id in held:
                return None
            where = RunClaim.workspace_id == any_of(workspaces - held)
            run_ids = await store.old_runs(tx, where, until, before, _BATCH)
            if not run_ids or not await store.note_progress(tx, scope_id, until, run_ids[-1]):
                return None  # all are done, or the policy was changed meanwhile
            return run_ids[-1], await RunStore(self._mongo, org_id).forget_attempts(run_ids)


def _kept(org_id: UUID, workspace_id: UUID, policies: dict[UUID, DataPolicy]) -> _Kept:
    own, common = policies.get(workspace_id), policies.get(org_id)

    def days(name: str) -> int:
        return next((found for each in (own, common) if each and (found := int(getattr(each, name)))), 0)

    scope_id = workspace_id if own and own.attempt_days else org_id
    return _Kept(workspace_id, days("conversation_days"), days("document_days"), days("attempt_days"), scope_id)
