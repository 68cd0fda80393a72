"""Queries on data policies, and on what is older than they allow."""

from collections.abc import Sequence
from datetime import datetime
from uuid import UUID

from sqlalchemy import ColumnElement, select, text, true, update

from ..documents.models import Document
from ..kit.ids import first_id_at
from ..kit.postgres import Database, ReadSession, WriteSession
from ..orgs.holds import DataPolicy
from ..runs.tables import RunClaim
from ..workspaces.models import Workspace

_LIST_ORGS = text("SELECT * FROM list_retention_orgs()")


async def list_orgs(db: Database) -> Sequence[UUID]:
    """Return the organizations with a retention, but for suspended ones."""
    async with db.read() as tx:
        return (await tx.execute(_LIST_ORGS)).scalars().all()


async def find_policy(tx: ReadSession, scope_id: UUID) -> DataPolicy | None:
    return (await tx.execute(select(DataPolicy).where(DataPolicy.scope_id == scope_id))).scalar_one_or_none()


async def list_policies(tx: ReadSession) -> Sequence[DataPolicy]:
    return (await tx.execute(select(DataPolicy))).scalars().all()


async def lock_policy(tx: WriteSession, org_id: UUID, scope_id: UUID) -> DataPolicy:
    """Return the policy, locked until the transaction ends. It is made if there is none."""
    query = select(DataPolicy).where(DataPolicy.scope_id == scope_id).with_for_update()
    policy = (await tx.execute(query)).scalar_one_or_none()
    if policy is None:
        policy = DataPolicy(
            org_id=org_id, scope_id=scope_id, conversation_days=0, document_days=0, attempt_days=0, hold_reason=""
        )
        tx.add(policy)
    return policy


async def forget_progress(tx: WriteSession) -> None:
    """Have attempts looked for from the beginning: another policy may concern other runs."""
    await tx.execute(update(DataPolicy).where(DataPolicy.attempts_until.is_not(None)).values(attempts_until=None))


async def note_progress(tx: WriteSession, scope_id: UUID, before: UUID | None, run_id: UUID) -> bool:
    """Note the last run without attempts. Return False if the one before is not the noted one any more."""
    same = DataPolicy.scope_id == scope_id, DataPolicy.attempts_until.is_not_distinct_from(before)
    changed = update(DataPolicy).where(*same).values(attempts_until=run_id).returning(DataPolicy.scope_id)
    return (await tx.execute(changed)).first() is not None


async def list_workspaces(tx: ReadSession) -> Sequence[UUID]:
    query = select(Workspace.id).where(Workspace.delete_time.is_(None))
    return (await tx.execute(query)).scalars().all()


async def old_documents(tx: ReadSession, workspace_id: UUID, before: datetime, limit: int) -> Sequence[UUID]:
    """Return documents of a workspace that were not changed since."""
    query = select(Document.id).where(Document.workspace_id == workspace_id, Document.update_time < before)
    return (await tx.execute(query.limit(limit))).scalars().all()


async def old_runs(
    tx: ReadSession, where: ColumnElement[bool], after: UUID | None, before: datetime, limit: int
) -> Sequence[UUID]:
    """Return closed runs that began before a time, in order, from the one that follows `after`."""
    query = select(RunClaim.run_id).where(where, RunClaim.state == "closed", RunClaim.run_id < first_id_at(before))
    query = query.where(RunClaim.run_id > after if after else true())
    return (await tx.execute(query.order_by(RunClaim.run_id).limit(limit))).scalars().all()
