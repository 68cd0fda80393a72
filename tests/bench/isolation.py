"""What row-level security costs a read: a workspace by its key, as a tenant and as somebody without policies."""

import time
from collections.abc import Awaitable, Callable
from statistics import median
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine, AsyncSession, create_async_engine

from aiworkspace_server.kit.postgres import Database
from tests.support.people import make_place, people

from .servers import Site
from .table import Row

_READS = 400
_QUERY = text("SELECT name, default_model FROM workspaces WHERE org_id = :org_id AND id = :id")

Read = Callable[[], Awaitable[None]]


async def measure(site: Site, quick: bool) -> list[Row]:
    with site.server() as server:
        async with people(server.address) as new_person:
            place = await make_place(await new_person())
    owner, db = create_async_engine(site.stores["DATABASE_URL"]), Database(site.stores["DATABASE_URL"])
    plain, tenant = _reads(owner, db, UUID(place.org_id), UUID(place.workspace_id))
    pairs = [(await _microseconds(plain), await _microseconds(tenant)) for _ in range(3 if quick else 15)]
    await owner.dispose()
    await db.close()
    without, with_it = (median(column) for column in zip(*pairs, strict=True))
    figures = f"{with_it:.0f} µs as a tenant, {without:.0f} µs in a plain transaction of the tables' owner"
    what = "a read as a tenant / the same without tenant and policies"
    return [Row(what, with_it / without, 1.5, [figures], least=False)]


def _reads(owner: AsyncEngine, db: Database, org_id: UUID, workspace_id: UUID) -> tuple[Read, Read]:
    key = {"org_id": org_id, "id": workspace_id}

    async def plain() -> None:
        async with AsyncSession(owner) as tx:
            assert (await tx.execute(_QUERY, key)).one()

    async def tenant() -> None:
        async with db.read(org_id) as tx:
            assert (await tx.execute(_QUERY, key)).one()

    return plain, tenant


async def _microseconds(read: Read) -> float:
    """Of the wall clock, for one read of many in a row."""
    start = time.perf_counter()
    for _ in range(_READS):
        await read()
    return (time.perf_counter() - start) / _READS * 1e6
