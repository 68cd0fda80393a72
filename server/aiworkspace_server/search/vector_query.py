"""Search by vectors: each compared with the question's, or through the organization's own index of them.

An index that organizations shared would give a small one few rows or none, since row-level security filters what the
index returns, and would let each feel the vectors of others. So there is one index per organization and generation. It
is used only by statements that name both as constants.
"""

from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import ReadSession
from .generations import Generation
from .models import LeftOut
from .scope import ALLOWED, Key, Scope
from .vector_index import index_name

MOST_EXACT = 10_000  # vectors that are compared one by one; a few milliseconds
_LEAST_PART = 50  # of a smaller part of an organization's vectors the index would visit too many others
_LEAST_LIST, _MOST_LIST = 120, 1000  # candidates that the index keeps: more find more of the nearest, more slowly
_MOST_SCANNED = 50_000  # vectors that the index visits for filters, after which all are compared one by one

_COUNT = text(f"""
SELECT (SELECT coalesce(sum(chunk_count), 0) FROM search_stats WHERE org_id = :org_id) AS everywhere,
       CASE WHEN :filtered
         THEN (SELECT coalesce(sum(chunk_count), 0) FROM search_versions v WHERE {ALLOWED})
         ELSE (SELECT coalesce(sum(chunk_count), 0) FROM search_stats
               WHERE org_id = :org_id AND workspace_id = :workspace_id) END AS allowed,
       EXISTS (SELECT FROM search_versions
               WHERE org_id = :org_id AND workspace_id = :workspace_id AND NOT embedded) AS unembedded,
       EXISTS (SELECT FROM pg_index WHERE indexrelid = to_regclass(:index) AND indisvalid) AS indexed
""")
_EXACT = text(f"""
SELECT c.version_id, c.number
FROM search_versions v
JOIN chunk_vectors c ON c.org_id = :org_id AND c.generation = :generation AND c.version_id = v.version_id
WHERE {ALLOWED}
ORDER BY c.embedding <#> CAST(:question AS halfvec), c.version_id, c.number LIMIT :limit
""")
# Without sorting, the only plan left is to follow the index, nearest first, and to look up the version of each vector.
_FOLLOW_INDEX = text("""
SELECT set_config('enable_sort', 'off', true), set_config('enable_seqscan', 'off', true),
       set_config('enable_bitmapscan', 'off', true), set_config('enable_hashjoin', 'off', true),
       set_config('jit', 'off', true), set_config('hnsw.iterative_scan', 'strict_order', true),
       set_config('hnsw.ef_search', :list, true), set_config('hnsw.max_scan_tuples', :scanned, true)
""")
_INDEXED = f"""
SELECT c.version_id, c.number FROM chunk_vectors c
WHERE c.org_id = '{{org}}' AND c.generation = {{generation:d}}
  AND EXISTS (SELECT FROM search_versions v WHERE v.version_id = c.version_id AND {ALLOWED})
ORDER BY CAST(c.embedding AS halfvec({{dimension:d}})) <#> CAST(:question AS halfvec({{dimension:d}})) LIMIT :limit
"""


async def search_vectors(
    tx: ReadSession, scope: Scope, generation: Generation, question: str, limit: int
) -> tuple[list[Key], set[LeftOut]]:
    """Return the chunks nearest to a vector, nearest first, and what the ranking is without."""
    values = {**scope.values, "filtered": scope.filtered, "index": index_name(scope.org_id, generation.id)}
    counts = (await tx.execute(_COUNT, values)).one()
    left_out = {LeftOut.NOT_EMBEDDED_YET} if counts.unembedded else set()
    if counts.allowed <= max(MOST_EXACT, counts.everywhere / _LEAST_PART):
        return await search_exactly(tx, scope, generation.id, question, limit), left_out
    if not counts.indexed:
        left_out.add(LeftOut.VECTOR_INDEX_BUILDING)
        return await search_exactly(tx, scope, generation.id, question, limit), left_out
    found = await search_index(tx, scope, generation, question, limit)
    if len(found) < min(limit, counts.allowed):
        found = await search_exactly(tx, scope, generation.id, question, limit)
    return found, left_out


async def search_exactly(tx: ReadSession, scope: Scope, generation: int, question: str, limit: int) -> list[Key]:
    """Return the nearest chunks after comparing all."""
    values = {**scope.values, "generation": generation, "question": question, "limit": limit}
    return [(row.version_id, row.number) for row in await tx.execute(_EXACT, values)]


async def search_index(tx: ReadSession, scope: Scope, generation: Generation, question: str, limit: int) -> list[Key]:
    """Return the nearest chunks that the organization's index finds, which may be fewer than there are.

    The settings last until the transaction ends.
    """
    width = min(max(limit, _LEAST_LIST), _MOST_LIST)
    await tx.execute(_FOLLOW_INDEX, {"list": str(width), "scanned": str(_MOST_SCANNED)})
    # The constants are spelled from numbers, so nothing that a caller sent becomes part of the statement.
    org = UUID(int=scope.org_id.int)
    nearest = text(_INDEXED.format(org=org, generation=generation.id, dimension=generation.dimension))
    rows = await tx.execute(nearest, {**scope.values, "question": question, "limit": limit})
    return [(row.version_id, row.number) for row in rows]
