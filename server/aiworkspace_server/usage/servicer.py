"""UsageService: reads of the ledger."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace.v1.usage_pb2_grpc import UsageServiceServicer

from ..kit.context import tenant_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import parse_timestamp, timestamp
from . import store
from .models import LedgerEntry

# In the order of UsageDimension, which is the order of the groups.
_DIMENSIONS = tuple(store.DIMENSIONS)


class UsageServicer(UsageServiceServicer):
    def __init__(self, db: Database, pages: Pages) -> None:
        self._db = db
        self._pages = pages

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:
        by = [_DIMENSIONS[number - 1] for number in sorted(request.group_by)]
        after = self._pages.after(request)
        async with self._db.read(tenant_id()) as tx:
            total = await store.total(tx, _filter(request))
            rows = await store.groups(tx, _filter(request), by, after, self._pages.limit(request)) if by else []
        rows, more = self._pages.cut(request, rows, lambda row: row[: len(by)])
        return pb.GetUsageResponse(
            total=_total_to_proto(total),
            rows=[pb.UsageRow(**{name: getattr(row, name) for name in by}, total=_total_to_proto(row)) for row in rows],
            next_page_token=more,
        )

    async def ListUsageEntries(self, request: pb.ListUsageEntriesRequest, context: Any) -> pb.ListUsageEntriesResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.entries(tx, _filter(request), self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda entry: [entry.id])
        return pb.ListUsageEntriesResponse(entries=map(_entry_to_proto, rows), next_page_token=more)


def _filter(request: pb.GetUsageRequest | pb.ListUsageEntriesRequest) -> store.Filter:
    return store.Filter(
        workspace_id=UUID(request.workspace_id) if request.workspace_id else None,
        user_id=UUID(request.user_id) if request.user_id else None,
        model=request.model or None,
        start=parse_timestamp(request.start_time, "start_time") if request.HasField("start_time") else None,
        end=parse_timestamp(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def _tokens_to_proto(row: Any) -> common_pb2.TokenUsage:
    """`row` is a ledger entry or a row of sums."""
    return common_pb2.TokenUsage(
        input_tokens=row.input_tokens,
        cached_input_tokens=row.cached_input_tokens,
        cache_write_tokens=row.cache_write_tokens,
        output_tokens=row.output_tokens,
        reasoning_tokens=row.reasoning_tokens,
    )


def _total_to_proto(row: Any) -> pb.UsageTotal:
    return pb.UsageTotal(
        request_count=row.request_count,
        tokens=_tokens_to_proto(row),
        cost=common_pb2.Money(currency_code=store.CURRENCY, nanos=row.cost_nanos),
    )


def _entry_to_proto(entry: LedgerEntry) -> pb.UsageEntry:
    return pb.UsageEntry(
        entry_id=str(entry.id),
        org_id=str(entry.org_id),
        workspace_id=str(entry.workspace_id),
        user_id=str(entry.user_id),
        conversation_id=str(entry.conversation_id),
        run_id=str(entry.run_id),
        request_id=str(entry.request_id or ""),
        model=entry.model,
        tokens=_tokens_to_proto(entry),
        estimated=entry.estimated,
        cost=common_pb2.Money(currency_code=entry.currency, nanos=entry.cost_nanos),
        price_version=entry.price_version,
        create_time=timestamp(entry.create_time),
    )
