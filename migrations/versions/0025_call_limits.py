"""Organizations set limits of calls for service accounts and keys, up to what the operator gives them."""

from alembic import op

revision = "0025"
down_revision = "0024"
compatible_with = "0023"

# An object by class of calls, such as {"generate": {"calls_per_minute": 600}}. Those of a line of keys are at its first
# key, so that every successor has them.
COLUMNS = """
ALTER TABLE orgs ADD COLUMN call_ceilings jsonb NOT NULL DEFAULT '{}';
ALTER TABLE memberships ADD COLUMN call_limits jsonb NOT NULL DEFAULT '{}';
ALTER TABLE api_keys ADD COLUMN call_limits jsonb NOT NULL DEFAULT '{}';
"""

# What find_api_key returns, and limits. Servers of the release before go on calling that one.
LOOKUP = """
CREATE FUNCTION find_key(p_secret_hash bytea)
RETURNS TABLE (id uuid, org_id uuid, user_id uuid, permissions text[], workspace_ids uuid[], last_use_time timestamptz,
               memberships jsonb, line_id uuid, call_ceilings jsonb, account_limits jsonb, key_limits jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, k.org_id, k.user_id, k.permissions,
         CASE WHEN k.workspaces_limited THEN ARRAY(
           SELECT w.workspace_id FROM api_key_workspaces w WHERE w.org_id = k.org_id AND w.api_key_id = k.id) END,
         k.last_use_time, active_memberships(k.user_id), coalesce(k.root_id, k.id), o.call_ceilings, m.call_limits,
         CASE WHEN k.root_id IS NULL THEN k.call_limits
              ELSE (SELECT r.call_limits FROM api_keys r WHERE r.org_id = k.org_id AND r.id = k.root_id) END
  FROM api_keys k
  JOIN memberships m ON m.org_id = k.org_id AND m.user_id = k.user_id AND m.suspend_time IS NULL
  JOIN orgs o ON o.id = k.org_id AND o.delete_time IS NULL
  WHERE k.secret_hash = p_secret_hash AND k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > now())
$$;
"""


def upgrade() -> None:
    op.execute(COLUMNS)
    op.execute(LOOKUP)
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    op.execute("REVOKE ALL ON FUNCTION find_key(bytea) FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION find_key(bytea) TO aiworkspace_app")
    op.execute("ALTER FUNCTION find_key(bytea) OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
