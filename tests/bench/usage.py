"""GetUsage: that what it costs does not grow with the number of entries."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from psycopg import AsyncConnection

from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.usage.models import NO_KEY, TOKENS
from tests.support.people import Person, make_workspace

from .growth import compare
from .servers import Site
from .table import Row

_START = datetime(2026, 1, 1, tzinfo=UTC)
_DAYS = 20
_SPENT = ", ".join(TOKENS)
# Spread over the days, of two models, so that there is about one of each in every hour of the small ledger.
_RUNS = """
INSERT INTO run_claims (org_id, run_id, workspace_id, conversation_id, user_id, content_hash, state, create_time)
SELECT %(org)s, gen_random_uuid(), %(workspace)s, gen_random_uuid(), %(user)s, '', 'closed',
       %(start)s::timestamptz + i * (%(days)s * interval '1 day' / %(count)s::float8)
FROM generate_series(1, %(count)s::bigint) i
"""
_ENTRIES = f"""
INSERT INTO ledger_entries (org_id, id, kind, workspace_id, conversation_id, run_id, attempt, run_time, user_id, key_id,
                            request_id, model, own_key, {_SPENT}, estimated, reserved_nanos, cost_nanos, currency,
                            price_version, create_time)
SELECT org_id, gen_random_uuid(), 'settle', workspace_id, conversation_id, run_id, 1, create_time, user_id, NULL, NULL,
       CASE row_number() OVER (ORDER BY create_time) %% 2 WHEN 0 THEN 'echo/echo' ELSE 'echo/other' END, false,
       100, 0, 0, 20, 0, 0, 0, false, 0, 140000, 'USD', 'bench', create_time
FROM run_claims WHERE org_id = %(org)s
"""
_ROLLUPS = f"""
INSERT INTO usage_rollups (org_id, period, start_time, workspace_id, user_id, key_id, model, request_count, {_SPENT},
                           cost_nanos)
SELECT org_id, period, date_trunc(period, create_time, 'UTC'), workspace_id, user_id, '{NO_KEY}'::uuid, model, count(*),
       {", ".join(f"sum({name})" for name in (*TOKENS, "cost_nanos"))}
FROM ledger_entries, (VALUES ('day'), ('hour')) AS periods(period)
WHERE org_id = %(org)s
GROUP BY 1, 2, 3, 4, 5, 6, 7
"""
_DAY, _HOUR, _MODEL = pb.USAGE_DIMENSION_DAY, pb.USAGE_DIMENSION_HOUR, pb.USAGE_DIMENSION_MODEL
_ASKED: Mapping[str, Mapping[str, Any]] = {
    "all": {},
    "ten days by day and model": {
        "start_time": _START + timedelta(days=5),
        "end_time": _START + timedelta(days=15),
        "group_by": [_DAY, _MODEL],
    },
    "ends within hours": {
        "start_time": _START + timedelta(days=5, minutes=59, seconds=50),
        "end_time": _START + timedelta(days=15, seconds=10),
    },
    "a day by hour": {
        "start_time": _START + timedelta(days=10),
        "end_time": _START + timedelta(days=11),
        "group_by": [_HOUR],
    },
}


async def measure(site: Site, quick: bool) -> list[Row]:
    what = "GetUsage, worst question ({worst}): {large} / {small} entries"
    return [await compare(site, quick, what, _ASKED, _fill, _ask)]


async def _fill(database: AsyncConnection, owner: Person, orgs: Mapping[int, str]) -> None:
    for count, org_id in orgs.items():
        values: dict[str, Any] = {"org": org_id, "user": owner.user_id, "start": _START, "count": count}
        values |= {"days": _DAYS, "workspace": await make_workspace(owner, org_id)}
        await database.execute(_RUNS, values)
        await database.execute(_ENTRIES, values)
        await database.execute(_ROLLUPS, values)
    await database.execute("VACUUM ANALYZE ledger_entries, usage_rollups")


async def _ask(owner: Person, org_id: str, asked: Mapping[str, Any]) -> None:
    request = pb.GetUsageRequest(org_id=org_id, page_size=1000, **asked)
    if not (await owner.usage.GetUsage(request)).total.request_count:
        raise RuntimeError("an entry was not counted")
