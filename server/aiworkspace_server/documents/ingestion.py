"""Reads documents step by step.

Each organization has one job, which does one step of one version after the other. As soon as another organization's job
waits for a worker, it enqueues itself again behind that, so that nobody waits for an organization with many documents.
"""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from functools import partial
from uuid import UUID

import structlog

from aiworkspace.v1 import event_pb2 as event

from ..auth.authority import OrgSuspended
from ..events.outbox import append
from ..kit.errors import Unavailable
from ..kit.ids import new_id
from ..kit.jobs import READING_QUEUE, Jobs
from ..kit.passes import Pass
from ..kit.postgres import Database
from ..kit.stores import STORE_UNAVAILABLE, retry_until_available
from ..kit.tasks import Tasks
from ..kit.timestamps import now
from ..orgs.store import is_suspended
from . import versions
from .claims import Claim, ClaimLost, StepFailed
from .models import DocumentStep, Reason, State
from .steps import Steps

INGEST, WAKE = "documents.ingest", "documents.wake"
_MOST_ATTEMPTS = 5  # of a step, unless it makes progress
_FIRST_BACKOFF_SECONDS = 2
_BACKOFF_FACTOR = 4  # 2, 8, 32 and 128 seconds between the attempts
_AFTER_OUTAGE = timedelta(seconds=5)  # before the next attempt, so that other documents are not kept waiting
_MOST_WOKEN = 500  # organizations in one pass
# Ends an attempt that then does not count. Unavailable: an object store.
_NOT_NOW: tuple[type[Exception], ...] = (*STORE_UNAVAILABLE, Unavailable, OrgSuspended)

log = structlog.get_logger("documents")


class Ingestion:
    """Claims versions, and records how their steps end. `steps` does the work."""

    def __init__(self, db: Database, jobs: Jobs, steps: Steps, tasks: Tasks) -> None:
        self._db = db
        self._jobs = jobs
        self._steps = steps
        self._tasks = tasks

    async def ingest(self, org_id: str) -> None:
        """Do the steps of the organization that are due, until others wait. A job."""
        while await self._do_next(UUID(org_id)):
            async with self._db.write() as tx:
                if await self._jobs.others_wait(tx, READING_QUEUE, INGEST, org_id=org_id):
                    await self._jobs.enqueue_once(tx, INGEST, org_id=org_id)
                    return

    async def _do_next(self, org_id: UUID) -> bool:
        """Do the next step that is due. Return False if there is none."""
        claim_id = new_id()
        async with self._db.write(org_id) as tx:
            if await is_suspended(tx, org_id):
                return False  # `wake` goes on after the reinstatement
            claimed = await versions.claim(tx, claim_id)
        if claimed is None:
            return False
        version, step = claimed
        await self._do(Claim(self._db, claim_id, version), step)
        return True

    async def wake(self) -> None:
        """Enqueue the jobs of organizations with steps that are due: retries, and whatever was lost."""
        async with self._db.read() as tx:
            due = await versions.list_due_orgs(tx, now(), _MOST_WOKEN)
        this = Pass(WAKE)
        for org_id in due:
            with this.item(org_id=org_id):
                async with self._db.write(org_id) as tx:
                    await self._jobs.enqueue_once(tx, INGEST, org_id=org_id)

    async def _do(self, claim: Claim, step: DocumentStep) -> None:
        version = claim.version
        fields = {"version_id": str(version.id), "step": str(step.step), "attempt": step.attempt_count}
        try:
            if step.attempt_count > _MOST_ATTEMPTS:  # the server died before it recorded the last failure
                raise StepFailed(Reason.INTERNAL, "The server stopped during each attempt.", retried=False)
            await self._steps.do(claim, version.step)
        except ClaimLost:
            log.info("document_claim_lost", **fields)
        except StepFailed as failure:
            log.warning("document_step_failed", **fields, reason=str(failure.reason), text=str(failure))
            await self._surely(partial(self._record, claim, failure))
        except _NOT_NOW:
            await self._surely(partial(self._take_back, claim))
            raise  # `wake` enqueues the job again
        except Exception:
            log.exception("document_step_failed", **fields, reason=str(Reason.INTERNAL))
            unexpected = StepFailed(Reason.INTERNAL, "", retried=True)
            await self._surely(partial(self._record, claim, unexpected))

    async def _surely(self, record: Callable[[], Awaitable[None]]) -> None:
        """Record how an attempt ended, also if the job is aborted meanwhile: it is when PostgreSQL is gone for long."""
        await self._tasks.complete(retry_until_available(record))

    async def _take_back(self, claim: Claim) -> None:
        """Let an attempt not count: a store or a suspension ended it, which says nothing about the document."""
        try:
            async with claim.holding() as (_, version, step):
                step.attempt_count -= 1
                version.claim_id, version.due_time = None, now() + _AFTER_OUTAGE
        except ClaimLost:  # among others when this was committed, and the connection lost before the answer
            log.info("document_claim_lost", version_id=str(claim.version.id))

    async def _record(self, claim: Claim, failure: StepFailed) -> None:
        """Record a failure. Idempotent, since only the first time has the claim."""
        try:
            async with claim.holding() as (tx, version, step):
                step.reason, version.claim_id = failure.reason, None
                if failure.retried and step.attempt_count < _MOST_ATTEMPTS:
                    seconds = _FIRST_BACKOFF_SECONDS * _BACKOFF_FACTOR ** (step.attempt_count - 1)
                    version.due_time = now() + timedelta(seconds=seconds)
                else:
                    version.state, version.reason = State.FAILED, failure.reason
                    failed, document_id = event.EVENT_TYPE_DOCUMENT_FAILED, version.live_document_id
                    append(tx, failed, document_id=document_id, workspace_id=version.workspace_id)
        except ClaimLost:
            log.info("document_claim_lost", version_id=str(claim.version.id))
