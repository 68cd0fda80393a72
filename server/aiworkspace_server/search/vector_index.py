"""Indexes of vectors (HNSW), one per organization and generation, for organizations with many chunks.

Only the owner of the table can create them, so a job does it under the login of migrations.
"""

import asyncio
import re
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from uuid import UUID

import structlog
from psycopg import AsyncConnection
from sqlalchemy import text

from ..kit.connections import plain_url
from ..kit.postgres import ReadSession
from .generations import Generation

log = structlog.get_logger("search")

# An index pays off above this many chunks: fewer are compared one by one.
LEAST_INDEXED = 10_000

_MISSING = text("""
SELECT (SELECT coalesce(sum(chunk_count), 0) FROM search_stats WHERE org_id = :org_id) > :least
  AND NOT EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:index) AND indisvalid)
""")
_IS_LARGE = text("SELECT coalesce(sum(chunk_count), 0) > :least FROM search_stats WHERE org_id = :org_id")
_VALID = "SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass(%s)"
_LIST = "SELECT relname FROM pg_class WHERE relkind = 'i' AND relname LIKE 'chunk\\_vectors\\_%'"
_NAME = re.compile(r"chunk_vectors_([0-9a-f]{32})_(\d+)")
# Without it a second builder would wait for the first, and both for every transaction that is open.
_LOCK = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
_CREATE = """
CREATE INDEX CONCURRENTLY {name} ON chunk_vectors
USING hnsw ((CAST(embedding AS halfvec({dimension:d}))) halfvec_ip_ops) WITH (m = 16, ef_construction = 100)
WHERE org_id = '{org}' AND generation = {generation:d}
"""


def index_name(org_id: UUID, generation: int) -> str:
    return f"chunk_vectors_{org_id.hex}_{generation:d}"


async def is_large(tx: ReadSession, org_id: UUID) -> bool:
    """Return whether an organization has so many chunks that an index pays off."""
    return bool((await tx.execute(_IS_LARGE, {"org_id": org_id, "least": LEAST_INDEXED})).scalar_one())


async def needs_index(tx: ReadSession, org_id: UUID, generation: int) -> bool:
    """Return whether an organization has many chunks and no index of them that is complete."""
    values = {"org_id": org_id, "least": LEAST_INDEXED, "index": index_name(org_id, generation)}
    return bool((await tx.execute(_MISSING, values)).scalar_one())


class VectorIndexes:
    """Creates and drops indexes. Both may be repeated, and may be interrupted at any time."""

    def __init__(self, owner_url: str) -> None:
        """`owner_url` names the login that owns the tables."""
        self._url = plain_url(owner_url)
        # Each is a connection that this process may have at a time.
        self._building, self._short = asyncio.Lock(), asyncio.Lock()

    async def build(self, org_id: UUID, generation: Generation) -> bool:
        """Create an organization's index unless it is there. Return False while it or another one is being created.

        Writes go on meanwhile. Waits for transactions that began before.
        """
        name = index_name(org_id, generation.id)
        if self._building.locked():
            return False
        async with self._building, self._holding(name) as connection:
            if connection is None:
                return False
            valid = await (await connection.execute(_VALID, (name,))).fetchone()
            if valid and valid[0]:
                return True
            if valid:  # its creation was interrupted
                await connection.execute(f"DROP INDEX CONCURRENTLY {name}".encode())
            await connection.execute(b"SET maintenance_work_mem = '256MB'")
            org, number, dimension = UUID(int=org_id.int), generation.id, generation.dimension
            create = _CREATE.format(name=name, org=org, generation=number, dimension=dimension)
            await connection.execute(create.encode())
            log.info("vector_index_built", org_id=str(org_id), generation=generation.id)
            return True

    async def list(self) -> Sequence[tuple[UUID, int]]:
        """Return organization and generation of every index, complete or not."""
        async with self._short, await self._connect() as connection:
            rows = await (await connection.execute(_LIST)).fetchall()
        found = [_NAME.fullmatch(str(name)) for (name,) in rows]
        return [(UUID(hex=each[1]), int(each[2])) for each in found if each]

    async def drop(self, org_id: UUID, generation: int) -> bool:
        """Drop an organization's index, if it has one. Return False while another process creates or drops it."""
        name = index_name(org_id, generation)
        async with self._short, self._holding(name) as connection:
            if connection is None:
                return False
            await connection.execute(f"DROP INDEX CONCURRENTLY IF EXISTS {name}".encode())
            return True

    @asynccontextmanager
    async def _holding(self, name: str) -> AsyncIterator[AsyncConnection[tuple[object, ...]] | None]:
        """Yield a connection that holds an index, or None if another process does."""
        async with await self._connect() as connection:
            held = await (await connection.execute(_LOCK, (name,))).fetchone()
            yield connection if held and held[0] else None

    async def _connect(self) -> AsyncConnection[tuple[object, ...]]:
        return await AsyncConnection.connect(self._url, autocommit=True, connect_timeout=5)
