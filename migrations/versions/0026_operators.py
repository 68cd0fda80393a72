"""Operators of the server, suspended organizations, and what a server says about itself."""

from alembic import op

revision = "0026"
down_revision = "0025"
compatible_with = "0023"

# Only the owner of the tables appoints operators: the server's role may read and delete them.
OPERATORS = """
CREATE TABLE operators (
  user_id uuid PRIMARY KEY REFERENCES users,
  create_time timestamptz NOT NULL
);
GRANT SELECT, DELETE ON operators TO aiworkspace_app;
GRANT SELECT ON operators TO aiworkspace_lookup;
"""

ORGS = """
ALTER TABLE orgs ADD COLUMN suspend_time timestamptz, ADD COLUMN state_reason text NOT NULL DEFAULT '';
"""

SERVERS = """
ALTER TABLE servers
  ADD COLUMN version text NOT NULL DEFAULT '',
  ADD COLUMN address text NOT NULL DEFAULT '',
  ADD COLUMN run_count bigint NOT NULL DEFAULT 0,
  ADD COLUMN draining boolean NOT NULL DEFAULT false;
"""

# As in the first migration: each answers one question past row-level security, and no other.
#
# list_all_orgs: to operators only, whatever the server's role asks.
# active_memberships: with the reason of the organization's suspension, null in one that is active.
LOOKUPS = """
CREATE FUNCTION list_all_orgs(p_operator_id uuid, p_suspended boolean, p_after uuid, p_limit integer)
RETURNS TABLE (id uuid, name text, suspend_time timestamptz, state_reason text, member_count bigint,
               create_time timestamptz)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT o.id, o.name, o.suspend_time, o.state_reason,
         (SELECT count(*) FROM memberships m WHERE m.org_id = o.id), o.create_time
  FROM orgs o
  WHERE o.delete_time IS NULL AND (p_after IS NULL OR o.id > p_after)
    AND (p_suspended IS NULL OR (o.suspend_time IS NOT NULL) = p_suspended)
    AND EXISTS (SELECT FROM operators p WHERE p.user_id = p_operator_id)
  ORDER BY o.id
  LIMIT p_limit
$$;
CREATE OR REPLACE FUNCTION active_memberships(p_user_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object(
           'org_id', m.org_id, 'role', m.role, 'custom_role_id', m.custom_role_id, 'permissions', r.permissions,
           'suspended', CASE WHEN o.suspend_time IS NOT NULL THEN o.state_reason END)), '[]')
  FROM memberships m
  JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  LEFT JOIN custom_roles r ON r.org_id = m.org_id AND r.id = m.custom_role_id
  WHERE m.user_id = p_user_id AND m.suspend_time IS NULL
$$;
CREATE OR REPLACE FUNCTION list_due_orgs(p_before timestamptz, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT v.org_id FROM document_versions v
  WHERE v.state = 'processing' AND v.due_time <= p_before
    AND NOT EXISTS (SELECT FROM orgs o WHERE o.id = v.org_id AND o.suspend_time IS NOT NULL)
  LIMIT p_limit
$$;
CREATE OR REPLACE FUNCTION list_orgs_to_embed(p_generation integer, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id
  FROM (
    SELECT s.org_id FROM search_generations s
    WHERE s.active IS DISTINCT FROM p_generation OR s.next IS NOT NULL OR s.has_old
    UNION
    SELECT c.org_id FROM search_stats c
    WHERE c.chunk_count > 0 AND NOT EXISTS (SELECT FROM search_generations s WHERE s.org_id = c.org_id)) e
  WHERE NOT EXISTS (SELECT FROM orgs o WHERE o.id = e.org_id AND o.suspend_time IS NOT NULL)
  LIMIT p_limit
$$;
"""

# may_run and may_read_documents differ in one permission. In a suspended organization nobody has the right: so answers
# in progress are cancelled as after the loss of a role, and none begins.
RIGHT = """
CREATE OR REPLACE FUNCTION {name}(p_org_id uuid, p_workspace_id uuid, p_user_id uuid, p_key_id uuid,
                                  p_administering text[], {roles} text[], {inside} text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM memberships m
    JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL AND o.suspend_time IS NULL
    JOIN workspaces w ON w.org_id = m.org_id AND w.id = p_workspace_id AND w.delete_time IS NULL
    LEFT JOIN custom_roles r ON r.org_id = m.org_id AND r.id = m.custom_role_id
    WHERE m.org_id = p_org_id AND m.user_id = p_user_id AND m.suspend_time IS NULL
      AND (m.role = ANY (p_administering) OR 'workspace.administer' = ANY (r.permissions)
        OR (w.visibility = 'org' AND (m.role = ANY ({roles}) OR '{permission}' = ANY (r.permissions)))
        OR EXISTS (
          SELECT FROM workspace_members wm
          WHERE wm.org_id = m.org_id AND wm.workspace_id = w.id AND wm.role = ANY ({inside})
            AND (wm.user_id = m.user_id OR wm.team_id IN (
              SELECT tm.team_id FROM team_members tm WHERE tm.org_id = m.org_id AND tm.user_id = m.user_id))))
      AND (p_key_id IS NULL OR EXISTS (
        SELECT FROM api_keys k
        WHERE k.org_id = m.org_id AND k.id = p_key_id AND k.user_id = m.user_id AND k.revoke_time IS NULL
          AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp()) AND '{permission}' = ANY (k.permissions)
          AND (NOT k.workspaces_limited OR EXISTS (
            SELECT FROM api_key_workspaces kw
            WHERE kw.org_id = k.org_id AND kw.api_key_id = k.id AND kw.workspace_id = w.id)))))
$$;
"""
RIGHTS = (
    {"name": "may_run", "roles": "p_sending", "inside": "p_sending_inside", "permission": "chat.send"},
    {
        "name": "may_read_documents",
        "roles": "p_reading",
        "inside": "p_reading_inside",
        "permission": "document.read",
    },
)
NEW = "list_all_orgs(uuid, boolean, uuid, integer)"


def upgrade() -> None:
    for part in (OPERATORS, ORGS, SERVERS, LOOKUPS, *(RIGHT.format(**each) for each in RIGHTS)):
        op.execute(part)
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    op.execute(f"REVOKE ALL ON FUNCTION {NEW} FROM PUBLIC")
    op.execute(f"GRANT EXECUTE ON FUNCTION {NEW} TO aiworkspace_app")
    op.execute(f"ALTER FUNCTION {NEW} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
