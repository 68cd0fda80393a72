"""Rules of erasures that owners ask for: of their organization, or of what a former member has left in it."""

from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import ColumnElement, Row, select, text, update

from aiworkspace.v1 import common_pb2 as pb

from ..auth.authority import Principal
from ..kit.errors import FailedPrecondition, NotFound
from ..kit.ids import new_id
from ..kit.postgres import Database, ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs import granting
from ..orgs import service as orgs
from ..orgs.holds import check_orgs
from ..orgs.store import find_member, lock_org
from .models import Erasure
from .receipts import Counted, Line

TIME_TO_CANCEL = timedelta(days=7)

_FIND_ORG = text("SELECT find_erasure(:id)")
_LIST_DUE = text("SELECT org_id, id FROM list_due_erasures(:before, :limit)")
_LIST_OPEN = text("SELECT org_id, id FROM list_open_erasures(:before, :limit)")
# Every former member has an audit entry, of joining, or a claim, of using a model.
_IS_KNOWN = text("""
  SELECT EXISTS (SELECT FROM audit_events WHERE chain_id = :org_id AND user_id = :user_id)
      OR EXISTS (SELECT FROM run_claims WHERE org_id = :org_id AND user_id = :user_id)
""")


class Asked(NamedTuple):
    """An erasure, and whether this call is the first that asked for it."""

    erasure: Erasure
    new: bool


async def ask_org(tx: WriteSession, org_id: UUID, caller: Principal) -> Asked:
    """Schedule the erasure of the organization, unless it is already. Raises OnHold."""
    await orgs.lock_org(tx, org_id, "org_id")
    await granting.check_may_grant(tx, caller)
    await check_orgs(tx, [org_id])
    time = now()
    return await _ask(tx, org_id, None, caller, time, time + TIME_TO_CANCEL)


async def ask_user(tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal) -> Asked:
    """Begin the erasure of a former member, unless it is in progress.

    Raises FailedPrecondition for members, NotFound for strangers, and OnHold.
    """
    await orgs.lock_org(tx, org_id, "org_id")
    await granting.check_may_grant(tx, caller)
    if await find_member(tx, user_id):
        message = "EraseUser is for people who are no members any more: remove this one with RemoveMember first."
        raise FailedPrecondition(pb.ERROR_REASON_STILL_MEMBER, message)
    if not (await tx.execute(_IS_KNOWN, {"org_id": org_id, "user_id": user_id})).scalar_one():
        raise NotFound("user_id")
    await check_orgs(tx, [org_id])
    time = now()
    asked = await _ask(tx, org_id, user_id, caller, time, time)
    asked.erasure.begin_time = asked.erasure.begin_time or time
    return asked


async def _ask(
    tx: WriteSession, org_id: UUID, user_id: UUID | None, caller: Principal, time: datetime, due_time: datetime
) -> Asked:
    query = select(Erasure).where(Erasure.user_id.is_not_distinct_from(user_id), *_is_open())
    if erasure := (await tx.execute(query)).scalar_one_or_none():
        return Asked(erasure, new=False)
    erasure = Erasure(org_id=org_id, id=new_id(), user_id=user_id, requester_id=caller.user_id)
    erasure.create_time, erasure.due_time = time, due_time
    tx.add(erasure)
    return Asked(erasure, new=True)


async def cancel(tx: WriteSession, org_id: UUID, erasure_id: UUID, caller: Principal) -> Erasure:
    """Cancel an erasure that has not begun. Idempotent. Raises NotFound and FailedPrecondition."""
    await orgs.lock_org(tx, org_id, "org_id")
    await granting.check_may_grant(tx, caller)
    erasure = await lock_erasure(tx, erasure_id)
    if erasure is None:
        raise NotFound("erasure_id")
    if erasure.begin_time:
        message = "The erasure has begun and cannot be cancelled."
        raise FailedPrecondition(pb.ERROR_REASON_ERASURE_CLOSED, message)
    erasure.cancel_time = erasure.cancel_time or now()
    return erasure


async def begin(tx: WriteSession, org_id: UUID, erasure_id: UUID) -> bool:
    """Delete an organization whose erasure is due. Raises OnHold.

    Return False if it was cancelled or has begun, or if the organization is suspended.
    """
    org = await lock_org(tx, org_id)  # before the erasure: CancelErasure locks in this order
    erasure = await lock_erasure(tx, erasure_id)
    if erasure is None or erasure.begin_time or erasure.cancel_time or (org and org.suspend_time):
        return False
    await orgs.end_org(tx, org_id)  # unless its owner did
    erasure.begin_time = now()
    return True


async def find_org(db: Database, erasure_id: UUID) -> UUID | None:
    """Return the organization of an erasure."""
    async with db.read() as tx:
        org_id: UUID | None = (await tx.execute(_FIND_ORG, {"id": erasure_id})).scalar_one()
    return org_id


async def find_erasure(tx: ReadSession, erasure_id: UUID) -> Erasure | None:
    return (await tx.execute(select(Erasure).where(Erasure.id == erasure_id))).scalar_one_or_none()


async def lock_erasure(tx: WriteSession, erasure_id: UUID) -> Erasure | None:
    query = select(Erasure).where(Erasure.id == erasure_id).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def list_erasures(tx: ReadSession, before: UUID | None, limit: int) -> Sequence[Erasure]:
    """Return erasures, newest first, starting after `before`."""
    query = select(Erasure).order_by(Erasure.id.desc()).limit(limit)
    if before:
        query = query.where(Erasure.id < before)
    return (await tx.execute(query)).scalars().all()


async def is_any_running(tx: ReadSession) -> bool:
    """Return whether an erasure in the organization has begun and is not done."""
    return (
        await tx.execute(select(Erasure.id).where(Erasure.begin_time.is_not(None), *_is_open()))
    ).first() is not None


async def list_due(tx: ReadSession, limit: int) -> Sequence[Row[UUID, UUID]]:
    """Return organization and id of erasures whose time has come."""
    return (await tx.execute(_LIST_DUE, {"before": now(), "limit": limit})).all()


async def list_open(tx: ReadSession, before: datetime, limit: int) -> Sequence[Row[UUID, UUID]]:
    """Return organization and id of erasures that began before a time and have not ended."""
    return (await tx.execute(_LIST_OPEN, {"before": before, "limit": limit})).all()


async def note_found(tx: WriteSession, erasure_id: UUID, found: Sequence[Counted]) -> None:
    await tx.execute(update(Erasure).where(Erasure.id == erasure_id, Erasure.found.is_(None)).values(found=[*found]))


async def note_end(tx: WriteSession, erasure_id: UUID, receipt: Sequence[Line]) -> None:
    ended = update(Erasure).where(Erasure.id == erasure_id, *_is_open())
    await tx.execute(ended.values(end_time=now(), receipt=[*receipt]))


def _is_open() -> tuple[ColumnElement[bool], ...]:
    return Erasure.end_time.is_(None), Erasure.cancel_time.is_(None)
