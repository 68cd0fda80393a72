"""ListAuditEvents: that what a filter costs does not grow with the log."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from aiworkspace.v1 import audit_pb2
from tests.support.people import Person

from .growth import compare
from .servers import Site
from .table import Row

_START = datetime(2026, 1, 1, tzinfo=UTC)
# Every hundredth entry is a refused call of somebody else, on one thing of all.
_ENTRIES = """
INSERT INTO audit_events
SELECT %(org)s::uuid, i, %(start)s::timestamptz + i * interval '1 second',
       CASE WHEN i %% 100 = 0 THEN 'OrgService/DeleteOrg' ELSE 'OrgService/UpdateOrg' END,
       CASE WHEN i %% 100 = 0 THEN %(other)s::uuid ELSE %(user)s::uuid END, gen_random_uuid(), NULL, 'owner',
       '127.0.0.1', 'bench', i::text,
       jsonb_build_object('org_id', %(org)s::text, 'workspace_id', CASE WHEN i %% 100 = 0 THEN %(other)s::text
                                                                        ELSE gen_random_uuid()::text END),
       CASE WHEN i %% 100 = 0 THEN 'PERMISSION_DENIED' ELSE 'OK' END, '', sha256(i::text::bytea)
FROM generate_series(2, %(count)s::bigint) i
"""
_RESOURCES = """
INSERT INTO audit_resources SELECT chain_id, sequence, value::uuid FROM audit_events, jsonb_each_text(resources)
WHERE chain_id = %(org)s AND sequence > 1
"""
_OTHER = "00000000-0000-7000-8000-000000000001"
# A page of ten each, so that both logs have enough of everything.
_FILTERS: Mapping[str, Mapping[str, Any]] = {
    "none": {},
    "method": {"method": "OrgService/DeleteOrg"},
    "user": {"user_id": _OTHER},
    "resource": {"resource_id": _OTHER},
    "code": {"code": "PERMISSION_DENIED"},
    "time": {"start_time": _START, "end_time": _START + timedelta(seconds=500)},
}


async def measure(site: Site, quick: bool) -> list[Row]:
    what = "ListAuditEvents, worst filter ({worst}): log of {large} / {small} entries"
    return [await compare(site, quick, what, _FILTERS, _fill, _ask)]


async def _fill(database: AsyncConnection, owner: Person, orgs: Mapping[int, str]) -> None:
    for count, org_id in orgs.items():
        values = {"org": org_id, "user": owner.user_id, "other": _OTHER, "start": _START, "count": count}
        await database.execute(_ENTRIES, values)
        await database.execute(_RESOURCES, values)
    await database.execute("VACUUM ANALYZE audit_events, audit_resources")


async def _ask(owner: Person, org_id: str, wanted: Mapping[str, Any]) -> None:
    request = audit_pb2.ListAuditEventsRequest(org_id=org_id, page_size=10, **wanted)
    if not (await owner.audit.ListAuditEvents(request)).events:
        raise RuntimeError("an entry was not found")
