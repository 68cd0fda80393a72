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
_PROBED = 200  # rows of postings of a lexeme whose chunks are counted, to choose among many

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
# How rare a lexeme is counts in all versions of the workspace that answer, whatever the filters are. A chunk is one
# integer, which is grouped twice as fast as its key. Its parts are not the halves of a bigint: PostgreSQL hashes the
# exclusive or of the halves, so that versions with serial numbers in a row would collide, and grouping would take
# minutes. Scores are rounded to single precision, so that equal ones stay equal in whatever order they were added up.
_RANK = text(f"""
WITH stats AS MATERIALIZED (
  SELECT sum(chunk_count)::double precision AS chunks, CAST(:k1 AS double precision) * (1 - :b) AS least,
         CAST(:k1 AS double precision) * :b * sum(chunk_count)::double precision
           / nullif(sum(lexeme_count), 0)::double precision AS slope
  FROM search_stats WHERE org_id = :org_id AND workspace_id = :workspace_id
), versions AS MATERIALIZED (
  SELECT v.version_id, v.serial, {ALLOWED} AND v.version_id IS DISTINCT FROM CAST(:excluded AS uuid) AS allowed
  FROM search_versions v WHERE v.org_id = :org_id AND v.workspace_id = :workspace_id
), stored AS MATERIALIZED (
  SELECT p.lexeme, p.version_id, p.block, p.occurrences FROM postings p
  WHERE p.org_id = :org_id AND p.workspace_id = :workspace_id AND p.lexeme = ANY (CAST(:lexemes AS text[]))
), found AS MATERIALIZED (
  SELECT s.lexeme, CAST(v.serial AS bigint) * 1000000 + s.block * 128 AS first, s.occurrences, v.allowed
  FROM stored s JOIN versions v ON v.version_id = s.version_id
), weights AS MATERIALIZED (
  SELECT lexeme, ln(1 + (chunks - occupied + 0.5) / (occupied + 0.5)) AS rarity
  FROM (SELECT lexeme, sum(cardinality(occurrences))::double precision AS occupied FROM found GROUP BY lexeme) o, stats
), occurring AS (
  SELECT f.first, w.rarity, unnest(f.occurrences) AS o FROM found f JOIN weights w ON w.lexeme = f.lexeme
  WHERE f.allowed
), best AS (
  SELECT first + (o >> 24) AS chunk,
         CAST(sum(rarity / (1 + ((SELECT least FROM stats) + (SELECT slope FROM stats) * (o & 65535))
                                / ((o >> 16) & 255))) AS real) AS score
  FROM occurring GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT :limit
)
SELECT v.version_id, CAST(mod(chunk, 1000000) AS integer) AS number
FROM best JOIN search_versions v ON v.org_id = :org_id AND v.serial = chunk / 1000000
ORDER BY score DESC, chunk
""")


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
    values = {**scope.values, "lexemes": lexemes, "k1": K1, "b": B, "limit": limit, "excluded": excluded}
    return [(row.version_id, row.number) for row in await tx.execute(_RANK, values)]


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
