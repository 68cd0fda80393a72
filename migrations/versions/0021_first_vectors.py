"""Organizations whose documents were read without an embedding model get vectors when there is one."""

from alembic import op

revision = "0021"
down_revision = "0020"

# Owner and grants stay as they are. Whoever has chunks and no row in search_generations has never had a model.
LOOKUP = """
CREATE OR REPLACE FUNCTION list_orgs_to_embed(p_generation integer, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.org_id FROM search_generations s
  WHERE s.active IS DISTINCT FROM p_generation OR s.next IS NOT NULL
  UNION
  SELECT c.org_id FROM search_stats c
  WHERE c.chunk_count > 0 AND NOT EXISTS (SELECT FROM search_generations s WHERE s.org_id = c.org_id)
  LIMIT p_limit
$$;
"""


def upgrade() -> None:
    op.execute(LOOKUP)
