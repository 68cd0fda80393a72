"""Writes the index of one version at a time: chunks, then postings and vectors, then `publish`.

A version is invisible until it is published, so an attempt may end anywhere. The next one calls `erase_version` and
begins again, or goes on with the same chunks: every write here can be repeated. Callers hold their own record of the
version in the same transaction, so that nothing is written of a version that is being erased.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager
from typing import TypeVar
from uuid import UUID

import numpy as np
import orjson
from numpy.typing import NDArray
from sqlalchemy import text

from ..embedding.base import with_heading
from ..kit.postgres import ReadSession, WriteSession
from .lexing import lex
from .models import IndexedChunk, IndexedVersion
from .postings import erase_postings

_ERASED_CHUNKS, _ERASED_VECTORS = 64, 1000  # in one transaction

Begin = Callable[[], AbstractAsyncContextManager[WriteSession]]
Item = TypeVar("Item")
Result = TypeVar("Result")

_PUT_CHUNKS = text("""
INSERT INTO chunks (org_id, version_id, number, start_offset, end_offset, text, heading, place, token_count,
                    lexeme_count, lexemes)
SELECT :org_id, :version_id, c.number, c.start_offset, c.end_offset, c.text, c.heading, c.place, c.token_count,
       (SELECT coalesce(sum(least(cardinality(positions), 255)), 0) FROM unnest(v.lexemes)), v.lexemes
FROM unnest(CAST(:numbers AS integer[]), CAST(:starts AS integer[]), CAST(:ends AS integer[]), CAST(:texts AS text[]),
            CAST(:headings AS text[]), CAST(:places AS jsonb[]), CAST(:token_counts AS integer[]),
            CAST(:words AS text[]), CAST(:pieces AS text[]))
  AS c(number, start_offset, end_offset, text, heading, place, token_count, words, pieces),
  LATERAL (
    SELECT to_tsvector(CAST(CAST(:language AS text) AS regconfig), c.words) || CAST(c.pieces AS tsvector)) v(lexemes)
ON CONFLICT (org_id, version_id, number) DO UPDATE SET
  start_offset = excluded.start_offset, end_offset = excluded.end_offset, text = excluded.text,
  heading = excluded.heading, place = excluded.place, token_count = excluded.token_count,
  lexeme_count = excluded.lexeme_count, lexemes = excluded.lexemes
""")

_PUT_VECTORS = text("""
INSERT INTO chunk_vectors (org_id, generation, version_id, number, embedding)
SELECT :org_id, :generation, :version_id, v.number, CAST(v.embedding AS halfvec)
FROM unnest(CAST(:numbers AS integer[]), CAST(:embeddings AS text[])) AS v(number, embedding)
ON CONFLICT (org_id, generation, version_id, number) DO UPDATE SET embedding = excluded.embedding
""")
_MARK_EMBEDDED = text("""
INSERT INTO embedded_versions (org_id, generation, version_id, mean)
SELECT :org_id, :generation, :version_id, CAST(avg(CAST(v.embedding AS vector)) AS halfvec)
FROM chunks c LEFT JOIN chunk_vectors v
  ON v.org_id = :org_id AND v.generation = :generation AND v.version_id = :version_id AND v.number = c.number
WHERE c.org_id = :org_id AND c.version_id = :version_id
HAVING count(*) > 0 AND count(*) = count(v.number)
ON CONFLICT (org_id, generation, version_id) DO UPDATE SET mean = excluded.mean
RETURNING version_id
""")
_NOW_EMBEDDED = text("""
UPDATE search_versions v SET embedded = true
FROM search_generations g
WHERE v.org_id = :org_id AND v.version_id = :version_id AND NOT v.embedded
  AND g.org_id = :org_id AND g.active = :generation
""")

# Activation locks this row, so it waits for a publication in progress, or the publication sees what it made active.
_HOLD_GENERATION = text("SELECT active FROM search_generations WHERE org_id = :org_id FOR SHARE")
_PUBLISH = text("""
WITH shown AS (
  DELETE FROM hidden_versions WHERE org_id = :org_id AND version_id = :version_id
  RETURNING first_chunk, chunk_count
)
INSERT INTO search_versions (org_id, version_id, workspace_id, document_id, media_type, language, create_time,
                             first_chunk, chunk_count, lexeme_count, embedded)
SELECT :org_id, :version_id, :workspace_id, :document_id, :media_type, :language, :create_time,
       (SELECT first_chunk FROM shown), (SELECT chunk_count FROM shown), coalesce(sum(c.lexeme_count), 0),
       EXISTS (SELECT FROM embedded_versions e
               WHERE e.org_id = :org_id AND e.generation = :generation AND e.version_id = :version_id)
