"""Accounts, organizations, workspaces and the ledger, with row-level security.

Two roles, neither of which can log in or owns a table:
  aiworkspace_app     what the server works as; row-level security applies to it
  aiworkspace_lookup  what the functions work as that have to look before a tenant is known

The migrating login is made a member of aiworkspace_app. In production give the server a login of its own that is
a member of aiworkspace_app and of nothing else.
"""

from alembic import op

revision = "0001"
down_revision = None

ROLES = """
DO $$
BEGIN
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aiworkspace_app') THEN
    CREATE ROLE aiworkspace_app NOLOGIN;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'aiworkspace_lookup') THEN
    CREATE ROLE aiworkspace_lookup NOLOGIN;
  END IF;
EXCEPTION WHEN duplicate_object OR unique_violation THEN
  NULL; -- roles belong to the cluster: another database's migration was faster
END $$;
GRANT aiworkspace_app, aiworkspace_lookup TO CURRENT_USER;
GRANT USAGE ON SCHEMA public TO aiworkspace_app, aiworkspace_lookup;
"""

IDENTITY = """
CREATE TABLE users (
  id uuid PRIMARY KEY,
  email text NOT NULL UNIQUE CHECK (email = lower(email)),
  display_name text NOT NULL,
  password_hash text NOT NULL,
  request_id uuid,
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL
);
CREATE TABLE sessions (
  id uuid PRIMARY KEY,
  user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  device_name text NOT NULL,
  address text NOT NULL,
  user_agent text NOT NULL,
  refresh_id uuid NOT NULL,
  previous_refresh_id uuid,
  refresh_time timestamptz NOT NULL,
  create_time timestamptz NOT NULL,
  last_use_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  revoke_time timestamptz
);
CREATE INDEX sessions_user ON sessions (user_id, id);
CREATE TABLE replies (
  user_id uuid NOT NULL REFERENCES users ON DELETE CASCADE,
  request_id uuid NOT NULL,
  content_hash bytea NOT NULL,
  reply bytea,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (user_id, request_id)
);
"""

TENANCY = """
CREATE TABLE orgs (
  id uuid PRIMARY KEY,
  name text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  delete_time timestamptz
);
CREATE TABLE memberships (
  org_id uuid NOT NULL REFERENCES orgs,
  user_id uuid NOT NULL REFERENCES users,
  role text NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, user_id)
);
CREATE INDEX memberships_user ON memberships (user_id, org_id);
CREATE TABLE invitations (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  email text NOT NULL CHECK (email = lower(email)),
  role text NOT NULL CHECK (role IN ('viewer', 'member', 'admin', 'owner')),
  inviter_id uuid NOT NULL REFERENCES users,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  accept_time timestamptz,
  revoke_time timestamptz,
  PRIMARY KEY (org_id, id),
  CHECK (accept_time IS NULL OR revoke_time IS NULL)
);
CREATE TABLE workspaces (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL UNIQUE,
  name text NOT NULL,
  default_model text NOT NULL,
  system_prompt text NOT NULL,
  version bigint NOT NULL DEFAULT 1,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  delete_time timestamptz,
  PRIMARY KEY (org_id, id)
);
"""

MONEY = """
CREATE TABLE reservations (
  org_id uuid NOT NULL,
  run_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  user_id uuid NOT NULL REFERENCES users,
  request_id uuid,
  content_hash bytea NOT NULL,
  model text NOT NULL,
  amount_nanos bigint NOT NULL CHECK (amount_nanos >= 0),
  currency text NOT NULL,
  state text NOT NULL CHECK (state IN ('open', 'settled', 'released')),
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, run_id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id)
);
CREATE UNIQUE INDEX reservations_request ON reservations (org_id, user_id, request_id);
CREATE UNIQUE INDEX reservations_open ON reservations (org_id, conversation_id) WHERE state = 'open';
CREATE TABLE ledger_entries (
  org_id uuid NOT NULL,
  id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  conversation_id uuid NOT NULL,
  run_id uuid NOT NULL,
  user_id uuid NOT NULL REFERENCES users,
  request_id uuid,
  model text NOT NULL,
  input_tokens bigint NOT NULL CHECK (input_tokens >= 0),
  cached_input_tokens bigint NOT NULL CHECK (cached_input_tokens >= 0),
  cache_write_tokens bigint NOT NULL CHECK (cache_write_tokens >= 0),
  output_tokens bigint NOT NULL CHECK (output_tokens >= 0),
  reasoning_tokens bigint NOT NULL CHECK (reasoning_tokens >= 0),
  estimated boolean NOT NULL,
  cost_nanos bigint NOT NULL CHECK (cost_nanos >= 0),
  currency text NOT NULL,
  price_version text NOT NULL,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id),
  UNIQUE (org_id, run_id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id),
  FOREIGN KEY (org_id, run_id) REFERENCES reservations (org_id, run_id)
);
CREATE INDEX ledger_entries_time ON ledger_entries (org_id, create_time);
"""

