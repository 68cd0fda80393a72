"""UsageService: proto in and out."""

from datetime import datetime
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2
from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace.v1.usage_pb2_grpc import UsageServiceServicer

from ..kit.context import caller_id, tenant_id
from ..kit.errors import InvalidArgument
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.slices import in_slices
from ..kit.timestamps import parse_timestamp, timestamp
from ..llm.base import TokenUsage
from . import store
from .ledger import Ledger
from .models import TOKENS, LedgerEntry
from .reconcile import Bill, Billed, Reconciled, reconcile

_KINDS = {
    number: name.removeprefix("USAGE_ENTRY_KIND_").lower() for name, number in pb.UsageEntryKind.items() if number
}
# In the order of UsageDimension, in which groups are sorted.
_DIMENSIONS = tuple(store.DIMENSIONS)


class UsageServicer(UsageServiceServicer):
    def __init__(self, db: Database, ledger: Ledger, pages: Pages) -> None:
        self._db = db
        self._ledger = ledger
        self._pages = pages

    async def GetUsage(self, request: pb.GetUsageRequest, context: Any) -> pb.GetUsageResponse:
        by = [_DIMENSIONS[number - 1] for number in sorted(request.group_by)]
        after = self._pages.after(request)
        async with self._db.read(tenant_id()) as tx:
            total, rows = await store.sums(tx, _filter(request), by, after, self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: row[: len(by)])
        return pb.GetUsageResponse(
            total=_total_to_proto(total),
            rows=[pb.UsageRow(**{name: getattr(row, name) for name in by}, total=_total_to_proto(row)) for row in rows],
            next_page_token=more,
        )

    async def ListUsageEntries(self, request: pb.ListUsageEntriesRequest, context: Any) -> pb.ListUsageEntriesResponse:
        kinds = [_KINDS[number] for number in request.kinds] or store.SPENT
        run_id = UUID(request.run_id) if request.run_id else None
        before, limit = self._pages.after_id(request), self._pages.limit(request)
        async with self._db.read(tenant_id()) as tx:
            rows = await store.entries(tx, _filter(request), kinds, run_id, before, limit)
        rows, more = self._pages.cut(request, rows, lambda entry: [entry.id])
        response = pb.ListUsageEntriesResponse(next_page_token=more)
        async for row in in_slices(rows):
            response.entries.append(_entry_to_proto(row))
        return response

    async def ReconcileUsage(self, request: pb.ReconcileUsageRequest, context: Any) -> pb.ReconcileUsageResponse:
        bill = await _read_bill(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            found = await reconcile(tx, self._ledger, tenant_id(), bill, own_keys_only=True, dry_run=request.dry_run)
        response = pb.ReconcileUsageResponse(difference=_money(sum(each.nanos for each in found)))
        async for each in in_slices(found):
            response.requests.append(_reconciled_to_proto(each))
        return response


async def _read_bill(request: pb.ReconcileUsageRequest) -> Bill:
    billed = [
        Billed(parse_id(each.run_id, f"requests[{i}].run_id"), each.attempt, _read_tokens(each.tokens))
        async for i, each in in_slices(enumerate(request.requests))
    ]
    return Bill(request.provider, billed, _read_time(request) if request.complete else None)


def _read_time(request: pb.ReconcileUsageRequest) -> tuple[datetime, datetime]:
    """Return the period for which a bill is complete."""
    missing = [name for name in ("start_time", "end_time") if not request.HasField(name)]
    if missing:
        raise InvalidArgument(dict.fromkeys(missing, "is required with complete"))
    return parse_timestamp(request.start_time, "start_time"), parse_timestamp(request.end_time, "end_time")


def _read_tokens(tokens: common_pb2.TokenUsage) -> TokenUsage:
    return TokenUsage(**{name: getattr(tokens, name) for name in TOKENS})


def _filter(request: pb.GetUsageRequest | pb.ListUsageEntriesRequest) -> store.Filter:
    return store.Filter(
        workspace_id=UUID(request.workspace_id) if request.workspace_id else None,
        user_id=UUID(request.user_id) if request.user_id else None,
        key_id=UUID(request.api_key_id) if request.api_key_id else None,
        model=request.model or None,
        start=parse_timestamp(request.start_time, "start_time") if request.HasField("start_time") else None,
        end=parse_timestamp(request.end_time, "end_time") if request.HasField("end_time") else None,
    )


def _tokens_to_proto(row: Any) -> common_pb2.TokenUsage:
    """`row` is a ledger entry or a row of sums."""
    return common_pb2.TokenUsage(**{name: getattr(row, name) for name in TOKENS})


def _total_to_proto(row: Any) -> pb.UsageTotal:
    return pb.UsageTotal(
        request_count=row.request_count,
        tokens=_tokens_to_proto(row),
        cost=_money(row.cost_nanos),
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
        kind=pb.UsageEntryKind.Value(f"USAGE_ENTRY_KIND_{entry.kind.upper()}"),
        attempt=entry.attempt,
        reserved=common_pb2.Money(currency_code=entry.currency, nanos=entry.reserved_nanos),
        api_key_id=str(entry.key_id or ""),
        own_key=entry.own_key,
        above_limit=entry.above_limit,
        run_time=timestamp(entry.run_time),
    )


def _reconciled_to_proto(found: Reconciled) -> pb.ReconciledRequest:
    return pb.ReconciledRequest(
        run_id=str(found.run_id),
        attempt=found.attempt,
        state=pb.ReconciledState.Value(f"RECONCILED_STATE_{found.state.upper()}"),
        difference=_money(found.nanos),
    )


def _money(nanos: int) -> common_pb2.Money:
    return common_pb2.Money(currency_code=store.CURRENCY, nanos=nanos)
