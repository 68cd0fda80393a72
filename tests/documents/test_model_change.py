"""Another embedding model: the old vectors answer until there are new ones, which happens in the background."""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any
from uuid import UUID

import numpy as np
import pytest

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_server.app import App, running
from aiworkspace_server.documents import versions
from aiworkspace_server.documents.metering import Metering
from aiworkspace_server.documents.upkeep import MOST_FAILURES, Upkeep
from aiworkspace_server.documents.vectors import Vectors
from aiworkspace_server.embedding.base import Embedded, EmbeddingRefused
from aiworkspace_server.kit.jobs import Jobs
from aiworkspace_server.kit.postgres import Database, ReadSession
from aiworkspace_server.search import generations
from aiworkspace_server.search.vector_index import VectorIndexes
from aiworkspace_server.settings import Settings
from tests.standin import Standin
from tests.support.budgets import change_limit, make_budget
from tests.support.documents import read
from tests.support.people import Person, Place, new_place, people, reconnected
from tests.support.postgres import sql
from tests.support.settings import provider_settings, store_settings
from tests.support.stores import Stores, other_databases
from tests.support.waiting import until

COUNT_ENTRIES = """
  SELECT kind, count(*), count(DISTINCT (run_id, attempt)) FROM ledger_entries WHERE model = %s GROUP BY kind
"""
# A job has begun with another model, and has ended.
TRIED = """
  SELECT 1 FROM search_generations WHERE org_id = %s AND next IS NOT NULL
    AND NOT EXISTS (SELECT FROM procrastinate_jobs WHERE task_name = 'documents.embed_again')
"""
ROOM = 999_999_999  # nanos
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


async def until_model(stores: Stores, place: Place, model: str, count: int) -> None:
    """Waits until a model answers, with so many vectors, and those of others are erased."""

    async def changed() -> bool:
        return await models_of(stores, place) == (model, count, 0)

    await until(changed)


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
        await until_model(own, place, "openai/text-embedding-3-small", 3)
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
        await until_model(own, place, "local/all-minilm-l6-v2", 1)
        assert await omissions(person, place.workspace_id) == []
        assert await models_of(own, nobody) == (None, 0, 0), "it has nothing to embed"
        await person.channel.close()


async def test_exhausted_budget_leaves_the_old_model_answering_until_there_is_room(
    stores: Stores, standin: Standin
) -> None:
    own = await other_databases(stores, "no_room")
    async with server(own, standin) as app, people(app.address) as new_person:
        place = await new_place(new_person)
        for number in range(3):
            await read(place.owner, place.workspace_id, b"Heron number %d eats fish." % number)
        budget = await make_budget(place.owner, place.org_id, 1)
    async with server(own, standin, **OPENAI) as app:
        person = reconnected(place.owner, app.address)

        async def tried() -> bool:
            return bool(await sql(own, TRIED, UUID(place.org_id)))

        await until(tried)
        assert await omissions(person, place.workspace_id) == []
        assert await models_of(own, place) == ("local/all-minilm-l6-v2", 3, 0)
        assert await sql(own, COUNT_ENTRIES, "openai/text-embedding-3-small") == []
        await change_limit(person, budget, ROOM)
        await until_model(own, place, "openai/text-embedding-3-small", 3)
        entries = await sql(own, COUNT_ENTRIES, "openai/text-embedding-3-small")
        assert sorted(entries) == [("reserve", 3, 3), ("settle", 3, 3)], "each document once"
        await person.channel.close()


# The work itself, without the times at which a server does it


class Recorder:
    """An embedder that keeps the texts it was asked for, and refuses those with a word."""

    dimension, window = 8, 256

    def __init__(self, model: str, refused: str = "", then: Callable[[], Awaitable[object]] | None = None) -> None:
        """`then`: done once, with the first answer."""
        self.model = model
        self.refused = refused
        self.then = then
        self.texts: list[str] = []

    async def embed(self, texts: Sequence[str], *, query: bool) -> Embedded:
        self.texts += texts
        if self.refused and any(self.refused in text for text in texts):
            raise EmbeddingRefused("no")
        if then := self.then:
            self.then = None
            await then()
        return Embedded(np.ones((len(texts), 8), np.float32), len(texts))

    async def aclose(self) -> None: ...


