"""Queries on exports. The session sets the tenant, or the function that is called."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, delete, exists, func, or_, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ...kit.ids import new_id
from ...kit.postgres import ReadSession, WriteSession
from ...kit.timestamps import now
from .models import IN_PROGRESS, Export, ExportState, FailureReason

LIFETIME = timedelta(hours=72)  # from its end
_LIST_ENDED = text("SELECT org_id, id FROM list_ended_exports(:before, :now, :limit)")


def _visible() -> tuple[ColumnElement[bool], ...]:
    return Export.delete_time.is_(None), or_(Export.expire_time.is_(None), Export.expire_time > now())


async def create(tx: WriteSession, org_id: UUID, user_id: UUID) -> Export | None:
    """Return a new export, or None if one is in progress."""
    values = {"org_id": org_id, "id": new_id(), "user_id": user_id, "state": ExportState.PENDING, "create_time": now()}
    new = insert(Export).values(values).on_conflict_do_nothing().returning(Export)
    return (await tx.execute(new)).scalar_one_or_none()


async def find(tx: ReadSession, export_id: UUID) -> Export | None:
    query = select(Export).where(Export.id == export_id, *_visible())
    return (await tx.execute(query)).scalar_one_or_none()


async def find_in_progress(tx: ReadSession) -> UUID | None:
    query = select(Export.id).where(Export.state.in_(IN_PROGRESS), *_visible())
    return (await tx.execute(query)).scalar_one_or_none()


async def count_kept(tx: ReadSession) -> int:
    """Return how many exports have bytes or will have some."""
    query = select(func.count()).select_from(Export).where(Export.state != ExportState.FAILED, *_visible())
    return int((await tx.execute(query)).scalar_one())


async def list_exports(tx: ReadSession, before: UUID | None, limit: int) -> Sequence[Export]:
    """Return exports, the latest first."""
    query = select(Export).where(*_visible())
    if before:
        query = query.where(Export.id < before)
    return (await tx.execute(query.order_by(Export.id.desc()).limit(limit))).scalars().all()


async def mark_deleted(tx: WriteSession, export_id: UUID) -> bool:
    """Make an export a tombstone. Return False if there is none."""
    gone = update(Export).where(Export.id == export_id, *_visible()).values(delete_time=now())
    return (await tx.execute(gone.returning(Export.id))).first() is not None


async def mark_all_deleted(tx: WriteSession) -> Sequence[UUID]:
    """Make all exports of the organization tombstones. Return their ids."""
    gone = update(Export).where(*_visible()).values(delete_time=now())
    return (await tx.execute(gone.returning(Export.id))).scalars().all()


# While it is written


class Claim(NamedTuple):
    """An attempt to write an export."""

    org_id: UUID
    export_id: UUID
    file_id: UUID
    start_time: datetime
    is_last: bool
    left_file_ids: Sequence[UUID]  # of attempts before


class Counts(NamedTuple):
    """What an export has so far."""

    row_count: int
    file_count: int
    size_bytes: int


async def claim(tx: WriteSession, export_id: UUID, most_attempts: int) -> Claim | None:
    """Begin an attempt, which ends those before. Return None if there is nothing to write any more.

    An export whose attempts were all used, because servers died during them, fails here.
    """
    query = select(Export).where(Export.id == export_id, Export.state.in_(IN_PROGRESS), Export.delete_time.is_(None))
    export = (await tx.execute(query.with_for_update())).scalar_one_or_none()
    if export is None:
        return None
    if export.file_id:
        export.left_file_ids = [*export.left_file_ids, export.file_id]
    if export.attempt_count >= most_attempts:
        _fail(export, FailureReason.INTERNAL)
        return None
    export.state, export.file_id, export.start_time = ExportState.RUNNING, new_id(), now()
    export.attempt_count += 1
    export.row_count = export.file_count = export.size_bytes = 0
    last = export.attempt_count == most_attempts
    return Claim(export.org_id, export.id, export.file_id, export.start_time, last, export.left_file_ids)


def _mine(claim: Claim) -> tuple[ColumnElement[bool], ...]:
    return Export.id == claim.export_id, Export.file_id == claim.file_id, Export.delete_time.is_(None)


async def note_progress(tx: WriteSession, claim: Claim, counts: Counts) -> bool:
    """Return False if the claim is lost: the export was deleted, or another server writes it."""
    return await _change(tx, claim, counts._asdict())


async def finish(tx: WriteSession, claim: Claim, counts: Counts, sha256: bytes) -> bool:
    """Make an export READY. Return False if the claim is lost."""
    time = now()
    end = {"state": ExportState.READY, "sha256": sha256, "end_time": time, "expire_time": time + LIFETIME}
    return await _change(tx, claim, counts._asdict() | end)


async def _change(tx: WriteSession, claim: Claim, values: dict[str, Any]) -> bool:
    changed = update(Export).where(*_mine(claim)).values(values).returning(Export.id)
    return (await tx.execute(changed)).first() is not None


async def fail(tx: WriteSession, claim: Claim, reason: FailureReason) -> None:
    """Make an export FAILED, unless the claim is lost."""
    export = (await tx.execute(select(Export).where(*_mine(claim)).with_for_update())).scalar_one_or_none()
    if export:
        export.left_file_ids = [*export.left_file_ids, claim.file_id]
        _fail(export, reason)


def _fail(export: Export, reason: FailureReason) -> None:
    export.state, export.failure_reason, export.file_id = ExportState.FAILED, reason, None
    export.row_count = export.file_count = export.size_bytes = 0
    export.end_time = now()
    export.expire_time = export.end_time + LIFETIME


async def has_file(tx: ReadSession, file_id: UUID) -> bool:
    """Return whether an export has the file, or is being written into it."""
    query = select(exists().where(Export.file_id == file_id, Export.delete_time.is_(None)))
    return bool((await tx.execute(query)).scalar_one())


# After its end


async def list_ended(tx: ReadSession, before: datetime, limit: int) -> Sequence[tuple[UUID, UUID]]:
    """Return organization and id of exports with something to delete.

    Those that have expired, were deleted before a time, or have files of attempts that were lost before it.
    """
    rows = await tx.execute(_LIST_ENDED, {"before": before, "now": now(), "limit": limit})
    return [(row.org_id, row.id) for row in rows]


async def find_row(tx: ReadSession, export_id: UUID) -> Export | None:
    """Return an export, also one that was deleted or has expired."""
    return (await tx.execute(select(Export).where(Export.id == export_id))).scalar_one_or_none()


async def forget_left(tx: WriteSession, export_id: UUID, file_ids: Sequence[UUID]) -> None:
    """Note that files of lost attempts are deleted, unless there are more of them now."""
    same = Export.id == export_id, Export.left_file_ids == list(file_ids)
    await tx.execute(update(Export).where(*same).values(left_file_ids=[]))


async def forget(tx: WriteSession, export_id: UUID) -> None:
    await tx.execute(delete(Export).where(Export.id == export_id))
