"""Rebuilds roll-ups and budget windows from the ledger. Normally each entry updates them as it is written."""

from collections.abc import Collection, Mapping, Sequence
from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import Database, WriteSession
from .ledger import count_alone
from .models import NO_KEY, TOKENS

_LIST_ORGS = text("SELECT * FROM list_ledger_orgs()")
_FIND_ORGS = text("SELECT * FROM find_ledger_orgs(CAST(:run_ids AS uuid[]))")
_CLEAR = (text("DELETE FROM usage_rollups"), text("UPDATE budget_windows SET settled_nanos = 0, reserved_nanos = 0"))
_ADD_UP = text(f"""
  INSERT INTO usage_rollups (org_id, period, start_time, workspace_id, user_id, key_id, model, request_count,
                             {", ".join(TOKENS)}, cost_nanos)
  SELECT org_id, period, date_trunc(period, run_time, 'UTC'), workspace_id, user_id,
         coalesce(key_id, CAST('{NO_KEY}' AS uuid)), model, count(*) FILTER (WHERE kind = 'settle'),
         {", ".join(f"sum({name})" for name in (*TOKENS, "cost_nanos"))}
  FROM ledger_entries, (VALUES ('day'), ('hour')) AS periods(period)
  WHERE kind IN ('settle', 'adjust')
  GROUP BY 1, 2, 3, 4, 5, 6, 7
""")
# Does for all runs what `ledger.counting` does for one. No entry is older than its run, but clocks may differ a little.
_COUNT = text("""
  INSERT INTO budget_windows AS w (org_id, budget_id, subject_id, start_time, settled_nanos, reserved_nanos,
                                   alerted_percent)
  SELECT b.org_id, b.id, counts.subject_id, counts.start_time, sum(e.cost_nanos), sum(e.reserved_nanos), 0
  FROM budgets b JOIN ledger_entries e
    ON e.create_time >= date_trunc(b.period, b.create_time, 'UTC') - interval '1 hour'
  CROSS JOIN LATERAL (SELECT
    CASE b.scope
      WHEN 'org' THEN e.org_id
      WHEN 'workspace' THEN e.workspace_id
      WHEN 'member' THEN e.user_id
      WHEN 'allowance' THEN CASE WHEN NOT e.own_key THEN e.org_id END
      ELSE coalesce(e.key_root_id, e.key_id) END,
    date_trunc(b.period, e.run_time, 'UTC')) AS counts(subject_id, start_time)
  WHERE counts.subject_id IS NOT NULL
    AND (b.scope = 'org' OR b.subject_id IS NULL OR b.subject_id = counts.subject_id)
    AND counts.start_time >= date_trunc(b.period, b.create_time, 'UTC')
    AND b.id = coalesce(CAST(:budget_id AS uuid), b.id)
  GROUP BY b.org_id, b.id, counts.subject_id, counts.start_time
  ON CONFLICT (org_id, budget_id, subject_id, start_time) DO UPDATE SET
    settled_nanos = excluded.settled_nanos,
    reserved_nanos = excluded.reserved_nanos
""")


async def list_orgs(db: Database) -> Sequence[UUID]:
    """Return all organizations that have entries."""
    async with db.read() as tx:
        return (await tx.execute(_LIST_ORGS)).scalars().all()


async def find_orgs(db: Database, run_ids: Collection[UUID]) -> Mapping[UUID, UUID]:
    """Return the organization of each run that has entries."""
    async with db.read() as tx:
        return {row.run_id: row.org_id for row in await tx.execute(_FIND_ORGS, {"run_ids": list(run_ids)})}


async def rebuild(tx: WriteSession, org_id: UUID) -> None:
    """Rebuild roll-ups and budget windows. Readers see the old ones until the transaction commits."""
    await count_alone(tx, org_id)
    for statement in _CLEAR:
        await tx.execute(statement)
    await tx.execute(_ADD_UP)
    await tx.execute(_COUNT, {"budget_id": None})


async def count_budget(tx: WriteSession, budget_id: UUID) -> None:
    """Count existing spending and reservations in a new budget. The caller must hold the exclusive ledger lock."""
    await tx.execute(_COUNT, {"budget_id": budget_id})
