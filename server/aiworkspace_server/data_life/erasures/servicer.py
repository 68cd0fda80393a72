"""The methods of DataService that are about erasures."""

from typing import Any

from aiworkspace.v1 import data_pb2 as pb
from aiworkspace.v1.data_pb2_grpc import DataServiceServicer

from ...auth.authority import Principal, Scope, current_principal, held
from ...auth.jobs import Notice, Notices
from ...erasure import requests
from ...erasure.jobs import ErasureJobs
from ...erasure.models import Erasure
from ...erasure.receipts import Line
from ...kit.context import tenant_id
from ...kit.errors import NotFound
from ...kit.ids import parse_id
from ...kit.jobs import Jobs
from ...kit.pages import Pages
from ...kit.postgres import Database
from ...kit.timestamps import timestamp
from ...orgs.jobs import notify_owners
from ..exports.jobs import delete_all


class ErasureServicer(DataServiceServicer):
    def __init__(self, db: Database, jobs: Jobs, erasure: ErasureJobs, notices: Notices, pages: Pages) -> None:
        self._db = db
        self._jobs = jobs
        self._erasure = erasure
        self._notices = notices
        self._pages = pages

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
                await delete_all(tx, self._jobs, tenant_id())
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