FROM chunks c WHERE c.org_id = :org_id AND c.version_id = :version_id
RETURNING chunk_count, lexeme_count
""")
_RETIRE = text("""
WITH retired AS (
  DELETE FROM search_versions
  WHERE org_id = :org_id AND (version_id = :version_id OR document_id = :document_id)
  RETURNING version_id, workspace_id, language, first_chunk, chunk_count, lexeme_count
), hidden AS (
  INSERT INTO hidden_versions (org_id, version_id, workspace_id, first_chunk, chunk_count, posted_count)
  SELECT :org_id, version_id, workspace_id, first_chunk, chunk_count, chunk_count FROM retired
)
SELECT version_id, workspace_id, language, chunk_count, lexeme_count FROM retired
""")
_COUNT = text("""
INSERT INTO search_stats (org_id, workspace_id, language, version_count, chunk_count, lexeme_count)
VALUES (:org_id, :workspace_id, :language, 1, :chunk_count, :lexeme_count)
ON CONFLICT (org_id, workspace_id, language) DO UPDATE SET
  version_count = search_stats.version_count + 1,
  chunk_count = search_stats.chunk_count + excluded.chunk_count,
  lexeme_count = search_stats.lexeme_count + excluded.lexeme_count
""")
_UNCOUNT = text("""
UPDATE search_stats SET version_count = version_count - 1, chunk_count = chunk_count - :chunk_count,
  lexeme_count = lexeme_count - :lexeme_count
WHERE org_id = :org_id AND workspace_id = :workspace_id AND language = :language
""")
_DROP_EMPTY_STATS = text("DELETE FROM search_stats WHERE workspace_id = :workspace_id AND version_count = 0")

_ERASE_VECTORS = text("""
WITH gone AS (
  DELETE FROM chunk_vectors WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM chunk_vectors WHERE org_id = :org_id AND version_id = :version_id
      AND generation IN (SELECT id FROM embedding_generations) LIMIT :limit))
  RETURNING number
)
SELECT count(*) FROM gone
""")
_ERASE_EMBEDDED = text("""
DELETE FROM embedded_versions WHERE org_id = :org_id AND version_id = :version_id
  AND generation IN (SELECT id FROM embedding_generations)