# What a policy compares with. Where no tenant was set it is NULL, or '' on a connection that was used before.
TENANT = "NULLIF(current_setting('app.org_id', true), '')::uuid"
PERSON = "NULLIF(current_setting('app.user_id', true), '')::uuid"
POLICIES = {
    "orgs": f"id = {TENANT}",
    "memberships": f"org_id = {TENANT}",
    "invitations": f"org_id = {TENANT}",
    "workspaces": f"org_id = {TENANT}",
    "reservations": f"org_id = {TENANT}",
    "ledger_entries": f"org_id = {TENANT}",
    "replies": f"user_id = {PERSON}",
}

GRANTS = """
GRANT SELECT, INSERT, UPDATE ON users, sessions, replies, orgs, invitations, workspaces, reservations
  TO aiworkspace_app;
GRANT SELECT, INSERT, UPDATE, DELETE ON memberships TO aiworkspace_app;
GRANT SELECT ON alembic_version TO aiworkspace_app;
GRANT SELECT, INSERT ON ledger_entries TO aiworkspace_app; -- append-only
GRANT SELECT ON users, sessions, orgs, memberships, workspaces, reservations TO aiworkspace_lookup;
"""

# The only doors in row-level security: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
CREATE FUNCTION find_principal(p_session_id uuid)
RETURNS TABLE (user_id uuid, last_use_time timestamptz, expire_time timestamptz, org_ids uuid[], roles text[])
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.user_id, s.last_use_time, s.expire_time,
         coalesce(array_agg(m.org_id) FILTER (WHERE o.id IS NOT NULL), '{}'),
         coalesce(array_agg(m.role) FILTER (WHERE o.id IS NOT NULL), '{}')
  FROM sessions s
  LEFT JOIN memberships m ON m.user_id = s.user_id
  LEFT JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  WHERE s.id = p_session_id AND s.revoke_time IS NULL AND s.expire_time > now()
  GROUP BY s.id
$$;
CREATE FUNCTION find_workspace_org(p_workspace_id uuid, p_user_id uuid) RETURNS uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT w.org_id
  FROM workspaces w
  JOIN memberships m ON m.org_id = w.org_id AND m.user_id = p_user_id
  JOIN orgs o ON o.id = w.org_id AND o.delete_time IS NULL
  WHERE w.id = p_workspace_id AND w.delete_time IS NULL
$$;
CREATE FUNCTION list_user_orgs(p_user_id uuid, p_after uuid, p_limit integer)
RETURNS TABLE (id uuid, name text, version bigint, create_time timestamptz, update_time timestamptz, role text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT o.id, o.name, o.version, o.create_time, o.update_time, m.role
  FROM memberships m
  JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  WHERE m.user_id = p_user_id AND (p_after IS NULL OR m.org_id > p_after)
  ORDER BY m.org_id
  LIMIT p_limit
$$;
CREATE FUNCTION list_open_reservations() RETURNS TABLE (org_id uuid, run_id uuid, conversation_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT r.org_id, r.run_id, r.conversation_id FROM reservations r WHERE r.state = 'open'
$$;
"""
FUNCTIONS = (
    "find_principal(uuid)",
    "find_workspace_org(uuid, uuid)",
    "list_user_orgs(uuid, uuid, integer)",
    "list_open_reservations()",
)
LOOKED_UP = ("orgs", "memberships", "workspaces", "reservations")


def upgrade() -> None:
    for part in (ROLES, IDENTITY, TENANCY, MONEY, GRANTS, LOOKUPS):
        op.execute(part)
    for table, condition in POLICIES.items():
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING ({condition})")
    for table in LOOKED_UP:
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
