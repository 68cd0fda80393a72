"""Erasures with receipts, and the addresses of callers in a table from which they can be erased."""

from alembic import op

revision = "0029"
down_revision = "0028"
compatible_with = "0023"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"
PERSON = "nullif(current_setting('app.user_id', true), '')::uuid"

# From where the call of an entry came. The entry has digests of both, made with the salt. Deleting a row leaves the
# entry as it was, with digests that nobody can resolve any more.
ORIGINS = """
CREATE TABLE audit_origins (
  chain_id uuid NOT NULL,
  sequence bigint NOT NULL,
  salt bytea NOT NULL,
  address text NOT NULL,
  user_agent text NOT NULL,
  PRIMARY KEY (chain_id, sequence)
);
"""

# user_id: whose data it is about; null: all of the organization. It waits until due_time, and while there is a legal
# hold. found: what there was when it began, and receipt: what went and what stayed, both by store and table.
ERASURES = """
CREATE TABLE erasures (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  user_id uuid REFERENCES users,
  requester_id uuid NOT NULL REFERENCES users,
  create_time timestamptz NOT NULL,
  due_time timestamptz NOT NULL,
  begin_time timestamptz,
  end_time timestamptz,
  cancel_time timestamptz,
  found jsonb,
  receipt jsonb,
  PRIMARY KEY (org_id, id)
);
CREATE UNIQUE INDEX erasures_id_key ON erasures (id);
CREATE UNIQUE INDEX erasures_open ON erasures (org_id, user_id) NULLS NOT DISTINCT
  WHERE end_time IS NULL AND cancel_time IS NULL;
CREATE INDEX erasures_due ON erasures (due_time) WHERE end_time IS NULL AND cancel_time IS NULL;
"""

# As in the first migration: each answers one question past row-level security, and no other. Erasures that a legal hold
# or a suspension delays are not due: many of them must not keep others from being begun.
LOOKUPS = """
CREATE FUNCTION find_erasure(p_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id FROM erasures e WHERE e.id = p_id
$$;
CREATE FUNCTION list_due_erasures(p_before timestamptz, p_limit integer) RETURNS TABLE (org_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id, e.id FROM erasures e JOIN orgs o ON o.id = e.org_id
  WHERE e.due_time < p_before AND e.begin_time IS NULL AND e.end_time IS NULL AND e.cancel_time IS NULL
    AND (o.suspend_time IS NULL OR o.delete_time IS NOT NULL)
    AND NOT EXISTS (SELECT FROM data_policies p WHERE p.org_id = e.org_id AND p.hold_time IS NOT NULL)
  ORDER BY e.due_time LIMIT p_limit
$$;
CREATE FUNCTION list_open_erasures(p_before timestamptz, p_limit integer)
RETURNS TABLE (org_id uuid, id uuid, user_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id, e.id, e.user_id FROM erasures e
  WHERE e.due_time < p_before AND e.begin_time < p_before AND e.end_time IS NULL AND e.cancel_time IS NULL
  ORDER BY e.due_time LIMIT p_limit
$$;
"""
FUNCTIONS = (
    "find_erasure(uuid)",
    "list_due_erasures(timestamptz, integer)",
    "list_open_erasures(timestamptz, integer)",
)
POLICIES = {"audit_origins": f"chain_id = ANY (ARRAY[{TENANT}, {PERSON}])", "erasures": f"org_id = {TENANT}"}


def upgrade() -> None:
    for part in (ORIGINS, ERASURES, LOOKUPS):
        op.execute(part)
    op.execute("GRANT SELECT, INSERT, DELETE ON audit_origins TO aiworkspace_app")
    op.execute("GRANT SELECT, INSERT, UPDATE ON erasures TO aiworkspace_app")
    op.execute("GRANT SELECT ON erasures TO aiworkspace_lookup")
    for table, condition in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING ({condition})")
    op.execute("CREATE POLICY lookup ON erasures FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
