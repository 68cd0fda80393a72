"""Writes postings: which chunks of a workspace have a lexeme.

Each chunk of a version has a number in its workspace. Those of a version follow each other, and are given again only
when all its postings are erased. A row has up to 128 occurrences of a lexeme, whichever versions they are of, so that a
lexeme costs few rows, and few pages are read for it. Only a lexeme's last row grows, and only by greater numbers.
"""

from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import WriteSession
from .models import IndexedVersion

BLOCK = 128  # chunks whose postings are written in one transaction
_ROW = 128  # occurrences
_SPAN = 1 << 17  # all chunks of a row have numbers below its first one and this together, so that erasure finds them

# Rows are shared by the versions of a workspace: one transaction at a time changes them.
_ALONE = text("SELECT pg_advisory_xact_lock(hashtextextended('postings ' || CAST(:workspace_id AS text), 0))")
_FIND = text("""
SELECT first_chunk, posted_count FROM hidden_versions WHERE org_id = :org_id AND version_id = :version_id
""")
_NUMBER_CHUNKS = text("""
INSERT INTO hidden_versions (org_id, version_id, workspace_id, first_chunk, chunk_count, posted_count)
SELECT :org_id, :version_id, :workspace_id,
       greatest(0,
                (SELECT first_chunk + chunk_count FROM hidden_versions
                 WHERE org_id = :org_id AND workspace_id = :workspace_id ORDER BY first_chunk DESC LIMIT 1),
                (SELECT first_chunk + chunk_count FROM search_versions
                 WHERE org_id = :org_id AND workspace_id = :workspace_id ORDER BY first_chunk DESC LIMIT 1)),
       (SELECT max(number) + 1 FROM chunks WHERE org_id = :org_id AND version_id = :version_id), 0
WHERE NOT EXISTS (SELECT FROM search_versions WHERE org_id = :org_id AND version_id = :version_id)
RETURNING first_chunk, posted_count
""")
_WRITE = text("""
INSERT INTO postings (org_id, workspace_id, lexeme, first_chunk, last_chunk, occurrences)
SELECT :org_id, :workspace_id, n.lexeme, coalesce(l.first_chunk, n.first_chunk), n.last_chunk, n.occurrences
FROM (
  SELECT l.lexeme, CAST(:first_chunk AS bigint) + min(c.number) AS first_chunk,
         CAST(:first_chunk AS bigint) + max(c.number) AS last_chunk,
         array_agg(((CAST(:first_chunk AS bigint) + c.number) << 24) | (least(cardinality(l.positions), 255) << 16)
                   | least(c.lexeme_count, 65535) ORDER BY c.number) AS occurrences
  FROM chunks c, unnest(c.lexemes) l
  WHERE c.org_id = :org_id AND c.version_id = :version_id AND c.number >= :first AND c.number < :first + :size
  GROUP BY l.lexeme
) n LEFT JOIN LATERAL (
  SELECT p.first_chunk, p.last_chunk, cardinality(p.occurrences) AS count FROM postings p
  WHERE p.org_id = :org_id AND p.workspace_id = :workspace_id AND p.lexeme = n.lexeme
  ORDER BY p.first_chunk DESC LIMIT 1
) l ON l.last_chunk < n.first_chunk AND n.last_chunk < l.first_chunk + :span
     AND l.count + cardinality(n.occurrences) <= :row
ON CONFLICT (org_id, workspace_id, lexeme, first_chunk) DO UPDATE SET
  occurrences = postings.occurrences || excluded.occurrences, last_chunk = excluded.last_chunk
""")
_WRITTEN = text("""
UPDATE hidden_versions SET posted_count = least(chunk_count, :first + :size)
WHERE org_id = :org_id AND version_id = :version_id
""")

# An array, so that the index is asked for each lexeme: a join might compare every lexeme with every row.
_ERASE = text("""
WITH gone AS (
  DELETE FROM chunks WHERE org_id = :org_id AND version_id = :version_id AND number IN (
    SELECT number FROM chunks WHERE org_id = :org_id AND version_id = :version_id ORDER BY number LIMIT :limit)
  RETURNING number, lexemes
), numbers AS MATERIALIZED (
  SELECT h.first_chunk + min(g.number) AS low, h.first_chunk + max(g.number) AS high
  FROM gone g, hidden_versions h WHERE h.org_id = :org_id AND h.version_id = :version_id GROUP BY h.first_chunk
), affected AS MATERIALIZED (
  SELECT p.ctid AS row,
         ARRAY(SELECT o FROM unnest(p.occurrences) o WHERE o >> 24 NOT BETWEEN n.low AND n.high) AS kept
  FROM numbers n, postings p
  WHERE p.org_id = :org_id AND p.workspace_id = :workspace_id
    AND p.lexeme = ANY (ARRAY(SELECT DISTINCT l.lexeme FROM gone, unnest(gone.lexemes) l))
    AND p.first_chunk > n.low - :span AND p.first_chunk <= n.high AND p.last_chunk >= n.low
), emptied AS (
  DELETE FROM postings WHERE ctid = ANY (ARRAY(SELECT a.row FROM affected a WHERE a.kept = '{}'))
), shortened AS (
  UPDATE postings p SET occurrences = a.kept FROM affected a
  WHERE p.ctid = a.row AND a.kept <> '{}' AND cardinality(a.kept) < cardinality(p.occurrences)
)
SELECT count(*) FROM gone
""")
_FORGET = text("DELETE FROM hidden_versions WHERE org_id = :org_id AND version_id = :version_id")


def blocks(chunk_count: int) -> range:
    """Return the numbers of the blocks of a version, for `write_postings`."""
    return range(-(-chunk_count // BLOCK))


async def write_postings(tx: WriteSession, version: IndexedVersion, block: int) -> None:
    """Write the postings of one block of stored chunks, after those before it; do nothing if they are written.

    A block of 2 MB of distinct words takes a few seconds.
    """
    where = {"org_id": version.org_id, "version_id": version.version_id}
    in_workspace = {**where, "workspace_id": version.workspace_id}
    await tx.execute(_ALONE, {"workspace_id": version.workspace_id})
    found = (await tx.execute(_FIND, where)).first() or (await tx.execute(_NUMBER_CHUNKS, in_workspace)).first()
    written = {"first": block * BLOCK, "size": BLOCK}
    if found is None or found.posted_count > written["first"]:
        return  # all postings of a version that answers are written
    values = {**in_workspace, **written, "first_chunk": found.first_chunk, "row": _ROW, "span": _SPAN}
    await tx.execute(_WRITE, values)
    await tx.execute(_WRITTEN, {**where, **written})


async def erase_postings(tx: WriteSession, org_id: UUID, workspace_id: UUID, version_id: UUID, limit: int) -> int:
    """Delete the first chunks of a version that does not answer, with their postings. Return how many there were."""
    where = {"org_id": org_id, "version_id": version_id}
    has_postings = (await tx.execute(_FIND, where)).first() is not None
    if has_postings:
        await tx.execute(_ALONE, {"workspace_id": workspace_id})
    values = {**where, "workspace_id": workspace_id, "limit": limit, "span": _SPAN}
    count: int = (await tx.execute(_ERASE, values)).scalar_one()
    if has_postings and count < limit:
        await tx.execute(_FORGET, where)
    return count
