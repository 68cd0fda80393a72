"""Queries across all organizations: their names and states, servers, and background jobs."""

from collections.abc import Sequence
from typing import Any
from uuid import UUID

from sqlalchemy import Row, func, select, text

from ..kit.postgres import ReadSession, WriteSession
from ..orgs.models import Membership

# The function itself checks that the caller is an operator.
_LIST_ORGS = text(
    "SELECT * FROM list_all_orgs(:operator_id, CAST(:suspended AS boolean), CAST(:after AS uuid), :limit)"
)
_LIST_SERVERS = text("""
  SELECT id, name, version, address, start_time, run_count, draining FROM servers
  WHERE lease_end_time > clock_timestamp() AND (CAST(:after AS uuid) IS NULL OR id > :after)
  ORDER BY id LIMIT :limit
""")
# A running job that is to be cancelled ends as one that has failed and is not retried.
_JOB = """
  SELECT j.id, j.task_name, j.queue_name, j.args, j.attempts,
         CASE WHEN j.status = 'todo' THEN 'WAITING'
           WHEN j.status = 'doing' THEN CASE WHEN j.abort_requested THEN 'STOPPING' ELSE 'RUNNING' END
           WHEN j.status = 'failed' AND NOT j.abort_requested THEN 'FAILED'
           ELSE 'CANCELLED' END AS state,
         CASE WHEN j.status = 'todo' AND j.scheduled_at > now() THEN j.scheduled_at END AS due_time,
         e.create_time, e.update_time
  FROM procrastinate_jobs j
  LEFT JOIN LATERAL (
    SELECT min(at) AS create_time, max(at) FILTER (WHERE type <> 'scheduled') AS update_time
    FROM procrastinate_events WHERE job_id = j.id) e ON true
"""
_LIST_JOBS = text(f"""
  SELECT * FROM ({_JOB}) jobs
  WHERE (CAST(:before AS bigint) IS NULL OR id < :before) AND (:task = '' OR task_name = :task)
    AND (:state = '' OR state = :state)
  ORDER BY id DESC LIMIT :limit
""")
_FIND_JOB = text(f"{_JOB} WHERE j.id = :id")
_LOCK_JOB = text("SELECT id FROM procrastinate_jobs WHERE id = :id FOR UPDATE")
# At once, rather than by the queue's own function: that has a job which was retried too often fail for good again.
_RETRY_JOB = text("""
  UPDATE procrastinate_jobs SET status = 'todo', scheduled_at = NULL, attempts = 0, abort_requested = false
  WHERE id = :id
""")
_CANCEL_JOB = text("SELECT procrastinate_cancel_job_v1(:id, true, false)")

Found = Row[*tuple[Any, ...]]


async def list_orgs(
    tx: ReadSession, operator_id: UUID, suspended: bool | None, after: UUID | None, limit: int
) -> Sequence[Found]:
    """Return organizations by id: all, or only those that are suspended, or only those that are not."""
    values = {"operator_id": operator_id, "suspended": suspended, "after": after, "limit": limit}
    return (await tx.execute(_LIST_ORGS, values)).all()


async def count_members(tx: ReadSession) -> int:
    """Return the number of members of the transaction's organization."""
    return (await tx.execute(select(func.count()).select_from(Membership))).scalar_one()


async def list_servers(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[Found]:
    return (await tx.execute(_LIST_SERVERS, {"after": after, "limit": limit})).all()


async def list_jobs(tx: ReadSession, task: str, state: str, before: int | None, limit: int) -> Sequence[Found]:
    """Return jobs, newest first. Empty texts stand for every task and every state."""
    values = {"task": task, "state": state, "before": before, "limit": limit}
    return (await tx.execute(_LIST_JOBS, values)).all()


async def find_job(tx: ReadSession, number: int) -> Found | None:
    return (await tx.execute(_FIND_JOB, {"id": number})).one_or_none()


async def lock_job(tx: WriteSession, number: int) -> Found | None:
    """Lock a job until the transaction ends, and return it."""
    await tx.execute(_LOCK_JOB, {"id": number})
    return await find_job(tx, number)


async def retry_job(tx: WriteSession, number: int) -> None:
    await tx.execute(_RETRY_JOB, {"id": number})


async def cancel_job(tx: WriteSession, number: int) -> None:
    """Cancel a job that waits, or ask the worker of a running one to interrupt it."""
    await tx.execute(_CANCEL_JOB, {"id": number})
