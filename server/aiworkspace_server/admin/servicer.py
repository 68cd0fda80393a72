"""AdminService: proto in and out, one transaction per call. Authorization has checked that an operator calls."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import admin_pb2 as pb
from aiworkspace.v1 import org_pb2
from aiworkspace.v1.admin_pb2_grpc import AdminServiceServicer

from ..audit.models import OPERATORS
from ..auth.principal import Authenticator
from ..kit.context import caller_id, current
from ..kit.errors import NotFound
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database, WriteSession
from ..kit.tasks import Tasks
from ..kit.timestamps import now, timestamp
from ..orgs.models import Org
from ..orgs.servicer import RightsLost
from ..orgs.store import lock_org
from . import jobs, store


class AdminServicer(AdminServiceServicer):
    def __init__(
        self, db: Database, authenticator: Authenticator, rights_lost: RightsLost, tasks: Tasks, pages: Pages
    ) -> None:
        self._db = db
        self._authenticator = authenticator
        self._rights_lost = rights_lost
        self._tasks = tasks
        self._pages = pages

    async def ListAllOrgs(self, request: pb.ListAllOrgsRequest, context: Any) -> pb.ListAllOrgsResponse:
        suspended = request.state == org_pb2.ORG_STATE_SUSPENDED if request.state else None
        after, limit = self._pages.after_id(request), self._pages.limit(request)
        async with self._db.read() as tx:
            rows = await store.list_orgs(tx, caller_id(), suspended, after, limit)
        rows, more = self._pages.cut(request, rows, lambda row: [row.id])
        return pb.ListAllOrgsResponse(orgs=[_org_to_proto(row, row.member_count) for row in rows], next_page_token=more)

    # Taking rights away may take long. It is completed even if the caller's deadline is shorter.
    async def SuspendOrg(self, request: pb.SuspendOrgRequest, context: Any) -> pb.SuspendOrgResponse:
        return await self._tasks.complete(self._suspend(request))

    async def _suspend(self, request: pb.SuspendOrgRequest) -> pb.SuspendOrgResponse:
        org_id = parse_id(request.org_id, "org_id")
        async with self._db.write(org_id) as tx:
            org = await _lock(tx, org_id)
            org.suspend_time, org.state_reason = org.suspend_time or now(), request.reason
            reply = pb.SuspendOrgResponse(org=_org_to_proto(org, await store.count_members(tx)))
        self._authenticator.forget_org(org_id)
        await self._rights_lost(org_id)
        return reply

    async def ReinstateOrg(self, request: pb.ReinstateOrgRequest, context: Any) -> pb.ReinstateOrgResponse:
        org_id = parse_id(request.org_id, "org_id")
        async with self._db.write(org_id) as tx:
            org = await _lock(tx, org_id)
            if org.suspend_time:
                org.suspend_time, org.state_reason = None, request.reason
            reply = pb.ReinstateOrgResponse(org=_org_to_proto(org, await store.count_members(tx)))
        self._authenticator.forget_org(org_id)
        return reply

    async def ListServers(self, request: pb.ListServersRequest, context: Any) -> pb.ListServersResponse:
        async with self._db.read() as tx:
            rows = await store.list_servers(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row.id])
        return pb.ListServersResponse(servers=map(_server_to_proto, rows), next_page_token=more)

    async def ListJobs(self, request: pb.ListJobsRequest, context: Any) -> pb.ListJobsResponse:
        key = self._pages.after(request)
        state = pb.JobState.Name(request.state).removeprefix("JOB_STATE_") if request.state else ""
        async with self._db.read() as tx:
            limit = self._pages.limit(request)
            rows = await store.list_jobs(tx, request.task, state, key[0] if key else None, limit)
        rows, more = self._pages.cut(request, rows, lambda row: [row.id])
        return pb.ListJobsResponse(jobs=map(jobs.job_to_proto, rows), next_page_token=more)

    async def RetryJob(self, request: pb.RetryJobRequest, context: Any) -> pb.RetryJobResponse:
        number = jobs.parse_number(request.job_id)
        async with self._db.write(OPERATORS) as tx:
            job = await jobs.retry(tx, number)
            reply = current.get().answer = pb.RetryJobResponse(job=jobs.job_to_proto(job))
            current.get().also_in = jobs.orgs_of(job)
        return reply

    async def CancelJob(self, request: pb.CancelJobRequest, context: Any) -> pb.CancelJobResponse:
        number = jobs.parse_number(request.job_id)
        async with self._db.write(OPERATORS) as tx:
            job = await jobs.cancel(tx, number)
            reply = current.get().answer = pb.CancelJobResponse(job=jobs.job_to_proto(job))
            current.get().also_in = jobs.orgs_of(job)
        return reply


async def _lock(tx: WriteSession, org_id: UUID) -> Org:
    """Lock the organization and have the call recorded in its log, too. Raises NotFound."""
    org = await lock_org(tx, org_id)
    if org is None:
        raise NotFound("org_id")
    current.get().also_in = [org_id]
    return org


def _org_to_proto(org: Any, member_count: int) -> pb.AdminOrg:
    """`org` is an Org or a row of list_orgs."""
    return pb.AdminOrg(
        org_id=str(org.id),
        name=org.name,
        state=org_pb2.ORG_STATE_SUSPENDED if org.suspend_time else org_pb2.ORG_STATE_ACTIVE,
        state_reason=org.state_reason,
        suspend_time=timestamp(org.suspend_time) if org.suspend_time else None,
        member_count=member_count,
        create_time=timestamp(org.create_time),
    )


def _server_to_proto(row: store.Found) -> pb.Server:
    return pb.Server(
        server_id=str(row.id),
        name=row.name,
        version=row.version,
        address=row.address,
        start_time=timestamp(row.start_time),
        run_count=row.run_count,
        draining=row.draining,
    )
