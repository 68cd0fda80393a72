"""Questions whose reservation nobody ended, since the server that asked them died, are found."""

from alembic import op

revision = "0022"
down_revision = "0021"

# What an interrupted migration left has the name and is not valid.
DROP = "DROP INDEX CONCURRENTLY IF EXISTS ledger_entries_questions"
# A question is a run of its own, in no conversation: both ids are its own. Entries are written meanwhile.
INDEX = """
CREATE INDEX CONCURRENTLY ledger_entries_questions ON ledger_entries (create_time)
WHERE kind = 'reserve' AND run_id = conversation_id
"""

# As in the first migration: it answers a question that comes before a tenant is known, and no other.
LOOKUP = """
CREATE FUNCTION list_open_questions(p_after timestamptz, p_before timestamptz, p_limit integer)
RETURNS TABLE (org_id uuid, run_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id, e.run_id FROM ledger_entries e
  WHERE e.kind = 'reserve' AND e.run_id = e.conversation_id AND e.create_time >= p_after AND e.create_time < p_before
    AND NOT EXISTS (
      SELECT FROM ledger_entries d
      WHERE d.org_id = e.org_id AND d.run_id = e.run_id AND d.attempt = e.attempt AND d.kind IN ('settle', 'release'))
  ORDER BY e.create_time LIMIT p_limit
$$;
"""
FUNCTION = "list_open_questions(timestamptz, timestamptz, integer)"


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
