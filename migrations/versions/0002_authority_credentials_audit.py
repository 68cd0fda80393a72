"""Custom roles, teams, workspace members, service accounts with API keys, mailed tokens, and the audit log."""

from alembic import op

revision = "0002"
down_revision = "0001"

PEOPLE = """
ALTER TABLE users
  ADD COLUMN kind text NOT NULL DEFAULT 'person' CHECK (kind IN ('person', 'service')),
  ADD COLUMN verify_time timestamptz,
  ALTER COLUMN email DROP NOT NULL,
  ALTER COLUMN password_hash DROP NOT NULL,
  ADD CHECK ((kind = 'person') = (email IS NOT NULL)),
  ADD CHECK ((kind = 'person') = (password_hash IS NOT NULL));
CREATE TABLE email_tokens (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  purpose text NOT NULL CHECK (purpose IN ('verify', 'reset')),
  email text NOT NULL,
  token_hash bytea NOT NULL UNIQUE,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  use_time timestamptz
);
CREATE INDEX email_tokens_user ON email_tokens (user_id, purpose);
"""

AUTHORITY = """
CREATE TABLE custom_roles (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  name text NOT NULL,
  permissions text[] NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id)
);
ALTER TABLE memberships
  DROP CONSTRAINT memberships_role_check,
  ADD CHECK (role IN ('viewer', 'member', 'admin', 'owner', 'billing', 'custom')),
  ADD COLUMN custom_role_id uuid,
  ADD COLUMN suspend_time timestamptz,
  ADD CHECK ((role = 'custom') = (custom_role_id IS NOT NULL)),
  ADD FOREIGN KEY (org_id, custom_role_id) REFERENCES custom_roles (org_id, id);
ALTER TABLE invitations
  DROP CONSTRAINT invitations_role_check,
  ADD CHECK (role IN ('viewer', 'member', 'admin', 'owner', 'billing', 'custom')),
  ADD COLUMN custom_role_id uuid,
  ADD CHECK (role = 'custom' OR custom_role_id IS NULL),
  -- A role that only closed invitations offered may be deleted; they forget which one it was.
  ADD FOREIGN KEY (org_id, custom_role_id) REFERENCES custom_roles (org_id, id) ON DELETE SET NULL (custom_role_id);
CREATE INDEX memberships_custom_role ON memberships (org_id, custom_role_id) WHERE custom_role_id IS NOT NULL;
CREATE TABLE teams (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id)
);
CREATE TABLE team_members (
  org_id uuid NOT NULL REFERENCES orgs,
  team_id uuid NOT NULL,
  user_id uuid NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, team_id, user_id),
  FOREIGN KEY (org_id, team_id) REFERENCES teams (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX team_members_user ON team_members (org_id, user_id);
ALTER TABLE workspaces
  ADD COLUMN visibility text NOT NULL DEFAULT 'org' CHECK (visibility IN ('org', 'members'));
CREATE TABLE workspace_members (
  org_id uuid NOT NULL REFERENCES orgs,
  workspace_id uuid NOT NULL,
  member_id uuid NOT NULL GENERATED ALWAYS AS (coalesce(user_id, team_id)) STORED,
  user_id uuid,
  team_id uuid,
  role text NOT NULL CHECK (role IN ('viewer', 'editor', 'manager')),
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, workspace_id, member_id),
  CHECK (num_nonnulls(user_id, team_id) = 1),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, team_id) REFERENCES teams (org_id, id) ON DELETE CASCADE
);
CREATE INDEX workspace_members_member ON workspace_members (org_id, member_id);
"""

