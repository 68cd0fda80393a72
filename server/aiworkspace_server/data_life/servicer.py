"""DataService: proto in and out, one transaction per call."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import data_pb2 as pb

from ..auth.jobs import Notices
from ..documents.content import Files
from ..erasure.jobs import ErasureJobs
from ..kit.context import tenant_id
from ..kit.errors import InvalidArgument, NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.jobs import Jobs
from ..kit.pages import Pages
from ..kit.postgres import Database, ReadSession
from ..kit.timestamps import now, timestamp
from ..orgs.holds import DataPolicy, stop_deletions
from ..workspaces.store import find_workspace
from . import store
from .erasures.servicer import ErasureServicer
from .exports.servicer import ExportServicer


class DataServicer(ExportServicer, ErasureServicer):
    def __init__(
        self,
        db: Database,
        files: Files,
        jobs: Jobs,
        erasure: ErasureJobs,
        notices: Notices,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        ExportServicer.__init__(self, db, files, jobs, pages, idempotency)
        ErasureServicer.__init__(self, db, jobs, erasure, notices, pages)

    async def GetDataPolicy(self, request: pb.GetDataPolicyRequest, context: Any) -> pb.GetDataPolicyResponse:
        async with self._db.read(tenant_id()) as tx:
            scope_id = await _scope(tx, request.workspace_id)
            policy = await store.find_policy(tx, scope_id)
        return pb.GetDataPolicyResponse(policy=_to_proto(scope_id, policy))

    async def SetRetention(self, request: pb.SetRetentionRequest, context: Any) -> pb.SetRetentionResponse:
        async with self._db.write(tenant_id()) as tx:
            scope_id = await _scope(tx, request.workspace_id)
            await stop_deletions(tx, tenant_id())  # of two calls that make the same row, one waits
            await store.forget_progress(tx)
            policy = await store.lock_policy(tx, tenant_id(), scope_id)
            policy.conversation_days = request.retention.conversation_days
            policy.document_days = request.retention.document_days
            policy.attempt_days = request.retention.attempt_days
        return pb.SetRetentionResponse(policy=_to_proto(scope_id, policy))

    async def SetLegalHold(self, request: pb.SetLegalHoldRequest, context: Any) -> pb.SetLegalHoldResponse:
        if request.held and not request.reason:
            raise InvalidArgument({"reason": "must be given with a hold"})
        async with self._db.write(tenant_id()) as tx:
            scope_id = await _scope(tx, request.workspace_id)
            await stop_deletions(tx, tenant_id())
            await store.forget_progress(tx)  # attempts of a hold that ends were passed over
            policy = await store.lock_policy(tx, tenant_id(), scope_id)
            policy.hold_time = (policy.hold_time or now()) if request.held else None
            policy.hold_reason = request.reason if request.held else ""
        return pb.SetLegalHoldResponse(policy=_to_proto(scope_id, policy))


async def _scope(tx: ReadSession, workspace_id: str) -> UUID:
    """Return the id of the organization or, if one is named, of a workspace of it. Raises NotFound."""
    if not workspace_id:
        return tenant_id()
    workspace = await find_workspace(tx, parse_id(workspace_id, "workspace_id"))
    if workspace is None:
        raise NotFound("workspace_id")
    return workspace.id


def _to_proto(scope_id: UUID, policy: DataPolicy | None) -> pb.DataPolicy:
    org_id, workspace_id = str(tenant_id()), "" if scope_id == tenant_id() else str(scope_id)
    if policy is None:
        return pb.DataPolicy(org_id=org_id, workspace_id=workspace_id, retention=pb.Retention())
    retention = pb.Retention(
        conversation_days=policy.conversation_days,
        document_days=policy.document_days,
        attempt_days=policy.attempt_days,
    )
    return pb.DataPolicy(
        org_id=org_id,
        workspace_id=workspace_id,
        retention=retention,
        held=policy.hold_time is not None,
        hold_reason=policy.hold_reason,
        hold_time=timestamp(policy.hold_time) if policy.hold_time else None,
    )
