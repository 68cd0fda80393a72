"""Full-text search: BM25 in one SQL statement over the postings of a workspace.

`@@` is not leakproof, so under row-level security PostgreSQL uses no index for it, and its `ts_rank` knows no rarity.
Here only equalities of lexemes are looked up, which row-level security lets an index answer.
"""

from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import ReadSession
from .lexing import lex
from .scope import ALLOWED, Key, Scope

K1, B = 1.5, 0.75
_MOST_LEXEMES = 64  # of a question; of more, those are used that the fewest chunks have
_PROBED = 50  # rows of postings of a lexeme whose chunks are counted, to choose among many

# A question is lexed as each language of the workspace lexes it, since every version has the lexemes of its own.
_LEXEMES = text("""
SELECT DISTINCT l.lexeme
FROM search_stats s, unnest(to_tsvector(CAST(s.language AS regconfig), :words)) l
WHERE s.org_id = :org_id AND s.workspace_id = :workspace_id
""")
_RAREST = text("""
SELECT lexeme FROM (
  SELECT l.lexeme, (SELECT sum(cardinality(occurrences)) FROM (
    SELECT p.occurrences FROM postings p WHERE p.org_id = :org_id AND p.workspace_id = :workspace_id
      AND p.lexeme = l.lexeme LIMIT :probed) probed) AS found
  FROM unnest(CAST(:lexemes AS text[])) l(lexeme)
) counted WHERE found > 0 ORDER BY found, lexeme COLLATE "C" LIMIT :most
""")

# Without the values, the planner would expect one row of postings and one version, and compare all with all.
_PLAN_WITH_VALUES = text("SELECT set_config('plan_cache_mode', 'force_custom_plan', true)")
# Numbers of chunks that may be found, as ranges, of which those that touch become one. Without a filter they are all
# but those of versions that are being indexed or erased: NULL, if there is none.
_EVERYWHERE = "SELECT int8multirange(int8range(0, NULL)) - ranges AS ranges FROM hidden"
_FILTERED = f"""SELECT coalesce(range_agg(int8range(v.first_chunk, v.first_chunk + v.chunk_count)), '{{}}') AS ranges
  FROM search_versions v WHERE {ALLOWED} AND v.version_id IS DISTINCT FROM CAST(:excluded AS uuid)"""
# How rare a lexeme is counts in all versions of the workspace that answer, whatever the filters are. Scores are rounded
# to single precision, so that equal ones stay equal in whatever order they were added up.
_RANK = """
WITH stats AS MATERIALIZED (
  SELECT sum(chunk_count)::double precision AS chunks, CAST(:k1 AS double precision) * (1 - :b) AS least,
         CAST(:k1 AS double precision) * :b * sum(chunk_count)::double precision
           / nullif(sum(lexeme_count), 0)::double precision AS slope
  FROM search_stats WHERE org_id = :org_id AND workspace_id = :workspace_id
), hidden AS MATERIALIZED (
  SELECT range_agg(int8range(first_chunk, first_chunk + chunk_count)) AS ranges
  FROM hidden_versions WHERE org_id = :org_id AND workspace_id = :workspace_id
), allowed AS MATERIALIZED (
  {allowed}
), found AS MATERIALIZED (
  SELECT p.lexeme, p.occurrences, n.numbers,
         CASE WHEN (SELECT ranges FROM hidden) && n.numbers
              THEN (SELECT count(*) FROM unnest(p.occurrences) o WHERE NOT (SELECT ranges FROM hidden) @> (o >> 24))
              ELSE cardinality(p.occurrences) END AS occupied
  FROM postings p, LATERAL (SELECT int8range(p.first_chunk, p.last_chunk, '[]') AS numbers) n
  WHERE p.org_id = :org_id AND p.workspace_id = :workspace_id AND p.lexeme = ANY (CAST(:lexemes AS text[]))
), weights AS MATERIALIZED (
  SELECT lexeme, ln(1 + (chunks - occupied + 0.5) / (occupied + 0.5)) AS rarity
  FROM (SELECT lexeme, sum(occupied)::double precision AS occupied FROM found GROUP BY lexeme) o, stats
), occurring AS (
  SELECT w.rarity, unnest(f.occurrences) AS o FROM found f JOIN weights w ON w.lexeme = f.lexeme
  WHERE (SELECT ranges FROM allowed) IS NULL OR (SELECT ranges FROM allowed) && f.numbers
), best AS (
  SELECT o >> 24 AS chunk,
         CAST(sum(rarity / (1 + ((SELECT least FROM stats) + (SELECT slope FROM stats) * (o & 65535))
                                / ((o >> 16) & 255))) AS real) AS score
  FROM occurring
  WHERE (SELECT ranges FROM allowed) IS NULL OR (SELECT ranges FROM allowed) @> (o >> 24)
  GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :limit
)
SELECT v.version_id, CAST(chunk - v.first_chunk AS integer) AS number
FROM best, LATERAL (
  SELECT version_id, first_chunk FROM search_versions
  WHERE org_id = :org_id AND workspace_id = :workspace_id AND first_chunk <= chunk
  ORDER BY first_chunk DESC LIMIT 1) v
ORDER BY score DESC, chunk
"""
_RANK_ALL, _RANK_FILTERED = (text(_RANK.format(allowed=allowed)) for allowed in (_EVERYWHERE, _FILTERED))


async def search_text(tx: ReadSession, scope: Scope, question: str, limit: int) -> list[Key]:
    """Return the chunks that match words of a question, best first."""
    return await rank_lexemes(tx, scope, await _lexemes(tx, scope, question), limit)


async def rank_lexemes(
    tx: ReadSession, scope: Scope, lexemes: list[str], limit: int, excluded: UUID | None = None
) -> list[Key]:
    """Return the chunks with the best scores for these lexemes, without those of one version."""
    if not lexemes:
        return []
    await tx.execute(_PLAN_WITH_VALUES)
    values = {"org_id": scope.org_id, "workspace_id": scope.workspace_id, "lexemes": lexemes, "k1": K1, "b": B}
    if scope.filtered or excluded:
        rows = await tx.execute(_RANK_FILTERED, {**scope.values, **values, "limit": limit, "excluded": excluded})
    else:
        rows = await tx.execute(_RANK_ALL, {**values, "limit": limit})
    return [(row.version_id, row.number) for row in rows]


async def _lexemes(tx: ReadSession, scope: Scope, question: str) -> list[str]:
    """Return the lexemes to look up, at most _MOST_LEXEMES."""
    lexed = lex(question)
    where = {"org_id": scope.org_id, "workspace_id": scope.workspace_id}
    stemmed = (await tx.execute(_LEXEMES, {**where, "words": lexed.words})).scalars()
    lexemes = sorted({*stemmed, *lexed.pieces})
    if len(lexemes) <= _MOST_LEXEMES:
        return lexemes
    return await rarest(tx, scope, lexemes, _MOST_LEXEMES)


async def rarest(tx: ReadSession, scope: Scope, lexemes: list[str], most: int) -> list[str]:
    """Return the lexemes that the fewest chunks of the workspace have, without those that none has."""
    where = {"org_id": scope.org_id, "workspace_id": scope.workspace_id}
    found = await tx.execute(_RAREST, {**where, "lexemes": lexemes, "probed": _PROBED, "most": most})
    return list(found.scalars())
