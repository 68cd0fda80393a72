"""The right to a run in the database, also with the API key that started it."""

from alembic import op

revision = "0006"
down_revision = "0005"

# key_id is that of an API key, and no foreign key: claims outlive keys.
RUNS = """
ALTER TABLE run_claims ADD COLUMN key_id uuid;
"""

# As in the first migration: each answers one question past row-level security, and no other.
#
# may_run: whether an account may have a run in a workspace, with this API key when there is one. The server passes the
# names of the built-in roles that administer all workspaces, that may send where a workspace is open to its
# organization, and that may send in a workspace of which one is a member.
# list_stopped_runs: what a server has to stop, because somebody asked for it or the right to the run has ended.
LOOKUPS = """
CREATE FUNCTION may_run(p_org_id uuid, p_workspace_id uuid, p_user_id uuid, p_key_id uuid, p_administering text[],
                        p_sending text[], p_sending_inside text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM memberships m
    JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
    JOIN workspaces w ON w.org_id = m.org_id AND w.id = p_workspace_id AND w.delete_time IS NULL
    LEFT JOIN custom_roles r ON r.org_id = m.org_id AND r.id = m.custom_role_id
    WHERE m.org_id = p_org_id AND m.user_id = p_user_id AND m.suspend_time IS NULL
      AND (m.role = ANY (p_administering) OR 'workspace.administer' = ANY (r.permissions)
        OR (w.visibility = 'org' AND (m.role = ANY (p_sending) OR 'chat.send' = ANY (r.permissions)))
        OR EXISTS (
          SELECT FROM workspace_members wm
          WHERE wm.org_id = m.org_id AND wm.workspace_id = w.id AND wm.role = ANY (p_sending_inside)
            AND (wm.user_id = m.user_id OR wm.team_id IN (
              SELECT tm.team_id FROM team_members tm WHERE tm.org_id = m.org_id AND tm.user_id = m.user_id))))
      AND (p_key_id IS NULL OR EXISTS (
        SELECT FROM api_keys k
        WHERE k.org_id = m.org_id AND k.id = p_key_id AND k.user_id = m.user_id AND k.revoke_time IS NULL
          AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp()) AND 'chat.send' = ANY (k.permissions)
          AND (NOT k.workspaces_limited OR EXISTS (
            SELECT FROM api_key_workspaces kw
            WHERE kw.org_id = k.org_id AND kw.api_key_id = k.id AND kw.workspace_id = w.id)))))
$$;
DROP FUNCTION list_stopped_runs(uuid);
CREATE FUNCTION list_stopped_runs(p_server_id uuid, p_administering text[], p_sending text[], p_sending_inside text[])
RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT c.run_id FROM run_claims c
  WHERE c.state = 'open' AND c.server_id = p_server_id
    AND (c.stop IS NOT NULL OR NOT may_run(c.org_id, c.workspace_id, c.user_id, c.key_id, p_administering, p_sending,
                                           p_sending_inside))
$$;
"""
FUNCTIONS = (
    "may_run(uuid, uuid, uuid, uuid, text[], text[], text[])",
    "list_stopped_runs(uuid, text[], text[], text[])",
)


def upgrade() -> None:
    for part in (RUNS, LOOKUPS):
        op.execute(part)
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
