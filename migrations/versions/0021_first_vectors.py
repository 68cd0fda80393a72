"""Organizations whose documents were read without an embedding model get vectors when there is one.

Which organizations have vectors that are of no use any more is known, too, until the last of them is erased.
"""

from alembic import op

revision = "0021"
down_revision = "0020"

# All are looked at once: until now, vectors stayed where their erasure was interrupted.
COLUMN = """
ALTER TABLE search_generations ADD COLUMN has_old boolean NOT NULL DEFAULT true;
ALTER TABLE search_generations ALTER has_old SET DEFAULT false;
"""

# Owner and grants stay as they are. Whoever has chunks and no row in search_generations has never had a model.
LOOKUP = """
CREATE OR REPLACE FUNCTION list_orgs_to_embed(p_generation integer, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.org_id FROM search_generations s
  WHERE s.active IS DISTINCT FROM p_generation OR s.next IS NOT NULL OR s.has_old
  UNION
  SELECT c.org_id FROM search_stats c
  WHERE c.chunk_count > 0 AND NOT EXISTS (SELECT FROM search_generations s WHERE s.org_id = c.org_id)
  LIMIT p_limit
$$;
"""


def upgrade() -> None:
    op.execute(COLUMN)
    op.execute(LOOKUP)
