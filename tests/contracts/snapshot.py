"""Everything that is stored, to see that a call left it alone."""

from collections.abc import Iterable

import orjson

from aiworkspace_server.app import App
from tests.support.postgres import Owner

# What a call may touch by itself: when credentials were last used.
_TOUCHED = ("last_use_time", "last_use_address")
# What goes on whether anybody calls or not: leases, the heartbeat of the job queue, and jobs every few seconds.
_OWN_AFFAIRS = ("servers", "procrastinate_workers", "procrastinate_periodic_defers", "procrastinate_events")
_CONDITIONS = {
    "text_id": "state <> 'ended'",  # what is left of a version, until it is erased a second time
    "chain_id": "chain_id <> ALL (%(callers)s::uuid[])",
    "task_name": "task_name NOT IN (SELECT d.task_name FROM procrastinate_periodic_defers d)",
}

_TABLES = """
SELECT relname, ARRAY(SELECT attname::text FROM pg_attribute WHERE attrelid = c.oid AND attnum > 0)
FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' AND relname <> ALL (%s)
"""

_WORKING = b"""
SELECT EXISTS (SELECT FROM document_versions WHERE state = 'processing')
  OR EXISTS (
    SELECT FROM procrastinate_jobs
    WHERE task_name IN ('documents.erase_version', 'data_life.export', 'data_life.erase_export')
      AND status IN ('todo', 'doing'))
"""

Rows = frozenset[tuple[str, str]]  # of the name of a table or collection, and a row of it as JSON


class Snapshots:
    """Reads every table as the owner of the database, and every collection."""

    def __init__(self, owner: Owner, app: App, callers: Iterable[str]) -> None:
        """`callers` are the ids of whoever calls and of their organizations: in their own logs calls leave entries."""
        self._owner = owner
        self._mongo = app.mongo.database
        self._callers = list(callers)
        self._query = b""
        self._at_rest: Rows | None = None  # the last one

    async def take(self) -> Rows:
        self._query = self._query or await self._build_query()
        cursor = await self._owner.execute(self._query, {"callers": self._callers, "touched": list(_TOUCHED)})
        rows = set(await cursor.fetchall())
        for name in await self._mongo.list_collection_names():
            rows |= {(name, _text(document)) async for document in self._mongo[name].find({})}
        return frozenset(rows)

    async def take_at_rest(self) -> Rows:
        """When what goes on in the background has ended: after two that are equal, of which one may be the last one."""
        before, now = self._at_rest, await self.take()
        while before != now or await self._is_working():
            before, now = now, await self.take()
        self._at_rest = now
        return now

    async def before_call(self) -> Rows:
        """The last one at rest, unless something was done since."""
        return self._at_rest or await self.take_at_rest()

    def forget(self) -> None:
        """To be called when something may have changed."""
        self._at_rest = None

    async def _is_working(self) -> bool:
        """Whether documents are being read, exports are being written, or what was stored of either is being erased."""
        found = await (await self._owner.execute(_WORKING)).fetchone()
        return bool(found and found[0])

    async def _build_query(self) -> bytes:
        tables = await (await self._owner.execute(_TABLES.encode(), [list(_OWN_AFFAIRS)])).fetchall()
        parts = [
            f"SELECT '{name}', (to_jsonb(t) - %(touched)s::text[])::text FROM {name} t"
            + "".join(f" WHERE {_CONDITIONS[column]}" for column in columns if column in _CONDITIONS)
            for name, columns in tables
        ]
        return " UNION ALL ".join(parts).encode()


def _text(document: dict[str, object]) -> str:
    return orjson.dumps(document, default=repr).decode()


def about(rows: Rows, resource_id: str) -> Rows:
    """Those rows that name the resource."""
    return frozenset(row for row in rows if resource_id in row[1])
