"""Deletion that erases: tombstones, what the erasing job may delete, new email addresses, and kept answers that end."""

from alembic import op

revision = "0008"
down_revision = "0007"

# erase_time is set when the content of what was deleted is gone. Rows that an earlier release deleted have none yet.
TOMBSTONES = """
ALTER TABLE orgs ADD COLUMN erase_time timestamptz;
ALTER TABLE workspaces ADD COLUMN erase_time timestamptz;
CREATE INDEX orgs_unerased ON orgs (id) WHERE delete_time IS NOT NULL AND erase_time IS NULL;
CREATE INDEX workspaces_unerased ON workspaces (org_id, id) WHERE delete_time IS NOT NULL AND erase_time IS NULL;
DO $$
DECLARE
  name text;
BEGIN
  FOR name IN SELECT conname FROM pg_constraint WHERE conrelid = 'users'::regclass AND contype = 'c'
                AND pg_get_constraintdef(oid) LIKE '%person%IS NOT NULL%'
  LOOP
    EXECUTE format('ALTER TABLE users DROP CONSTRAINT %I', name);
  END LOOP;
END $$;
ALTER TABLE users
  ADD COLUMN delete_time timestamptz,
  ADD COLUMN erase_time timestamptz,
  ADD CHECK ((kind = 'person' AND delete_time IS NULL) = (email IS NOT NULL)),
  ADD CHECK ((kind = 'person' AND delete_time IS NULL) = (password_hash IS NOT NULL));
-- Service accounts of an earlier release that were deleted, whose names stayed.
ALTER TABLE memberships NO FORCE ROW LEVEL SECURITY;
UPDATE users SET delete_time = now(), display_name = ''
  WHERE kind = 'service' AND NOT EXISTS (SELECT FROM memberships m WHERE m.user_id = users.id);
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
-- A partial index, so that changing an address does not lock out rows that refer to the account.
ALTER TABLE users DROP CONSTRAINT users_email_key;
CREATE UNIQUE INDEX users_email_key ON users (email) WHERE email IS NOT NULL;
CREATE INDEX users_unerased ON users (id) WHERE delete_time IS NOT NULL AND erase_time IS NULL;
"""

# A new address is the account's once its token has come back. session_id asked for it, and goes on.
ADDRESSES = """
ALTER TABLE email_tokens
  DROP CONSTRAINT email_tokens_purpose_check,
  ADD CHECK (purpose IN ('verify', 'reset', 'change')),
  ADD COLUMN session_id uuid;
ALTER TABLE invitations NO FORCE ROW LEVEL SECURITY, ADD COLUMN accepter_id uuid REFERENCES users;
UPDATE invitations i SET accepter_id = u.id FROM users u WHERE u.email = i.email AND i.accept_time IS NOT NULL;
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
DROP INDEX invitations_email;
CREATE INDEX invitations_email ON invitations (email);
CREATE INDEX invitations_accepter ON invitations (accepter_id) WHERE accepter_id IS NOT NULL;
"""

# Answers that were kept before have names and texts in them. Retries come within minutes: they end within the hour.
REPLIES = """
ALTER TABLE replies NO FORCE ROW LEVEL SECURITY;
DELETE FROM replies WHERE create_time < now() - interval '1 hour';
UPDATE replies SET create_time = create_time - interval '7 days' + interval '1 hour';
ALTER TABLE replies FORCE ROW LEVEL SECURITY;
CREATE INDEX replies_time ON replies (create_time);
"""

GRANTS = """
GRANT DELETE ON api_keys, api_key_workspaces, invitations, model_policies, replies, sessions, email_tokens
  TO aiworkspace_app;
GRANT SELECT ON replies TO aiworkspace_lookup;
"""

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
CREATE FUNCTION list_unerased(p_before timestamptz) RETURNS TABLE (org_id uuid, workspace_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT o.id, NULL::uuid FROM orgs o WHERE o.delete_time < p_before AND o.erase_time IS NULL
  UNION ALL
  SELECT w.org_id, w.id FROM workspaces w
  JOIN orgs o ON o.id = w.org_id AND o.delete_time IS NULL
  WHERE w.delete_time < p_before AND w.erase_time IS NULL
$$;
CREATE FUNCTION list_membership_orgs(p_user_id uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT m.org_id FROM memberships m JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
  WHERE m.user_id = p_user_id ORDER BY m.org_id
$$;
CREATE FUNCTION list_invitation_orgs(p_user_id uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT i.org_id FROM invitations i WHERE i.email = (SELECT u.email FROM users u WHERE u.id = p_user_id)
  UNION
  SELECT i.org_id FROM invitations i WHERE i.accepter_id = p_user_id
$$;
CREATE FUNCTION list_run_orgs(p_user_id uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT c.org_id FROM run_claims c WHERE c.user_id = p_user_id
$$;
CREATE FUNCTION list_expired_replies(p_before timestamptz, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT e.user_id FROM (SELECT r.user_id FROM replies r WHERE r.create_time < p_before LIMIT p_limit) e
$$;
"""
FUNCTIONS = (
    "list_unerased(timestamptz)",
    "list_membership_orgs(uuid)",
    "list_invitation_orgs(uuid)",
    "list_run_orgs(uuid)",
    "list_expired_replies(timestamptz, integer)",
)


def upgrade() -> None:
    for part in (TOMBSTONES, ADDRESSES, REPLIES, GRANTS, LOOKUPS):
        op.execute(part)
    op.execute("CREATE POLICY lookup ON replies FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("CREATE INDEX run_claims_user ON run_claims (user_id, org_id)")
    op.execute("CREATE INDEX run_claims_conversation ON run_claims (org_id, conversation_id)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
