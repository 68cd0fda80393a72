"""Exports of organizations."""

from alembic import op

revision = "0030"
down_revision = "0029"
compatible_with = "0023"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"

# file_id: of the attempt that writes, and of the bytes once there are all. left_file_ids: of attempts that were lost.
EXPORTS = """
CREATE TABLE exports (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  user_id uuid NOT NULL,
  state text NOT NULL,
  attempt_count bigint NOT NULL DEFAULT 0,
  file_id uuid,
  left_file_ids uuid[] NOT NULL DEFAULT '{}',
  row_count bigint NOT NULL DEFAULT 0,
  file_count bigint NOT NULL DEFAULT 0,
  size_bytes bigint NOT NULL DEFAULT 0,
  sha256 bytea,
  failure_reason text,
  create_time timestamptz NOT NULL,
  start_time timestamptz,
  end_time timestamptz,
  expire_time timestamptz,
  delete_time timestamptz,
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX exports_in_progress ON exports (org_id)
  WHERE state IN ('pending', 'running') AND delete_time IS NULL;
GRANT SELECT, INSERT, UPDATE, DELETE ON exports TO aiworkspace_app;
GRANT SELECT ON exports TO aiworkspace_lookup;
"""

# As in the first migration: it answers one question past row-level security, and no other.
LIST_ENDED = """
CREATE FUNCTION list_ended_exports(p_before timestamptz, p_now timestamptz, p_limit integer)
RETURNS TABLE (org_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id, e.id FROM exports e
  WHERE e.expire_time <= p_now OR e.delete_time < p_before
    OR (e.left_file_ids <> '{}' AND coalesce(e.end_time, e.start_time) < p_before)
  LIMIT p_limit
$$;
"""
FUNCTION = "list_ended_exports(timestamptz, timestamptz, integer)"


def upgrade() -> None:
    op.execute(EXPORTS)
    op.execute(LIST_ENDED)
    op.execute("ALTER TABLE exports ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE exports FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON exports TO aiworkspace_app USING (org_id = {TENANT})")
    op.execute("CREATE POLICY lookup ON exports FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    op.execute(f"REVOKE ALL ON FUNCTION {FUNCTION} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {FUNCTION} TO aiworkspace_app")
    op.execute(f"ALTER FUNCTION {FUNCTION} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