KEYS = """
CREATE TABLE api_keys (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  user_id uuid NOT NULL,
  name text NOT NULL,
  prefix text NOT NULL,
  secret_hash bytea NOT NULL UNIQUE,
  permissions text[] NOT NULL,
  workspaces_limited boolean NOT NULL,
  creator_id uuid NOT NULL REFERENCES users,
  create_time timestamptz NOT NULL,
  expire_time timestamptz,
  revoke_time timestamptz,
  last_use_time timestamptz,
  last_use_address text,
  PRIMARY KEY (org_id, id),
  FOREIGN KEY (org_id, user_id) REFERENCES memberships (org_id, user_id) ON DELETE CASCADE
);
CREATE INDEX api_keys_user ON api_keys (org_id, user_id);
CREATE TABLE api_key_workspaces (
  org_id uuid NOT NULL REFERENCES orgs,
  api_key_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  PRIMARY KEY (org_id, api_key_id, workspace_id),
  FOREIGN KEY (org_id, api_key_id) REFERENCES api_keys (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);
"""

# chain_id is an organization or, for calls about an account, a person: whose log it is.
AUDIT = """
CREATE TABLE audit_heads (
  chain_id uuid PRIMARY KEY,
  sequence bigint NOT NULL,
  create_time timestamptz NOT NULL,
  hash bytea NOT NULL
);
CREATE TABLE audit_events (
  chain_id uuid NOT NULL,
  sequence bigint NOT NULL,
  create_time timestamptz NOT NULL,
  method text NOT NULL,
  user_id uuid,
  session_id uuid,
  api_key_id uuid,
  role text NOT NULL,
  address text NOT NULL,
  user_agent text NOT NULL,
  request_id text NOT NULL,
  resources jsonb NOT NULL,
  code text NOT NULL,
  reason text NOT NULL,
  hash bytea NOT NULL,
  PRIMARY KEY (chain_id, sequence)
);
CREATE INDEX audit_events_time ON audit_events (chain_id, create_time, sequence);
CREATE INDEX audit_events_user ON audit_events (chain_id, user_id, sequence);
CREATE INDEX audit_events_method ON audit_events (chain_id, method, sequence);
CREATE INDEX audit_events_code ON audit_events (chain_id, code, sequence);
-- The ids in audit_events.resources, to be found by. Not an index on them: row-level security lets PostgreSQL use none
-- whose operator is not leakproof, as those of jsonb and arrays are not.
CREATE TABLE audit_resources (
  chain_id uuid NOT NULL,
  sequence bigint NOT NULL,
  resource_id uuid NOT NULL,
  PRIMARY KEY (chain_id, sequence, resource_id)
);
CREATE INDEX audit_resources_resource ON audit_resources (chain_id, resource_id, sequence);
"""