class Patient(Jobs):
    """For a job that makes way for nobody, whatever the server enqueues meanwhile."""

    async def others_wait(self, tx: ReadSession, queue: str, name: str, **arguments: object) -> bool:
        return False


@dataclass(frozen=True)
class Desk:
    """Databases whose server has no model, so that nothing happens in the background."""

    app: App
    stores: Stores
    place: Place

    @property
    def db(self) -> Database:
        return self.app.db

    @property
    def org_id(self) -> UUID:
        return UUID(self.place.org_id)

    def vectors(self, embedder: Recorder) -> Vectors:
        return Vectors(self.db, embedder, Metering(self.db, self.app.ledger))

    def upkeep(self, embedder: Recorder, most_failures: int = MOST_FAILURES) -> Upkeep:
        jobs, indexes = Patient(self.stores.postgres), VectorIndexes(self.stores.postgres)
        return Upkeep(self.db, jobs, self.vectors(embedder), indexes, most_failures)

    async def embed(self, embedder: Recorder) -> None:
        await self.upkeep(embedder).embed_again(self.place.org_id)

    async def read(self, *texts: str) -> None:
        for text in texts:
            await read(self.place.owner, self.place.workspace_id, text.encode())

    async def models(self) -> tuple[str | None, int, int]:
        return await models_of(self.stores, self.place)

    async def sql(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        return await sql(self.stores, statement, *values)

    async def is_to_embed(self, embedder: Recorder) -> bool:
        async with self.db.write() as tx:
            generation = await self.vectors(embedder).generation(tx)
            return self.org_id in await generations.list_orgs_to_embed(tx, generation, 100)


@pytest.fixture(scope="module")
async def modelless(stores: Stores, standin: Standin) -> AsyncIterator[tuple[App, Stores]]:
    own = await other_databases(stores, "modelless")
    async with server(own, standin, embedding_model="none") as app:
        yield app, own


@pytest.fixture
async def desk(modelless: tuple[App, Stores]) -> AsyncIterator[Desk]:
    app, own = modelless
    async with people(app.address) as new_person:
        yield Desk(app, own, await new_place(new_person))


OLD, NEW = "openai/text-embedding-3-small", "openai/text-embedding-3-large"
VECTORS_OF = """
  SELECT count(*) FROM chunk_vectors v JOIN embedding_generations g ON g.id = v.generation
  WHERE v.org_id = %s AND g.model = %s
"""

# Of the document with several chunks: neither the first ones nor all that follow are left.
ERASE_TWO = """
  DELETE FROM chunk_vectors v WHERE org_id = %s AND number IN (0, 2)
    AND EXISTS (SELECT FROM chunk_vectors o WHERE o.version_id = v.version_id AND o.number = 1)
"""


async def test_version_that_is_refused_keeps_no_other_from_being_embedded(desk: Desk) -> None:
    await desk.read("poison one", "heron one", "poison two", "heron two")
    recorder = Recorder(NEW, refused="poison")
    await desk.embed(recorder)
    assert sorted(recorder.texts) == ["heron one", "heron two", "poison one", "poison two"], "each once"
    assert await desk.sql(VECTORS_OF, desk.org_id, NEW) == [(2,)]
    assert await desk.models() == (None, 0, 0), "nothing is searched while some are missing"
    assert await desk.is_to_embed(recorder)
    recorder.refused, recorder.texts = "", []
    await desk.embed(recorder)
    assert sorted(recorder.texts) == ["poison one", "poison two"]
    assert await desk.models() == (NEW, 4, 0)
    ended = "SELECT kind, count(*) FROM ledger_entries WHERE org_id = %s GROUP BY kind"
    assert sorted(await desk.sql(ended, desk.org_id)) == [("release", 2), ("reserve", 6), ("settle", 4)]


async def test_next_job_goes_on_behind_the_versions_that_failed(desk: Desk) -> None:
    await desk.read("poison one", "poison two", "heron")
    recorder = Recorder(NEW, refused="poison")
    upkeep = desk.upkeep(recorder, most_failures=1)
    for _ in range(3):
        await upkeep.embed_again(desk.place.org_id)
    assert sorted(recorder.texts) == ["heron", "poison one", "poison two"]
    await upkeep.embed_again(desk.place.org_id)
    assert len(recorder.texts) == 4, "when all were tried, they are tried again, one in each job"


async def test_old_vectors_are_erased_wherever_the_new_ones_were_activated(desk: Desk) -> None:
    await desk.read("heron one", "heron two")
    old, new = Recorder(OLD), Recorder(NEW)
    await desk.embed(old)
    assert not await desk.is_to_embed(old)
    for (version_id,) in await desk.sql("SELECT version_id FROM search_versions WHERE org_id = %s", desk.org_id):
        async with desk.db.read(desk.org_id) as tx:
            version = await versions.find_ready(tx, version_id)
        assert version
        batch = await desk.vectors(new).embed_next(version)
        async with desk.db.write(desk.org_id) as tx:
            await batch.store(tx)
    async with desk.db.write(desk.org_id) as tx:
        assert await generations.activate(tx, desk.org_id)  # as the last step of reading does
    assert await desk.models() == (NEW, 2, 2)
    assert await desk.is_to_embed(new)
    await desk.embed(new)
    assert await desk.models() == (NEW, 2, 0)
    assert len(new.texts) == 2
    assert not await desk.is_to_embed(new)


async def test_vectors_of_a_model_that_was_given_up_are_erased(desk: Desk) -> None:
    await desk.read("heron one", "poison")
    old, new = Recorder(OLD), Recorder(NEW, refused="poison")
    await desk.embed(old)
    await desk.embed(new)
    assert await desk.models() == (OLD, 2, 1)
    await desk.embed(old)
    assert await desk.models() == (OLD, 2, 0)
    assert not await desk.is_to_embed(old)


async def test_only_chunks_without_vectors_are_embedded_after_a_return_to_the_old_model(desk: Desk) -> None:
    paragraphs = [f"Heron {n} stands in the water. " * 40 for n in range(8)]
    await desk.read("\n\n".join(paragraphs), "one chunk")
    old, new = Recorder(OLD), Recorder(NEW)
    await desk.embed(old)
    every = old.texts
    assert len(every) > 3
    # Another model was activated, and the erasure of the old vectors was interrupted.
    async with desk.db.write() as tx:
        generation = await desk.vectors(new).generation(tx)
    await desk.sql("UPDATE search_generations SET active = %s WHERE org_id = %s", generation, desk.org_id)
    await desk.sql("DELETE FROM embedded_versions WHERE org_id = %s", desk.org_id)
    await desk.sql(ERASE_TWO, desk.org_id)
    old.texts = []
    await desk.embed(old)
    assert await desk.models() == (OLD, len(every), 0)
    assert (len(old.texts), set(old.texts) <= set(every)) == (2, True)
    assert not any("one chunk" in text for text in old.texts), "it had all its vectors"


async def test_budget_that_ends_within_a_document_has_no_chunk_paid_twice(desk: Desk) -> None:
    await desk.read("\n\n".join(f"Heron {n} stands in the water. " * 40 for n in range(40)), "one chunk")
    old = Recorder(OLD)
    await desk.embed(old)
    budget, every = await make_budget(desk.place.owner, desk.place.org_id, ROOM), len(old.texts)
    new = Recorder(NEW, then=lambda: change_limit(desk.place.owner, budget, 1))
    for _ in range(2):
        await desk.embed(new)
        assert await desk.models() == (OLD, every, len(new.texts))
        assert await desk.is_to_embed(new)
    assert 0 < len(new.texts) < every, "nothing was embedded after the budget had ended"
    await change_limit(desk.place.owner, budget, ROOM)
    await desk.embed(new)
    assert await desk.models() == (NEW, every, 0)
    assert sorted(new.texts) == sorted(old.texts)
    paid = "SELECT kind, sum(input_tokens) FROM ledger_entries WHERE model = %s AND org_id = %s GROUP BY kind"
    assert dict(await desk.sql(paid, NEW, desk.org_id))["settle"] == every
    assert not await desk.is_to_embed(new)
