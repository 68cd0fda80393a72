"""DataService: proto in and out, one transaction per call."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace.v1.data_pb2_grpc import DataServiceServicer

from ..auth.authority import Principal, Scope, current_principal, held
from ..auth.jobs import Notice, Notices
from ..erasure import requests
from ..erasure.jobs import ErasureJobs
from ..erasure.models import Erasure
from ..erasure.receipts import Line
from ..kit.context import tenant_id
from ..kit.errors import InvalidArgument, NotFound
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database, ReadSession
from ..kit.timestamps import now, timestamp
from ..orgs.holds import DataPolicy, stop_deletions
from ..orgs.jobs import notify_owners
from ..workspaces.store import find_workspace
from . import store


class DataServicer(DataServiceServicer):
    def __init__(self, db: Database, erasure: ErasureJobs, notices: Notices, pages: Pages) -> None:
        self._db = db
        self._erasure = erasure
        self._notices = notices
        self._pages = pages

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

    async def EraseOrg(self, request: pb.EraseOrgRequest, context: Any) -> pb.EraseOrgResponse:
        async with self._db.write(tenant_id()) as tx:
            erasure, new = await requests.ask_org(tx, tenant_id(), current_principal())
            if new:
                await notify_owners(tx, self._notices, Notice.ERASURE_REQUESTED)
        return pb.EraseOrgResponse(erasure=_erasure_to_proto(erasure))

    async def CancelErasure(self, request: pb.CancelErasureRequest, context: Any) -> pb.CancelErasureResponse:
        erasure_id = parse_id(request.erasure_id, "erasure_id")
        async with self._db.write(tenant_id()) as tx:
            erasure = await requests.cancel(tx, tenant_id(), erasure_id, current_principal())
        return pb.CancelErasureResponse(erasure=_erasure_to_proto(erasure))

    async def EraseUser(self, request: pb.EraseUserRequest, context: Any) -> pb.EraseUserResponse:
        user_id = parse_id(request.user_id, "user_id")
        async with self._db.write(tenant_id()) as tx:
            erasure, new = await requests.ask_user(tx, tenant_id(), user_id, current_principal())
            if new:
                await self._erasure.ask_requested(tx, tenant_id(), erasure.id)
        return pb.EraseUserResponse(erasure=_erasure_to_proto(erasure))

    async def ListErasures(self, request: pb.ListErasuresRequest, context: Any) -> pb.ListErasuresResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await requests.list_erasures(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda erasure: [erasure.id])
        return pb.ListErasuresResponse(erasures=map(_erasure_to_proto, rows), next_page_token=more)

    async def GetErasureReceipt(
        self, request: pb.GetErasureReceiptRequest, context: Any
    ) -> pb.GetErasureReceiptResponse:
        erasure_id = parse_id(request.erasure_id, "erasure_id")
        org_id = await requests.find_org(self._db, erasure_id)
        erasure = None
        if org_id:
            async with self._db.read(org_id) as tx:
                erasure = await requests.find_erasure(tx, erasure_id)
        if erasure is None or not _may_read(current_principal(), erasure):
            raise NotFound("erasure_id")
        lines = [Line(*line) for line in erasure.receipt or ()]
        return pb.GetErasureReceiptResponse(erasure=_erasure_to_proto(erasure), lines=map(_line_to_proto, lines))


def _may_read(caller: Principal, erasure: Erasure) -> bool:
    """Whether the caller asked for it, or manages the data of its organization. Keys are limited to the latter."""
    asked = caller.user_id == erasure.requester_id and caller.key is None
    return asked or "data.manage" in held(caller, Scope(erasure.org_id))


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


def _erasure_to_proto(erasure: Erasure) -> pb.Erasure:
    begin_time, end_time, cancel_time = erasure.begin_time, erasure.end_time, erasure.cancel_time
    return pb.Erasure(
        erasure_id=str(erasure.id),
        org_id=str(erasure.org_id),
        user_id=str(erasure.user_id or ""),
        requester_id=str(erasure.requester_id),
        state=_state_of(erasure),
        create_time=timestamp(erasure.create_time),
        due_time=timestamp(erasure.due_time),
        begin_time=timestamp(begin_time) if begin_time else None,
        end_time=timestamp(end_time) if end_time else None,
        cancel_time=timestamp(cancel_time) if cancel_time else None,
    )


def _state_of(erasure: Erasure) -> pb.ErasureState.ValueType:
    if erasure.end_time:
        return pb.ERASURE_STATE_DONE
    if erasure.cancel_time:
        return pb.ERASURE_STATE_CANCELLED
    return pb.ERASURE_STATE_RUNNING if erasure.begin_time else pb.ERASURE_STATE_SCHEDULED


def _line_to_proto(line: Line) -> pb.ErasureLine:
    return pb.ErasureLine(
        store=line.store, name=line.name, erased_count=line.erased, kept_count=line.kept, reason=line.reason
    )
