"""Queries on budgets. The tenant is set by the session, never here."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, Select, and_, func, literal, select, text

from ..kit.postgres import ReadSession, WriteSession
from ..kit.timestamps import now
from ..usage.ledger import COUNTING_NEW_RUN, LIMIT, UNLIMITED
from .models import Budget, BudgetCount

_MEETING = text(f"""
  SELECT b.*, coalesce(w.settled_nanos, 0) AS settled_nanos, coalesce(w.reserved_nanos, 0) AS reserved_nanos
  FROM (SELECT b.org_id, b.id, b.scope, b.period, {LIMIT} AS limit_nanos, b.hard, counts.subject_id, counts.start_time
        FROM {COUNTING_NEW_RUN}) AS b
  LEFT JOIN budget_windows w ON w.budget_id = b.id AND w.subject_id = b.subject_id AND w.start_time = b.start_time
  WHERE b.limit_nanos < {UNLIMITED}
  ORDER BY b.id
""")
_COUNT_CREATED_ORG = text("""
  UPDATE users SET created_org_count = created_org_count + 1 WHERE id = :user_id RETURNING created_org_count
""")
_FORGET_ALERTS = text("""
  UPDATE budget_windows SET alerted_percent = least(
    alerted_percent, CASE WHEN :limit > 0 THEN floor(CAST(settled_nanos AS numeric) * 100 / :limit) ELSE 100 END)
  WHERE budget_id = :budget_id AND alerted_percent > 0
""")


async def find_budget(tx: ReadSession, budget_id: UUID) -> Row[Budget, BudgetCount | None] | None:
    """Return a budget and its current window. The window is None if nothing is spent or the budget is per subject."""
    return (await tx.execute(_with_counts().where(Budget.id == budget_id))).one_or_none()


async def list_budgets(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Row[Budget, BudgetCount | None]]:
    """Return budgets except the allowance, oldest first, starting after `after`."""
    query = _with_counts().where(Budget.scope != "allowance").order_by(Budget.id).limit(limit)
    if after:
        query = query.where(Budget.id > after)
    return (await tx.execute(query)).all()


def _with_counts() -> Select[Budget, BudgetCount | None]:
    present = and_(
        BudgetCount.budget_id == Budget.id,
        BudgetCount.subject_id == func.coalesce(Budget.subject_id, Budget.org_id),
        BudgetCount.start_time == func.date_trunc(Budget.period, literal(now()), "UTC"),
    )
    return select(Budget, BudgetCount).outerjoin(BudgetCount, present)


async def lock_budget(tx: WriteSession, budget_id: UUID) -> Budget | None:
    return (await tx.execute(select(Budget).where(Budget.id == budget_id).with_for_update())).scalar_one_or_none()


async def find_count(
    tx: ReadSession, budget_id: UUID, subject_id: UUID, start: datetime
) -> Row[Budget, BudgetCount] | None:
    """Return a budget and one of its windows."""
    query = select(Budget, BudgetCount).join(BudgetCount, BudgetCount.budget_id == Budget.id)
    wanted = Budget.id == budget_id, BudgetCount.subject_id == subject_id, BudgetCount.start_time == start
    return (await tx.execute(query.where(*wanted))).one_or_none()


async def forget_alerts(tx: WriteSession, budget_id: UUID, limit_nanos: int) -> None:
    """Forget the thresholds that are no longer reached after a change, so that they alert again."""
    await tx.execute(_FORGET_ALERTS, {"budget_id": budget_id, "limit": limit_nanos})


async def count_created_org(tx: WriteSession, user_id: UUID) -> int:
    """Count an organization that an account creates. Return its number of organizations, including deleted ones."""
    return int((await tx.execute(_COUNT_CREATED_ORG, {"user_id": user_id})).scalar_one())


async def list_meeting(
    tx: ReadSession,
    workspace_id: UUID,
    user_id: UUID,
    key_id: UUID | None,
    allowance_nanos: int | None,
    *,
    own_key: bool,
) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return the budgets that would count a run of this caller if it began now, with their windows."""
    values: dict[str, Any] = {
        "workspace_id": workspace_id,
        "user_id": user_id,
        "key_id": key_id,
        "run_time": now(),
        "run_id": None,
    }
    values |= {"allowance_nanos": allowance_nanos, "own_key": own_key}
    return (await tx.execute(_MEETING, values)).all()
