"""All that is stored, as text."""

from pymongo import AsyncMongoClient

from tests.support.postgres import sql
from tests.support.stores import Stores


async def rows(stores: Stores) -> dict[str, str]:
    """Every table, jsonb and bytea included, as text."""
    tables = await sql(stores, "SELECT tablename FROM pg_tables WHERE schemaname = 'public'")
    return {table: repr(await sql(stores, f'SELECT t::text FROM "{table}" t')) for (table,) in tables}


async def documents(stores: Stores) -> dict[str, str]:
    client: AsyncMongoClient[dict[str, object]] = AsyncMongoClient(stores.mongo)
    database = client.get_default_database()
    names = await database.list_collection_names()
    found = {name: repr(await database[name].find().to_list()) for name in names}
    await client.close()
    return found
