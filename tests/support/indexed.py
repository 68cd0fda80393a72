"""Versions of documents that tests put into the index of search, past the service of documents."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from uuid import UUID

import numpy as np
from numpy.typing import NDArray

from aiworkspace_server.embedding.base import Embedder
from aiworkspace_server.kit.answers import patience
from aiworkspace_server.kit.ids import new_id
from aiworkspace_server.kit.postgres import Database
from aiworkspace_server.kit.tasks import Tasks
from aiworkspace_server.kit.timestamps import now
from aiworkspace_server.search import generations, index, postings
from aiworkspace_server.search.languages import detect_language
from aiworkspace_server.search.models import IndexedChunk, IndexedVersion
from aiworkspace_server.search.query import Search
from aiworkspace_server.search.questions import Asker, QuestionEmbedder
from aiworkspace_server.search.reranker import Reranker
from aiworkspace_server.usage.ledger import Ledger
from tests.support.postgres import sql
from tests.support.stores import Stores

_JOB_SECONDS = 600  # as for statements of a job, which does this in a server
_BATCH = 100


def searching(db: Database, embedders: Mapping[str, Embedder], reranker: Reranker | None) -> Search:
    return Search(db, QuestionEmbedder(db, embedders, Ledger(None), Tasks()), reranker)


def chunks_of(texts: Sequence[str], heading: str = "") -> list[IndexedChunk]:
    """Chunks that follow each other in a text, one character apart."""
    chunks, start = [], 0
    for number, text in enumerate(texts):
        place = {"line": number + 1}
        chunks.append(IndexedChunk(number, start, start + len(text), text, heading, place, len(text.split())))
        start += len(text) + 1
    return chunks


@dataclass(frozen=True)
class Library:
    """A workspace of an organization of its own, or of another library's."""

    stores: Stores
    db: Database
    org_id: UUID
    workspace_id: UUID
    user_id: UUID

    @property
    def asker(self) -> Asker:
        return Asker(self.org_id, self.workspace_id, self.user_id, None)

    async def other_workspace(self) -> "Library":
        workspace_id = new_id()
        await _insert_workspace(self.stores, self.org_id, workspace_id)
        return replace(self, workspace_id=workspace_id)

    async def new_version(self, texts: Sequence[str], document_id: UUID | None = None) -> IndexedVersion:
        """A version of a document, of which nothing is in the index."""
        if document_id is None:
            document_id = new_id()
            await _insert_document(self, document_id)
        language = detect_language("\n".join(texts))
        return IndexedVersion(self.org_id, self.workspace_id, document_id, new_id(), "text/plain", now(), language)

    async def write(self, version: IndexedVersion, texts: Sequence[str], heading: str = "") -> None:
        """Index a version as far as it can be without anybody finding it."""
        chunks = chunks_of(texts, heading)
        with patience(_JOB_SECONDS):
            for first in range(0, len(chunks), _BATCH):
                async with self.db.write(self.org_id) as tx:
                    await index.put_chunks(tx, version, chunks[first : first + _BATCH])
            for block in postings.blocks(len(chunks)):
                async with self.db.write(self.org_id) as tx:
                    await postings.write_postings(tx, version, block)

    async def embed(self, version: IndexedVersion, generation: int, vectors: NDArray[np.float32]) -> bool:
        async with self.db.write(self.org_id) as tx:
            for first in range(0, len(vectors), _BATCH):
                some = vectors[first : first + _BATCH]
                numbers = range(first, first + len(some))
                await index.put_vectors(tx, self.org_id, version.version_id, generation, numbers, some)
            return await index.mark_embedded(tx, self.org_id, version.version_id, generation)

    async def publish(self, version: IndexedVersion) -> UUID | None:
        async with self.db.write(self.org_id) as tx:
            return await index.publish(tx, version)

    async def retire(self, version: IndexedVersion) -> bool:
        async with self.db.write(self.org_id) as tx:
            return await index.retire(tx, self.org_id, version.version_id)

    async def erase(self, version: IndexedVersion) -> None:
        begin = partial(self.db.write, self.org_id)
        with patience(_JOB_SECONDS):
            await index.erase_version(begin, self.org_id, self.workspace_id, version.version_id)

    async def add(self, *texts: str, heading: str = "", **fields: object) -> IndexedVersion:
        """A new document that answers; `fields` are those of its version."""
        version = replace(await self.new_version(texts), **fields)  # type: ignore[arg-type]
        await self.write(version, texts, heading)
        await self.publish(version)
        return version

    async def collect(self, *versions: IndexedVersion) -> UUID:
        """A new collection with the documents of these versions."""
        collection_id = new_id()
        await sql(
            self.stores,
            "INSERT INTO collections (org_id, id, workspace_id, name, description, version, create_time, update_time)"
            " VALUES (%s, %s, %s, 'C', '', 1, now(), now())",
            *(self.org_id, collection_id, self.workspace_id),
        )
        for version in versions:
            inside = self.org_id, collection_id, version.document_id
            await sql(self.stores, "INSERT INTO collection_documents VALUES (%s, %s, %s)", *inside)
        return collection_id


async def begin_generation(library: Library, model: str, dimension: int) -> int:
    """Make a generation the one that is being built, and the active one if no version is missing in it."""
    async with library.db.write(library.org_id) as tx:
        generation = await generations.find_generation(tx, model, dimension)
        await generations.build_next(tx, library.org_id, generation)
        await generations.activate(tx, library.org_id)
    return generation


async def make_library(stores: Stores, db: Database) -> Library:
    library = Library(stores, db, new_id(), new_id(), new_id())
    named = "INSERT INTO orgs (id, name, create_time, update_time) VALUES (%s, 'L', now(), now())"
    await sql(stores, named, library.org_id)
    await _insert_workspace(stores, library.org_id, library.workspace_id)
    return library


async def _insert_workspace(stores: Stores, org_id: UUID, workspace_id: UUID) -> None:
    statement = (
        "INSERT INTO workspaces (org_id, id, name, default_model, system_prompt, create_time, update_time)"
        " VALUES (%s, %s, 'W', 'echo/echo', '', now(), now())"
    )
    await sql(stores, statement, org_id, workspace_id)


async def _insert_document(library: Library, document_id: UUID) -> None:
    """It has no version and no bytes: search does not read them."""
    await sql(
        library.stores,
        "INSERT INTO documents (org_id, id, workspace_id, user_id, latest_version_id, name, version, create_time,"
        " update_time) VALUES (%s, %s, %s, %s, %s, 'D', 1, now(), now())",
        *(library.org_id, document_id, library.workspace_id, library.user_id, new_id()),
    )
