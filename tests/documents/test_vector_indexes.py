"""Indexes of the vectors of large organizations come and go by themselves."""

from uuid import UUID

from aiworkspace_server.app import App
from aiworkspace_server.documents.upkeep import Upkeep
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.search.vector_index import VectorIndexes
from tests.support.documents import read, search
from tests.support.people import Place
from tests.support.postgres import sql
from tests.support.stores import Stores
from tests.support.waiting import until


async def count_chunks(stores: Stores, place: Place, number: int) -> None:
    """As if the organization had so many."""
    await sql(stores, "UPDATE search_stats SET chunk_count = %s WHERE org_id = %s", number, UUID(place.org_id))


async def test_large_organization_gets_an_index_until_it_is_small_again(app: App, stores: Stores, place: Place) -> None:
    await read(place.owner, place.workspace_id, b"A heron waits in the reeds.")
    indexes, org_id = VectorIndexes(stores.postgres), UUID(place.org_id)

    async def indexed() -> bool:
        return org_id in [each for each, _ in await indexes.list()]

    assert not await indexed()
    await count_chunks(stores, place, 10_001)
    await until(indexed)
    assert len(await search(place.owner, place.workspace_id, "heron")) == 1
    upkeep = Upkeep(app.db, Jobs(stores.postgres), None, indexes)
    await upkeep.drop_unused()
    assert await indexed()
    await count_chunks(stores, place, 1)

    async def dropped() -> bool:  # not while it is still being built
        await upkeep.drop_unused()
        return not await indexed()

    await until(dropped)
