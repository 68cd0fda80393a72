"""GetUsage: that what it costs does not grow with the number of entries."""

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from statistics import median
from typing import Any

from psycopg import AsyncConnection

from aiworkspace.v1 import usage_pb2 as pb
from aiworkspace_server.usage.models import NO_KEY, TOKENS
from tests.support.people import Person, make_org, make_workspace, people

from .servers import Site
from .table import Row

_SMALL = 1_000
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
    large, calls = (100_000, 40) if quick else (1_000_000, 200)
    with site.server() as server:
        async with people(server.address) as new_person:
            owner = await new_person()
            orgs = {count: await make_org(owner) for count in (_SMALL, large)}
            await _fill(site, owner, orgs)
            took = {name: await _took(owner, orgs, asked, calls) for name, asked in _ASKED.items()}
    worst = max(took, key=lambda name: took[name][large] / took[name][_SMALL])
    figures = [f"{name}: {each[large]:.2f} / {each[_SMALL]:.2f} ms" for name, each in took.items()]
    ratio = took[worst][large] / took[worst][_SMALL]
    what = f"GetUsage, worst question ({worst}): {large:,} / {_SMALL:,} entries"
    return [Row(what, ratio, 1.5, ["; ".join(figures)], least=False)]


async def _fill(site: Site, owner: Person, orgs: Mapping[int, str]) -> None:
    url = site.stores["DATABASE_URL"].replace("+psycopg", "")
    async with await AsyncConnection.connect(url, autocommit=True) as database:
        for count, org_id in orgs.items():
            values: dict[str, Any] = {"org": org_id, "user": owner.user_id, "start": _START, "count": count}
            values |= {"days": _DAYS, "workspace": await make_workspace(owner, org_id)}
            await database.execute(_RUNS, values)
            await database.execute(_ENTRIES, values)
            await database.execute(_ROLLUPS, values)
        await database.execute("VACUUM ANALYZE ledger_entries, usage_rollups")


async def _took(owner: Person, orgs: Mapping[int, str], asked: Mapping[str, Any], calls: int) -> dict[int, float]:
    """Median milliseconds of a call by the length of the ledger, of calls that take turns."""
    times: dict[int, list[float]] = {count: [] for count in orgs}
    for _ in range(calls):
        for count, org_id in orgs.items():
            request = pb.GetUsageRequest(org_id=org_id, page_size=1000, **asked)
            start = time.perf_counter()
            found = await owner.usage.GetUsage(request)
            times[count].append((time.perf_counter() - start) * 1000)
            if not found.total.request_count:
                raise RuntimeError("an entry was not counted")
    return {count: median(each) for count, each in times.items()}
