"""The methods of DataService that are about exports."""

from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import data_pb2 as pb
from aiworkspace.v1.data_pb2_grpc import DataServiceServicer

from ...auth.authority import current_principal
from ...documents.content import PIECE_BYTES, Files
from ...erasure.requests import is_any_running
from ...kit.context import caller_id, tenant_id
from ...kit.errors import FailedPrecondition, NotFound, OutOfRange, RateLimited
from ...kit.idempotency import IdempotencyStore
from ...kit.ids import parse_id
from ...kit.jobs import Jobs
from ...kit.pages import Pages
from ...kit.postgres import Database, WriteSession
from ...orgs.granting import check_may_grant
from ...orgs.service import lock_org
from . import store
from .jobs import ERASE, EXPORT
from .models import Export, ExportState
from .proto import export_to_proto

# Written at the same time, by all servers. The others wait, and take no place of jobs that erase.
_AT_ONCE = 4
_MOST_KEPT = 10  # by an organization: each may be as large as all that it has


class ExportServicer(DataServiceServicer):
    def __init__(self, db: Database, files: Files, jobs: Jobs, pages: Pages, idempotency: IdempotencyStore) -> None:
        self._db = db
        self._files = files
        self._jobs = jobs
        self._pages = pages
        self._idempotency = idempotency

    async def ExportOrg(self, request: pb.ExportOrgRequest, context: Any) -> pb.ExportOrgResponse:
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.ExportOrgResponse):
                return reply
            await lock_org(tx, tenant_id(), "org_id")  # EraseUser takes it, too, and deletes all exports
            await check_may_grant(tx, current_principal())
            export = await _create(tx)
            line = f"{EXPORT} {export.org_id.int % _AT_ONCE}"
            await self._jobs.enqueue_in_line(tx, line, EXPORT, org_id=export.org_id, export_id=export.id)
            return await self._idempotency.save(tx, request, pb.ExportOrgResponse(export=export_to_proto(export)))

    async def GetExport(self, request: pb.GetExportRequest, context: Any) -> pb.GetExportResponse:
        return pb.GetExportResponse(export=export_to_proto(await self._find(request.export_id)))

    async def ListExports(self, request: pb.ListExportsRequest, context: Any) -> pb.ListExportsResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_exports(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda export: [export.id])
        return pb.ListExportsResponse(exports=map(export_to_proto, rows), next_page_token=more)

    async def DeleteExport(self, request: pb.DeleteExportRequest, context: Any) -> pb.DeleteExportResponse:
        export_id = parse_id(request.export_id, "export_id")
        async with self._db.write(tenant_id()) as tx:
            if not await store.mark_deleted(tx, export_id):
                raise NotFound("export_id")
            await self._jobs.enqueue(tx, ERASE, org_id=tenant_id(), export_id=export_id)
        return pb.DeleteExportResponse()

    async def DownloadExport(
        self, request: pb.DownloadExportRequest, context: Any
    ) -> AsyncIterator[pb.DownloadExportResponse]:
        export = await self._find(request.export_id)
        if export.state != ExportState.READY or export.file_id is None or export.sha256 is None:
            message, metadata = "The export is not READY: follow it with GetExport.", {"state": export.state}
            raise FailedPrecondition(common_pb2.ERROR_REASON_EXPORT_NOT_READY, message, metadata=metadata)
        offset, size = request.offset, export.size_bytes
        if offset > size:
            message, metadata = f"offset: the export has {size:,} bytes.", {"size_bytes": str(size)}
            raise OutOfRange(common_pb2.ERROR_REASON_OFFSET_TOO_LARGE, message, metadata=metadata)
        response = pb.DownloadExportResponse(size_bytes=size, sha256=export.sha256.hex(), offset=offset)
        if offset == size:
            yield response
        async with aclosing(self._files.of(tenant_id()).read(export.file_id, offset, size)) as parts:
            async for part in parts:
                for begin in range(0, len(part), PIECE_BYTES):
                    response.data = part[begin : begin + PIECE_BYTES]
                    yield response
                    offset += len(response.data)
                    response = pb.DownloadExportResponse(offset=offset)
        if offset < size:  # the export was deleted meanwhile
            raise NotFound("export_id")

    async def _find(self, export_id: str) -> Export:
        async with self._db.read(tenant_id()) as tx:
            export = await store.find(tx, parse_id(export_id, "export_id"))
        if export is None:
            raise NotFound("export_id")
        return export


async def _create(tx: WriteSession) -> Export:
    if await is_any_running(tx):
        message = "Somebody is being erased from the organization: export it when ListErasures says that it is done."
        raise FailedPrecondition(common_pb2.ERROR_REASON_ERASURE_RUNNING, message)
    if export_id := await store.find_in_progress(tx):
        raise _in_progress(str(export_id))
    if await store.count_kept(tx) >= _MOST_KEPT:
        message = f"The organization has {_MOST_KEPT} exports: delete one, or wait until one expires."
        raise RateLimited("org", message, None, common_pb2.ERROR_REASON_EXPORT_LIMIT, {"limit": str(_MOST_KEPT)})
    export = await store.create(tx, tenant_id(), caller_id())
    if export is None:  # another call was faster
        raise _in_progress(str(await store.find_in_progress(tx) or ""))
    return export


def _in_progress(export_id: str) -> FailedPrecondition:
    message = "An export of the organization is in progress: wait for it, or delete it."
    return FailedPrecondition(common_pb2.ERROR_REASON_EXPORT_IN_PROGRESS, message, metadata={"export_id": export_id})
