"""Retention and legal holds of organizations and their workspaces."""

from alembic import op

revision = "0027"
down_revision = "0026"
compatible_with = "0023"

TENANT = "NULLIF(current_setting('app.org_id', true), '')::uuid"

# scope_id is the organization or one of its workspaces. 0 days: without end in an organization, as in the organization
# in a workspace. Runs up to attempts_until have no attempts any more.
POLICIES = """
CREATE TABLE data_policies (
  org_id uuid NOT NULL REFERENCES orgs,
  scope_id uuid NOT NULL,
  conversation_days bigint NOT NULL DEFAULT 0,
  document_days bigint NOT NULL DEFAULT 0,
  attempt_days bigint NOT NULL DEFAULT 0,
  attempts_until uuid,
  hold_time timestamptz,
  hold_reason text NOT NULL DEFAULT '',
  PRIMARY KEY (org_id, scope_id)
);
GRANT SELECT, INSERT, UPDATE, DELETE ON data_policies TO aiworkspace_app;
GRANT SELECT ON data_policies TO aiworkspace_lookup;
"""

# As in the first migration: each answers one question past row-level security, and no other.
LOOKUPS = """
CREATE FUNCTION list_retention_orgs() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT p.org_id FROM data_policies p
  JOIN orgs o ON o.id = p.org_id AND o.delete_time IS NULL AND o.suspend_time IS NULL
  WHERE p.conversation_days > 0 OR p.document_days > 0 OR p.attempt_days > 0
$$;
CREATE FUNCTION is_any_held(p_org_ids uuid[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (SELECT FROM data_policies p WHERE p.org_id = ANY (p_org_ids) AND p.hold_time IS NOT NULL)
$$;
"""
FUNCTIONS = ("list_retention_orgs()", "is_any_held(uuid[])")


def upgrade() -> None:
    for part in (POLICIES, LOOKUPS):
        op.execute(part)
    op.execute("ALTER TABLE data_policies ENABLE ROW LEVEL SECURITY")
    op.execute("ALTER TABLE data_policies FORCE ROW LEVEL SECURITY")
    op.execute(f"CREATE POLICY tenant ON data_policies TO aiworkspace_app USING (org_id = {TENANT})")
    op.execute("CREATE POLICY lookup ON data_policies FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
