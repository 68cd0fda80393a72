"""AuditService: proto in and out."""

import asyncio
import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from google.protobuf.timestamp_pb2 import Timestamp
from sqlalchemy import Row

from aiworkspace.v1 import audit_pb2 as pb
from aiworkspace.v1.audit_pb2_grpc import AuditServiceServicer

from ..kit.concurrency import ConcurrencyLimiter
from ..kit.context import caller_id, tenant_id
from ..kit.errors import InvalidArgument
from ..kit.ids import parse_id
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import parse_timestamp, timestamp
from . import store
from .models import OPERATORS, AuditEvent
from .service import Break, Chain, Noted, Verification, recorded_origin
from .store import Wanted

_BATCH = 50  # entries verified at a time, which blocks the event loop for a few milliseconds
_VERIFICATIONS, _OF_ORG = 4, 1  # concurrent ones in this process, and of one organization; others wait


class AuditServicer(AuditServiceServicer):
    def __init__(self, db: Database, chain: Chain, pages: Pages) -> None:
        self._db = db
        self._chain = chain
        self._pages = pages
        # Fair between organizations, however many verifications one of them requests.
        self._limiter = ConcurrencyLimiter(_VERIFICATIONS, _OF_ORG, 0)

    async def ListAuditEvents(self, request: pb.ListAuditEventsRequest, context: Any) -> pb.ListAuditEventsResponse:
        wanted = Wanted(
            method=request.method,
            user_id=_id(request.user_id, "user_id"),
            resource_id=_id(request.resource_id, "resource_id"),
            code=request.code,
            start_time=_time(request.HasField("start_time"), request.start_time, "start_time"),
            end_time=_time(request.HasField("end_time"), request.end_time, "end_time"),
        )
        async with self._db.read(tenant_id()) as tx:
            limit = self._pages.limit(request)
            rows = await store.list_events(tx, tenant_id(), wanted, self._before(request), limit)
        events, more = self._page(request, rows)
        return pb.ListAuditEventsResponse(events=events, next_page_token=more)

    async def ListAccountEvents(
        self, request: pb.ListAccountEventsRequest, context: Any
    ) -> pb.ListAccountEventsResponse:
        async with self._db.read(user_id=caller_id()) as tx:
            limit = self._pages.limit(request)
            rows = await store.list_events(tx, caller_id(), Wanted(), self._before(request), limit)
        events, more = self._page(request, rows)
        return pb.ListAccountEventsResponse(events=events, next_page_token=more)

    async def VerifyAuditChain(self, request: pb.VerifyAuditChainRequest, context: Any) -> pb.VerifyAuditChainResponse:
        """Verify batch by batch, each in its own transaction.

        Entries never change, so a single transaction would add nothing. It would hold a connection and delay
        PostgreSQL's vacuum.
        """
        return pb.VerifyAuditChainResponse(**await self._verify_whole(tenant_id(), request))

    async def ListOperatorEvents(
        self, request: pb.ListOperatorEventsRequest, context: Any
    ) -> pb.ListOperatorEventsResponse:
        wanted = Wanted(resource_id=_id(request.resource_id, "resource_id"))
        async with self._db.read(OPERATORS) as tx:
            limit = self._pages.limit(request)
            rows = await store.list_events(tx, OPERATORS, wanted, self._before(request), limit)
        events, more = self._page(request, rows)
        return pb.ListOperatorEventsResponse(events=events, next_page_token=more)

    async def VerifyOperatorChain(
        self, request: pb.VerifyOperatorChainRequest, context: Any
    ) -> pb.VerifyOperatorChainResponse:
        return pb.VerifyOperatorChainResponse(**await self._verify_whole(OPERATORS, request))

    async def _verify_whole(self, chain_id: UUID, request: Any) -> dict[str, Any]:
        """Verify a chain, also against what the caller noted. Return the fields of the response."""
        if bool(request.known_sequence) != bool(request.known_hash):
            raise InvalidArgument({"known_hash": "must be given with known_sequence, and only with it"})
        noted = Noted(request.known_sequence, request.known_hash) if request.known_sequence else None
        async with self._db.read(chain_id) as tx:
            sequence, last_hash, greatest = await store.find_end(tx, chain_id)
        verification = Verification(self._chain, sequence, last_hash, greatest, noted)
        slot = self._limiter.acquire("audit", chain_id, bounded=False)
        try:
            await slot.wait()
            found = await self._verify(chain_id, verification)
        finally:
            slot.release()
        return {
            "valid": found is None,
            "broken_sequence": found.sequence if found else 0,
            "problem": found.problem if found else "",
            "sequence": sequence,
            "hash": last_hash.hex(),
        }

    async def _verify(self, chain_id: UUID, verification: Verification) -> Break | None:
        """Verify all batches. Pause after each for as long as it took: others get half of the event loop."""
        after = None
        while verification.checked < verification.last:
            begin = time.perf_counter()
            async with self._db.read(chain_id) as tx:
                rows = await store.list_forward(tx, chain_id, after, _BATCH)
            if found := verification.check(rows):
                return found
            if not rows:
                break
            after = verification.checked
            await asyncio.sleep(time.perf_counter() - begin)
        return verification.end()

    def _before(self, request: Any) -> int | None:
        key = self._pages.after(request)
        return key[0] if key else None

    def _page(
        self, request: Any, rows: Sequence[Row[AuditEvent, str | None, str | None]]
    ) -> tuple[list[pb.AuditEvent], str]:
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].sequence])
        return [_event_to_proto(*row) for row in rows], more


def _id(value: str, field: str) -> UUID | None:
    return parse_id(value, field) if value else None


def _time(given: bool, value: Timestamp, field: str) -> datetime | None:
    return parse_timestamp(value, field) if given else None


def _event_to_proto(event: AuditEvent, address: str | None, user_agent: str | None) -> pb.AuditEvent:
    if address is None or user_agent is None:
        address, user_agent = recorded_origin(event)
    return pb.AuditEvent(
        sequence=event.sequence,
        create_time=timestamp(event.create_time),
        method=event.method,
        user_id=str(event.user_id or ""),
        session_id=str(event.session_id or ""),
        api_key_id=str(event.api_key_id or ""),
        role=event.role,
        address=address,
        user_agent=user_agent,
        request_id=event.request_id,
        resources=event.resources,
        code=event.code,
        reason=event.reason,
        hash=event.hash.hex(),
    )
