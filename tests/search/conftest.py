"""A database with every table and no server."""

from collections.abc import AsyncIterator

import pytest

from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.search.query import Search
from tests.support.indexed import Library, make_library, searching
from tests.support.stores import Stores, migrated_databases


@pytest.fixture(scope="session")
async def search_stores(stores: Stores) -> Stores:
    return await migrated_databases(stores, "search")


@pytest.fixture(scope="session")
async def db(search_stores: Stores) -> AsyncIterator[Database]:
    db = Database(search_stores.postgres)
    yield db
    await db.close()


@pytest.fixture
async def library(search_stores: Stores, db: Database) -> Library:
    """A new organization with an empty workspace."""
    return await make_library(search_stores, db)


@pytest.fixture
def search(db: Database) -> Search:
    """Without an embedder and without a reranker."""
    return searching(db, {}, None)
