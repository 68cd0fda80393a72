"""Documents like a given one: by the mean of its vectors, or by the words that tell most about it."""

from collections.abc import Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import ReadSession
from .models import SimilarDocument
from .scope import ALLOWED, Scope
from .text_query import rank_lexemes, rarest

_TELLING = 32  # lexemes that stand for a document
_FREQUENT = 200  # lexemes among which those are looked for
_READ = 200  # chunks of the document that are read for them
_RANKED = 1000  # chunks among which the documents are

_FIND = text("""
SELECT v.version_id, EXISTS (
    SELECT FROM embedded_versions e JOIN search_generations g ON g.org_id = e.org_id AND g.active = e.generation
    WHERE e.org_id = :org_id AND e.version_id = v.version_id) AS embedded,
  EXISTS (SELECT FROM search_versions
          WHERE org_id = :org_id AND workspace_id = :workspace_id AND NOT embedded) AS unembedded
FROM search_versions v
WHERE v.org_id = :org_id AND v.workspace_id = :workspace_id AND v.document_id = :document_id
""")
_NEAREST = text(f"""
WITH source AS MATERIALIZED (
  SELECT e.generation, e.mean
  FROM embedded_versions e JOIN search_generations g ON g.org_id = e.org_id AND g.active = e.generation
  WHERE e.org_id = :org_id AND e.version_id = :version_id
)
SELECT v.document_id, v.version_id, 1 - (e.mean <=> s.mean) AS score
FROM source s
JOIN embedded_versions e ON e.org_id = :org_id AND e.generation = s.generation
JOIN search_versions v ON v.version_id = e.version_id
WHERE v.version_id <> :version_id AND {ALLOWED}
ORDER BY e.mean <=> s.mean, v.document_id LIMIT :limit
""")
_FREQUENT_LEXEMES = text("""
SELECT l.lexeme
FROM (SELECT lexemes FROM chunks WHERE org_id = :org_id AND version_id = :version_id ORDER BY number LIMIT :read) c,
  unnest(c.lexemes) l
GROUP BY l.lexeme ORDER BY sum(cardinality(l.positions)) DESC, l.lexeme COLLATE "C" LIMIT :frequent
""")
_DOCUMENTS = text("""
SELECT version_id, document_id FROM search_versions
WHERE org_id = :org_id AND version_id = ANY (CAST(:version_ids AS uuid[]))
""")


class Source(NamedTuple):
    """The version of a document that others are compared with."""

    version_id: UUID
    embedded: bool
    others_unembedded: bool  # whether a version of the workspace is not embedded


async def find_source(tx: ReadSession, scope: Scope, document_id: UUID) -> Source | None:
    """Return the version of a document that answers in the workspace."""
    values = {"org_id": scope.org_id, "workspace_id": scope.workspace_id, "document_id": document_id}
    row = (await tx.execute(_FIND, values)).first()
    return Source(*row) if row else None


async def nearest_documents(tx: ReadSession, scope: Scope, version_id: UUID, limit: int) -> list[SimilarDocument]:
    """Return the documents whose mean vectors are nearest to that of a version. The score is the cosine."""
    rows = await tx.execute(_NEAREST, {**scope.values, "version_id": version_id, "limit": limit})
    return [SimilarDocument(*row) for row in rows]


async def alike_by_words(tx: ReadSession, scope: Scope, version_id: UUID, limit: int) -> list[SimilarDocument]:
    """Return the documents with the chunks that match a version's most telling words best. The score is 1 / rank."""
    values = {"org_id": scope.org_id, "version_id": version_id, "read": _READ, "frequent": _FREQUENT}
    frequent = list((await tx.execute(_FREQUENT_LEXEMES, values)).scalars())
    telling = await rarest(tx, scope, frequent, _TELLING)
    ranked = await rank_lexemes(tx, scope, telling, _RANKED, version_id)
    return await _documents(tx, scope, list(dict.fromkeys(version for version, _ in ranked))[:limit])


async def _documents(tx: ReadSession, scope: Scope, version_ids: Sequence[UUID]) -> list[SimilarDocument]:
    values = {"org_id": scope.org_id, "version_ids": list(version_ids)}
    documents = {row.version_id: row.document_id for row in await tx.execute(_DOCUMENTS, values)}
    return [
        SimilarDocument(documents[version_id], version_id, 1 / rank)
        for rank, version_id in enumerate(version_ids, 1)
        if version_id in documents
    ]
