"""What operators may do with background jobs, and how those are shown."""

from typing import Any
from uuid import UUID

from sqlalchemy.exc import IntegrityError

from aiworkspace.v1 import admin_pb2 as pb
from aiworkspace.v1 import common_pb2

from ..kit.errors import FailedPrecondition, NotFound
from ..kit.postgres import WriteSession
from ..kit.timestamps import timestamp
from . import store


async def retry(tx: WriteSession, number: int) -> store.Found:
    """Make a job due now. Raises NotFound, and FailedPrecondition if it runs or another one does the same."""
    if (await _lock(tx, number)).state in ("RUNNING", "STOPPING"):
        raise _refused("The job is running: cancel it first, or wait for its end.", "RUNNING")
    try:
        await store.retry_job(tx, number)
    except IntegrityError:
        raise _refused("Another job that does the same is waiting already.", "WAITING") from None
    return await _lock(tx, number)


async def cancel(tx: WriteSession, number: int) -> store.Found:
    """Cancel a job. Raises NotFound, and FailedPrecondition if it has failed."""
    if (await _lock(tx, number)).state == "FAILED":
        raise _refused("The job has failed, and is not retried any more: there is nothing to cancel.", "FAILED")
    await store.cancel_job(tx, number)
    return await _lock(tx, number)


async def _lock(tx: WriteSession, number: int) -> store.Found:
    job = await store.lock_job(tx, number)
    if job is None:
        raise NotFound("job_id")
    return job


def _refused(message: str, state: str) -> FailedPrecondition:
    return FailedPrecondition(common_pb2.ERROR_REASON_JOB_STATE, message, metadata={"state": state})


def parse_number(job_id: str) -> int:
    """Return the number of the job. Raises NotFound for an id that no job can have."""
    digits = UUID(job_id).hex
    if not digits.isdecimal() or int(digits) >= 1 << 63:
        raise NotFound("job_id")
    return int(digits)


def orgs_of(job: store.Found) -> list[UUID]:
    """Return the organization for which a job works, if it is one."""
    org_id = _uuid(job.args.get("org_id"))
    return [org_id] if org_id else []


def job_to_proto(job: store.Found) -> pb.Job:
    ids = {name: str(id) for name, value in job.args.items() if (id := _uuid(value))}
    return pb.Job(
        job_id=str(UUID(f"{job.id:032d}")),
        task=job.task_name,
        queue=job.queue_name,
        state=pb.JobState.Value(f"JOB_STATE_{job.state}"),
        org_id=ids.pop("org_id", ""),
        resources=ids,
        attempt_count=job.attempts,
        create_time=timestamp(job.create_time),
        update_time=timestamp(job.update_time),
        due_time=timestamp(job.due_time) if job.due_time else None,
    )


def _uuid(value: Any) -> UUID | None:
    """Return the id in an argument of a job: other arguments, such as a time, are nobody's name."""
    try:
        return UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None