""")


async def put_chunks(tx: WriteSession, version: IndexedVersion, chunks: Sequence[IndexedChunk]) -> None:
    """Store chunks with what the full-text index has of them."""
    lexed = await _each(lambda chunk: lex(with_heading(chunk.heading, chunk.text)), chunks)
    values = {
        "org_id": version.org_id,
        "version_id": version.version_id,
        "language": version.language,
        "numbers": [chunk.number for chunk in chunks],
        "starts": [chunk.start for chunk in chunks],
        "ends": [chunk.end for chunk in chunks],
        "texts": [chunk.text for chunk in chunks],
        "headings": [chunk.heading for chunk in chunks],
        "places": [orjson.dumps(chunk.place).decode() for chunk in chunks],
        "token_counts": [chunk.token_count for chunk in chunks],
        "words": [each.words for each in lexed],
        "pieces": [each.pieces_vector for each in lexed],
    }
    await tx.execute(_PUT_CHUNKS, values)


async def _each(work: Callable[[Item], Result], items: Iterable[Item]) -> list[Result]:
    """Return the results of work that takes a millisecond or less, and let other tasks run in between."""
    results = []
    for item in items:
        results.append(work(item))
        await asyncio.sleep(0)
    return results


async def put_vectors(
    tx: WriteSession,
    org_id: UUID,
    version_id: UUID,
    generation: int,
    numbers: Sequence[int],
    vectors: NDArray[np.float32],
) -> None:
    """Store the vectors of the chunks with these numbers, one a row, scaled to length one."""
    values = {"org_id": org_id, "version_id": version_id, "generation": generation, "numbers": list(numbers)}
    await tx.execute(_PUT_VECTORS, {**values, "embeddings": await _each(halfvec, vectors)})


def halfvec(vector: NDArray[np.float32]) -> str:
    """Return a vector, scaled to length one, as PostgreSQL reads it."""
    length = float(np.linalg.norm(vector))
    unit = vector / length if length else vector
    return f"[{','.join(map(str, unit.astype(np.float16).tolist()))}]"


async def mark_embedded(tx: WriteSession, org_id: UUID, version_id: UUID, generation: int) -> bool:
    """Record that a version has all its vectors in a generation. Return False if one of its chunks has none."""
    values = {"org_id": org_id, "version_id": version_id, "generation": generation}
    await tx.execute(_HOLD_GENERATION, {"org_id": org_id})
    complete = (await tx.execute(_MARK_EMBEDDED, values)).first() is not None
    if complete:
        await tx.execute(_NOW_EMBEDDED, values)
    return complete


async def publish(tx: WriteSession, version: IndexedVersion) -> UUID | None:
    """Make a version answer searches in place of the document's present one.

    Return the id of the version that answered until now, which the caller has to erase.
    """
    generation = (await tx.execute(_HOLD_GENERATION, {"org_id": version.org_id})).scalar_one_or_none()
    replaced = await _retire(tx, version.org_id, version.version_id, version.document_id)
    values = {
        "org_id": version.org_id,
        "version_id": version.version_id,
        "workspace_id": version.workspace_id,
        "document_id": version.document_id,
        "media_type": version.media_type,
        "language": version.language,
        "create_time": version.create_time,
        "generation": generation,
    }
    counted = (await tx.execute(_PUBLISH, values)).one()
    await tx.execute(_COUNT, {**values, **counted._mapping})
    return next((each for each in replaced if each != version.version_id), None)


async def retire(tx: WriteSession, org_id: UUID, version_id: UUID) -> bool:
    """Make a version answer no searches any more. Return whether it did. Its rows stay until `erase_version`."""
    return bool(await _retire(tx, org_id, version_id, None))


async def _retire(tx: WriteSession, org_id: UUID, version_id: UUID, document_id: UUID | None) -> list[UUID]:
    values = {"org_id": org_id, "version_id": version_id, "document_id": document_id}
    gone = (await tx.execute(_RETIRE, values)).all()
    for row in gone:
        await tx.execute(_UNCOUNT, {"org_id": org_id, **row._mapping})
        await tx.execute(_DROP_EMPTY_STATS, {"workspace_id": row.workspace_id})
    return [row.version_id for row in gone]


async def erase_version(begin: Begin, org_id: UUID, workspace_id: UUID, version_id: UUID) -> None:
    """Retire a version and delete all that is stored of it here, in many small transactions that `begin` begins."""
    values = {"org_id": org_id, "workspace_id": workspace_id, "version_id": version_id}
    async with begin() as tx:
        await retire(tx, org_id, version_id)
        await tx.execute(_ERASE_EMBEDDED, values)
    while await _erase(begin, values):
        pass


async def _erase(begin: Begin, values: dict[str, UUID]) -> bool:
    """Return whether something was left to delete."""
    async with begin() as tx:
        chunks = await erase_postings(tx, **values, limit=_ERASED_CHUNKS)
        vectors: int = (await tx.execute(_ERASE_VECTORS, {**values, "limit": _ERASED_VECTORS})).scalar_one()
        return chunks + vectors > 0


# Those without a vector may be anywhere: an erasure of old vectors that was interrupted leaves any of them.
_WITHOUT_VECTORS = text("""
SELECT c.number, c.start_offset, c.end_offset, c.text, c.heading, c.place, c.token_count FROM chunks c
WHERE c.org_id = :org_id AND c.version_id = :version_id AND NOT EXISTS (
  SELECT FROM chunk_vectors v
  WHERE v.org_id = :org_id AND v.generation = :generation AND v.version_id = :version_id AND v.number = c.number)
ORDER BY c.number LIMIT :limit
""")


async def chunks_without_vectors(
    tx: ReadSession, org_id: UUID, version_id: UUID, generation: int, limit: int
) -> Sequence[IndexedChunk]:
    """Return the first chunks of a version that have no vector in a generation."""
    values = {"org_id": org_id, "version_id": version_id, "generation": generation, "limit": limit}
    return [IndexedChunk(*row) for row in await tx.execute(_WITHOUT_VECTORS, values)]


_HAS_WORDS = text("""
SELECT EXISTS (SELECT FROM chunks WHERE org_id = :org_id AND version_id = :version_id AND lexeme_count > 0)
""")


async def has_words(tx: ReadSession, org_id: UUID, version_id: UUID) -> bool:
    """Return whether a version's chunks have a word that full-text search can find: no stop word, and no symbol."""
    return bool((await tx.execute(_HAS_WORDS, {"org_id": org_id, "version_id": version_id})).scalar_one())


_COUNT_VECTORS = text("""
SELECT count(*) FROM chunk_vectors WHERE org_id = :org_id AND generation = :generation AND version_id = :version_id
""")


async def count_vectors(tx: ReadSession, org_id: UUID, version_id: UUID, generation: int) -> int:
    """Return how many chunks of a version have vectors in a generation."""
    values = {"org_id": org_id, "version_id": version_id, "generation": generation}
    found: int = (await tx.execute(_COUNT_VECTORS, values)).scalar_one()
    return found
