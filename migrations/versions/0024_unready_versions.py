"""Versions of documents that are not ready are counted for operators."""

from alembic import op

revision = "0024"
down_revision = "0023"
compatible_with = "0023"

# What an interrupted migration left has the name and is not valid.
DROP = "DROP INDEX CONCURRENTLY IF EXISTS document_versions_unready"
INDEX = """
CREATE INDEX CONCURRENTLY IF NOT EXISTS document_versions_unready ON document_versions (step, state)
WHERE state IN ('processing', 'failed')
"""

LOOKUP = """
CREATE FUNCTION count_unready_versions() RETURNS TABLE (step text, state text, count bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT v.step, v.state, count(*) FROM document_versions v WHERE v.state IN ('processing', 'failed') GROUP BY 1, 2
$$;
"""
FUNCTION = "count_unready_versions()"


def upgrade() -> None:
    with op.get_context().autocommit_block():
        op.execute(DROP)
        op.execute(INDEX)
    op.execute(LOOKUP)
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    op.execute(f"REVOKE ALL ON FUNCTION {FUNCTION} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO aiworkspace_app")
    op.execute(f"ALTER FUNCTION {FUNCTION} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