TENANT = "NULLIF(current_setting('app.org_id', true), '')::uuid"
PERSON = "NULLIF(current_setting('app.user_id', true), '')::uuid"
POLICIES = {
    **dict.fromkeys(
        ("custom_roles", "teams", "team_members", "workspace_members", "api_keys", "api_key_workspaces"),
        f"org_id = {TENANT}",
    ),
    "audit_heads": f"chain_id IN ({TENANT}, {PERSON})",
    "audit_events": f"chain_id IN ({TENANT}, {PERSON})",
    "audit_resources": f"chain_id IN ({TENANT}, {PERSON})",
}

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON email_tokens, api_keys, audit_heads TO aiworkspace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON custom_roles, teams, workspace_members TO aiworkspace_app;
GRANT SELECT, INSERT, DELETE ON team_members TO aiworkspace_app;
GRANT SELECT, INSERT ON api_key_workspaces TO aiworkspace_app;
GRANT SELECT, INSERT ON audit_events, audit_resources TO aiworkspace_app; -- append-only
GRANT SELECT ON custom_roles, team_members, workspace_members, api_keys, api_key_workspaces TO aiworkspace_lookup;
"""

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
DROP FUNCTION find_principal(uuid);
DROP FUNCTION find_workspace_org(uuid, uuid);
DROP FUNCTION list_user_orgs(uuid, uuid, integer);
CREATE FUNCTION active_memberships(p_user_id uuid) RETURNS jsonb
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT coalesce(jsonb_agg(jsonb_build_object(
           'org_id', m.org_id, 'role', m.role, 'custom_role_id', m.custom_role_id, 'permissions', r.permissions)), '[]')
  FROM memberships m
  JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  LEFT JOIN custom_roles r ON r.org_id = m.org_id AND r.id = m.custom_role_id
  WHERE m.user_id = p_user_id AND m.suspend_time IS NULL
$$;
CREATE FUNCTION find_principal(p_session_id uuid)
RETURNS TABLE (user_id uuid, last_use_time timestamptz, memberships jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.user_id, s.last_use_time, active_memberships(s.user_id)
  FROM sessions s
  WHERE s.id = p_session_id AND s.revoke_time IS NULL AND s.expire_time > now()
$$;
CREATE FUNCTION find_api_key(p_secret_hash bytea)
RETURNS TABLE (id uuid, org_id uuid, user_id uuid, permissions text[], workspace_ids uuid[], last_use_time timestamptz,
               memberships jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT k.id, k.org_id, k.user_id, k.permissions,
         CASE WHEN k.workspaces_limited THEN ARRAY(
           SELECT w.workspace_id FROM api_key_workspaces w WHERE w.org_id = k.org_id AND w.api_key_id = k.id) END,
         k.last_use_time, active_memberships(k.user_id)
  FROM api_keys k
  JOIN memberships m ON m.org_id = k.org_id AND m.user_id = k.user_id AND m.suspend_time IS NULL
  JOIN orgs o ON o.id = k.org_id AND o.delete_time IS NULL
  WHERE k.secret_hash = p_secret_hash AND k.revoke_time IS NULL AND (k.expire_time IS NULL OR k.expire_time > now())
$$;
CREATE FUNCTION find_workspace(p_workspace_id uuid, p_user_id uuid)
RETURNS TABLE (org_id uuid, visibility text, roles jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT w.org_id, w.visibility, coalesce((
           SELECT jsonb_agg(jsonb_build_object('role', wm.role, 'team_id', wm.team_id))
           FROM workspace_members wm
           WHERE wm.org_id = w.org_id AND wm.workspace_id = w.id AND (wm.user_id = p_user_id OR wm.team_id IN (
             SELECT tm.team_id FROM team_members tm WHERE tm.org_id = w.org_id AND tm.user_id = p_user_id))), '[]')
  FROM workspaces w
  JOIN memberships m ON m.org_id = w.org_id AND m.user_id = p_user_id AND m.suspend_time IS NULL
  JOIN orgs o ON o.id = w.org_id AND o.delete_time IS NULL
  WHERE w.id = p_workspace_id AND w.delete_time IS NULL
$$;
CREATE FUNCTION list_user_orgs(p_user_id uuid, p_after uuid, p_limit integer)
RETURNS TABLE (id uuid, name text, version bigint, create_time timestamptz, update_time timestamptz, role text,
               custom_role_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT o.id, o.name, o.version, o.create_time, o.update_time, m.role, m.custom_role_id
  FROM memberships m
  JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  WHERE m.user_id = p_user_id AND m.suspend_time IS NULL AND (p_after IS NULL OR m.org_id > p_after)
  ORDER BY m.org_id
  LIMIT p_limit
$$;
"""
FUNCTIONS = (
    "find_principal(uuid)",
    "find_api_key(bytea)",
    "find_workspace(uuid, uuid)",
    "list_user_orgs(uuid, uuid, integer)",
)
LOOKED_UP = ("custom_roles", "team_members", "workspace_members", "api_keys", "api_key_workspaces")


def upgrade() -> None:
    for part in (PEOPLE, AUTHORITY, KEYS, AUDIT, GRANTS, LOOKUPS):
        op.execute(part)
    for table, condition in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING ({condition})")
    for table in LOOKED_UP:
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in ("active_memberships(uuid)", *FUNCTIONS):
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    for function in FUNCTIONS:
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
