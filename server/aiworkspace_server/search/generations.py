"""Generations of vectors: a model and its dimension. An organization searches in one while the next is built."""

from collections.abc import Collection, Sequence
from typing import NamedTuple
from uuid import UUID

from sqlalchemy import text

from ..kit.postgres import ReadSession, WriteSession

_FIND = text("SELECT id FROM embedding_generations WHERE model = :model AND dimension = :dimension")
_MAKE = text("""
INSERT INTO embedding_generations (model, dimension) VALUES (:model, :dimension)
ON CONFLICT (model, dimension) DO NOTHING
""")
_STATE = text("""
SELECT g.id, g.model, g.dimension FROM search_generations s JOIN embedding_generations g ON g.id = s.active
WHERE s.org_id = :org_id
""")
_NEXT = text("SELECT next FROM search_generations WHERE org_id = :org_id")
# If the generation is active, nothing has to be built. If it is being built, the build continues. Instead of another
# one, vectors of that one are left.
_BUILD_NEXT = text("""
INSERT INTO search_generations (org_id, next) VALUES (:org_id, :generation)
ON CONFLICT (org_id) DO UPDATE SET next = nullif(excluded.next, search_generations.active),
  has_old = search_generations.has_old OR coalesce(search_generations.next <> excluded.next, false)
""")
_HOLD = text("SELECT next FROM search_generations WHERE org_id = :org_id FOR UPDATE")
_MISSING = text("""
SELECT v.workspace_id, v.version_id, v.chunk_count FROM search_versions v
WHERE v.org_id = :org_id AND NOT EXISTS (
  SELECT FROM embedded_versions e
  WHERE e.org_id = :org_id AND e.generation = :generation AND e.version_id = v.version_id)
  AND v.version_id <> ALL (CAST(:without AS uuid[]))
LIMIT :limit
""")
_ACTIVATE = text("""
UPDATE search_generations SET active = next, next = NULL, has_old = has_old OR active IS NOT NULL WHERE org_id = :org_id
""")
_ALL_EMBEDDED = text("UPDATE search_versions SET embedded = true WHERE org_id = :org_id AND NOT embedded")
_ERASE_OLD = text("""
WITH gone AS (
  DELETE FROM chunk_vectors WHERE ctid = ANY (ARRAY(
    SELECT v.ctid FROM chunk_vectors v WHERE v.org_id = :org_id AND v.generation IN (
      SELECT g.id FROM embedding_generations g
      WHERE NOT EXISTS (SELECT FROM search_generations s WHERE s.org_id = :org_id AND g.id IN (s.active, s.next)))
    LIMIT :limit))
  RETURNING number
)
SELECT count(*) FROM gone
""")
_ERASE_OLD_MEANS = text("""
DELETE FROM embedded_versions e WHERE e.org_id = :org_id AND NOT EXISTS (
  SELECT FROM search_generations s WHERE s.org_id = :org_id AND e.generation IN (s.active, s.next))
""")
# Not if another generation has become an old one meanwhile.
_NO_OLD = text("""
UPDATE search_generations s SET has_old = false WHERE s.org_id = :org_id AND s.has_old AND NOT EXISTS (
  SELECT FROM embedding_generations g
  WHERE g.id IS DISTINCT FROM s.active AND g.id IS DISTINCT FROM s.next
    AND EXISTS (SELECT FROM chunk_vectors v WHERE v.org_id = :org_id AND v.generation = g.id))
""")
_LIST_TO_EMBED = text("SELECT org_id FROM list_orgs_to_embed(:generation, :limit) AS orgs(org_id)")
_LIST_LARGE = text("SELECT org_id FROM list_large_orgs(:least, :limit) AS orgs(org_id)")
_FORGET = text("DELETE FROM search_generations WHERE org_id = :org_id")


class Generation(NamedTuple):
    id: int
    model: str
    dimension: int


class Unembedded(NamedTuple):
    """A version that answers and has not all its vectors in a generation."""

    workspace_id: UUID
    version_id: UUID
    chunk_count: int


async def find_generation(tx: WriteSession, model: str, dimension: int) -> int:
    """Return the id of the generation of a model with a dimension, which is made if there is none."""
    values = {"model": model, "dimension": dimension}
    found: int | None = (await tx.execute(_FIND, values)).scalar_one_or_none()
    if found is None:
        await tx.execute(_MAKE, values)
        found = (await tx.execute(_FIND, values)).scalar_one()
    return found


async def active_generation(tx: ReadSession, org_id: UUID) -> Generation | None:
    """Return the generation that an organization searches in."""
    row = (await tx.execute(_STATE, {"org_id": org_id})).first()
    return Generation(*row) if row else None


async def next_generation(tx: ReadSession, org_id: UUID) -> int | None:
    """Return the generation that is being built."""
    found: int | None = (await tx.execute(_NEXT, {"org_id": org_id})).scalar_one_or_none()
    return found


async def build_next(tx: WriteSession, org_id: UUID, generation: int) -> None:
    """Make a generation the one that is being built, unless it is active."""
    await tx.execute(_BUILD_NEXT, {"org_id": org_id, "generation": generation})


async def list_unembedded(
    tx: ReadSession, org_id: UUID, generation: int, limit: int, without: Collection[UUID] = ()
) -> Sequence[Unembedded]:
    """Return versions that answer and lack vectors in a generation, for the job that embeds them."""
    values = {"org_id": org_id, "generation": generation, "limit": limit, "without": list(without)}
    return [Unembedded(*row) for row in await tx.execute(_MISSING, values)]


async def activate(tx: WriteSession, org_id: UUID) -> bool:
    """Search in the next generation from now on. Return False, and change nothing, if a version is missing in it."""
    building = (await tx.execute(_HOLD, {"org_id": org_id})).scalar_one_or_none()
    if building is None or await list_unembedded(tx, org_id, building, 1):
        return False
    await tx.execute(_ACTIVATE, {"org_id": org_id})
    await tx.execute(_ALL_EMBEDDED, {"org_id": org_id})
    return True


async def erase_old(tx: WriteSession, org_id: UUID, limit: int) -> int:
    """Delete vectors of generations that are neither active nor being built. Return their number, 0 at the end."""
    await tx.execute(_ERASE_OLD_MEANS, {"org_id": org_id})
    count: int = (await tx.execute(_ERASE_OLD, {"org_id": org_id, "limit": limit})).scalar_one()
    if count == 0:
        await tx.execute(_NO_OLD, {"org_id": org_id})
    return count


async def list_orgs_to_embed(tx: ReadSession, generation: int, limit: int) -> Sequence[UUID]:
    """Return organizations of all tenants whose chunks lack vectors of a generation, or that have old ones."""
    return (await tx.execute(_LIST_TO_EMBED, {"generation": generation, "limit": limit})).scalars().all()


async def list_large_orgs(tx: ReadSession, least: int, limit: int) -> Sequence[UUID]:
    """Return organizations of all tenants with more than so many chunks."""
    return (await tx.execute(_LIST_LARGE, {"least": least, "limit": limit})).scalars().all()


async def forget_org(tx: WriteSession, org_id: UUID) -> None:
    """Delete what is stored of an organization's generations, when all its versions are erased."""
    await tx.execute(_FORGET, {"org_id": org_id})
