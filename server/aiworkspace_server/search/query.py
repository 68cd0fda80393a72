"""Search in a workspace: words and vectors, fused by rank and reranked where something does that."""

from itertools import islice
from uuid import UUID

import structlog
from sqlalchemy import text

from ..embedding.base import with_heading
from ..kit.postgres import Database, ReadSession
from .fusion import Fused, fuse
from .models import Filters, Hit, LeftOut, SearchResult, SimilarResult
from .questions import Asker, QuestionEmbedder
from .reranker import Reranker
from .scope import Key, Scope
from .similar import alike_by_words, find_source, nearest_documents
from .text_query import search_text
from .vector_query import search_vectors

log = structlog.get_logger("search")

MOST_CHARACTERS = 2000  # of a question; the rest is not looked at
_RANKED = 200  # chunks of each ranking that are fused
_RERANKED = 50  # chunks that are reranked
_SPARE = 20  # chunks that are loaded besides those that are wanted, for those that are retired meanwhile

# Of versions that still answer: one may have been retired since it was ranked.
_LOAD = text("""
SELECT v.document_id, c.version_id, c.number, c.start_offset AS start, c.end_offset AS "end", c.text, c.heading,
       c.place, c.token_count
FROM unnest(CAST(:version_ids AS uuid[]), CAST(:numbers AS integer[])) k(version_id, number)
JOIN search_versions v ON v.org_id = :org_id AND v.version_id = k.version_id
JOIN chunks c ON c.org_id = :org_id AND c.version_id = k.version_id AND c.number = k.number
""")


class Search:
    """Finds chunks. Who may read a workspace is the caller's to know."""

    def __init__(self, db: Database, questions: QuestionEmbedder, reranker: Reranker | None) -> None:
        self._db = db
        self._questions = questions
        self._reranker = reranker

    async def aclose(self) -> None:
        """Close the connections of the reranker. Embedders belong to the caller."""
        if self._reranker:
            await self._reranker.aclose()

    async def search(self, asker: Asker, question: str, filters: Filters, limit: int) -> SearchResult:
        """Return the best chunks of a workspace, at most 200, and what the result is without."""
        org_id, question = asker.org_id, question[:MOST_CHARACTERS]
        scope = Scope(org_id, asker.workspace_id, filters)
        asked = await self._questions.embed(asker, question)
        left_out = set(asked.left_out)
        async with self._db.read(org_id) as tx:
            rankings: list[list[Key]] = [await search_text(tx, scope, question, _RANKED), []]
            if asked.generation:
                rankings[1], more = await search_vectors(tx, scope, asked.generation, asked.vector, _RANKED)
                left_out |= more
            wanted = max(limit, _RERANKED) if self._reranker else limit
            hits = await _load(tx, org_id, dict(islice(fuse(rankings).items(), wanted + _SPARE)))
        hits = await self._rerank(question, hits, left_out)
        return SearchResult(hits[:limit], frozenset(left_out), asked.model, asked.token_count)

    async def similar(
        self, org_id: UUID, workspace_id: UUID, document_id: UUID, filters: Filters, limit: int
    ) -> SimilarResult:
        """Return the documents of a workspace that are most like one of them; none if that one is not indexed."""
        scope = Scope(org_id, workspace_id, filters)
        async with self._db.read(org_id) as tx:
            source = await find_source(tx, scope, document_id)
            if source is None:
                return SimilarResult([], frozenset())
            if not source.embedded:
                documents = await alike_by_words(tx, scope, source.version_id, limit)
                return SimilarResult(documents, frozenset({LeftOut.NOT_EMBEDDED_YET}))
            documents = await nearest_documents(tx, scope, source.version_id, limit)
        left_out = {LeftOut.NOT_EMBEDDED_YET} if source.others_unembedded else set()
        return SimilarResult(documents, frozenset(left_out))

    async def _rerank(self, question: str, hits: list[Hit], left_out: set[LeftOut]) -> list[Hit]:
        if self._reranker is None or not hits:
            return hits
        first = hits[:_RERANKED]
        order = await self._reranker.rerank(question, [with_heading(hit.heading, hit.text) for hit in first])
        if order is None:
            left_out.add(LeftOut.RERANKER_UNAVAILABLE)
            return hits
        return [first[index] for index in order] + hits[_RERANKED:]


async def _load(tx: ReadSession, org_id: UUID, fused: dict[Key, Fused]) -> list[Hit]:
    values = {
        "org_id": org_id,
        "version_ids": [version_id for version_id, _ in fused],
        "numbers": [number for _, number in fused],
    }
    found = {}
    for row in await tx.execute(_LOAD, values):
        score, (text_rank, vector_rank) = fused[row.version_id, row.number]
        found[row.version_id, row.number] = Hit(
            **row._mapping, score=score, text_rank=text_rank, vector_rank=vector_rank
        )
    return [found[key] for key in fused if key in found]
