"""Another embedding model: the old vectors answer until there are new ones, which happens in the background."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from uuid import UUID

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.documents import read
from tests.support.people import Person, Place, new_place, people, reconnected
from tests.support.postgres import sql
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until

COUNT_ENTRIES = """
  SELECT kind, count(*), count(DISTINCT (run_id, attempt)) FROM ledger_entries WHERE model = %s GROUP BY kind
"""
OPENAI = {"embedding_model": "openai/text-embedding-3-small"}


@asynccontextmanager
async def server(stores: Stores, standin: Standin, **changes: object) -> AsyncIterator[App]:
    values = store_settings(stores) | provider_settings(standin) | changes
    async with running(Settings.model_validate(values), migrating=True) as app:
        yield app


async def models_of(stores: Stores, place: Place) -> tuple[str | None, int, int]:
    """The model whose vectors answer, and how many vectors there are of it and of others."""
    query = """
      SELECT g.model, count(v.number) FILTER (WHERE v.generation = s.active),
             count(v.number) FILTER (WHERE v.generation <> s.active)
      FROM search_generations s JOIN embedding_generations g ON g.id = s.active
      LEFT JOIN chunk_vectors v ON v.org_id = s.org_id WHERE s.org_id = %s GROUP BY g.model
    """
    rows = await sql(stores, query, UUID(place.org_id))
    return rows[0] if rows else (None, 0, 0)


async def omissions(person: Person, workspace_id: str) -> list[int]:
    request = pb.SearchDocumentsRequest(workspace_id=workspace_id, query="What do herons eat?")
    response = await person.documents.SearchDocuments(request)
    assert response.passages
    return list(response.omissions)


async def test_another_model_takes_over_when_everything_is_embedded(stores: Stores, standin: Standin) -> None:
    own = await other_databases(stores, "model_change")
    async with server(own, standin) as app, people(app.address) as new_person:
        place = await new_place(new_person)
        for number in range(3):
            await read(place.owner, place.workspace_id, b"Heron number %d eats fish." % number)
        assert await models_of(own, place) == ("local/all-minilm-l6-v2", 3, 0)
        assert await omissions(place.owner, place.workspace_id) == []
    async with server(own, standin, **OPENAI) as app:
        person = reconnected(place.owner, app.address)
        assert await omissions(person, place.workspace_id) == [], "the old model embeds the question"

        async def changed() -> bool:
            return await models_of(own, place) == ("openai/text-embedding-3-small", 3, 0)

        await until(changed)
        assert await omissions(person, place.workspace_id) == []
        entries = await sql(own, COUNT_ENTRIES, "openai/text-embedding-3-small")
        assert sorted(entries) == [("reserve", 4, 4), ("settle", 4, 4)], "three documents and a question"
        await person.channel.close()


async def test_documents_that_were_read_without_a_model_are_embedded_when_there_is_one(
    stores: Stores, standin: Standin
) -> None:
    own = await other_databases(stores, "first_model")
    async with server(own, standin, embedding_model="none") as app, people(app.address) as new_person:
        place, nobody = await new_place(new_person), await new_place(new_person)
        await read(place.owner, place.workspace_id, b"A heron eats fish.")
        assert await models_of(own, place) == (None, 0, 0)
        assert await omissions(place.owner, place.workspace_id) == [pb.SEARCH_OMISSION_NO_EMBEDDER]
    async with server(own, standin) as app:
        person = reconnected(place.owner, app.address)

        async def embedded() -> bool:
            return await models_of(own, place) == ("local/all-minilm-l6-v2", 1, 0)

        await until(embedded)
        assert await omissions(person, place.workspace_id) == []
        assert await models_of(own, nobody) == (None, 0, 0), "it has nothing to embed"
        await person.channel.close()
