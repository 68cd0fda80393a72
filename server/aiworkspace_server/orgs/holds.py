"""Legal holds: what an organization or a workspace holds must not be deleted, by anybody.

Each deletion checks in its own transaction, under a shared lock that it keeps until it is done. A hold takes the lock
alone: when it is answered, no deletion that had not seen it is in progress.
"""

from collections.abc import Iterable
from datetime import datetime
from uuid import UUID

from sqlalchemy import ForeignKey, select, text
from sqlalchemy.orm import Mapped, mapped_column

from aiworkspace.v1 import common_pb2 as pb

from ..kit.errors import FailedPrecondition
from ..kit.postgres import Base, ReadSession, WriteSession


class DataPolicy(Base):
    """Retention and hold of an organization, or of one of its workspaces."""

    __tablename__ = "data_policies"

    org_id: Mapped[UUID] = mapped_column(ForeignKey("orgs.id"), primary_key=True)
    scope_id: Mapped[UUID] = mapped_column(primary_key=True)  # the organization or the workspace
    conversation_days: Mapped[int] = mapped_column(default=0)
    document_days: Mapped[int] = mapped_column(default=0)
    attempt_days: Mapped[int] = mapped_column(default=0)
    attempts_until: Mapped[UUID | None]  # the last run whose attempts were deleted
    hold_time: Mapped[datetime | None]
    hold_reason: Mapped[str] = mapped_column(default="")


class OnHold(FailedPrecondition):
    """A legal hold keeps what was to be deleted."""

    def __init__(self) -> None:
        message = "A legal hold keeps everything here. An owner ends it with SetLegalHold."
        super().__init__(pb.ERROR_REASON_LEGAL_HOLD, message)


_SHARE = text("SELECT pg_advisory_xact_lock_shared(hashtextextended('hold ' || CAST(:org_id AS text), 0))")
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('hold ' || CAST(:org_id AS text), 0))")
_IS_HELD = text("""
  SELECT EXISTS (
    SELECT FROM data_policies
    WHERE hold_time IS NOT NULL AND (scope_id = org_id OR scope_id = :workspace_id))
""")
_IS_ANY_HELD = text("SELECT is_any_held(CAST(:org_ids AS uuid[]))")


async def check_workspace(tx: ReadSession, org_id: UUID, workspace_id: UUID) -> None:
    """Raise OnHold if the workspace or its organization is held. Neither becomes so until the transaction ends."""
    await tx.execute(_SHARE, {"org_id": org_id})
    if (await tx.execute(_IS_HELD, {"workspace_id": workspace_id})).scalar_one():
        raise OnHold


async def list_held(tx: ReadSession, org_id: UUID) -> set[UUID]:
    """Return what is held: the organization, or workspaces. Nothing else is held until the transaction ends."""
    await tx.execute(_SHARE, {"org_id": org_id})
    return set((await tx.execute(select(DataPolicy.scope_id).where(DataPolicy.hold_time.is_not(None)))).scalars())


async def check_orgs(tx: ReadSession, org_ids: Iterable[UUID]) -> None:
    """Raise OnHold if one of the organizations, or a workspace of one, is held. None becomes so meanwhile."""
    ordered = sorted(org_ids)  # by id, so that concurrent calls cannot deadlock
    for org_id in ordered:
        await tx.execute(_SHARE, {"org_id": org_id})
    if (await tx.execute(_IS_ANY_HELD, {"org_ids": ordered})).scalar_one():
        raise OnHold


async def stop_deletions(tx: WriteSession, org_id: UUID) -> None:
    """Wait for deletions in progress, and have others wait, until the transaction ends."""
    await tx.execute(_ALONE, {"org_id": org_id})
