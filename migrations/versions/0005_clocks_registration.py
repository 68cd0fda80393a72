"""Clocks that differ, and whom an operator lets in: sessions, verified addresses, invited addresses."""

from alembic import op

revision = "0005"
down_revision = "0004"

# refresh_time is by the clock of PostgreSQL, which all servers share; issue_time, which is in the tokens, by that of
# the server that made them.
SESSIONS = """
ALTER TABLE sessions ADD COLUMN issue_time timestamptz;
UPDATE sessions SET issue_time = refresh_time;
ALTER TABLE sessions ALTER COLUMN issue_time SET NOT NULL;
GRANT SELECT ON invitations TO aiworkspace_lookup;
"""

# Sessions last a minute longer than they say, as all tokens do: the servers' clocks may differ by that.
LOOKUPS = """
DROP FUNCTION find_principal(uuid);
CREATE FUNCTION find_principal(p_session_id uuid)
RETURNS TABLE (user_id uuid, verified boolean, last_use_time timestamptz, memberships jsonb)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT s.user_id, u.verify_time IS NOT NULL, s.last_use_time, active_memberships(s.user_id)
  FROM sessions s
  JOIN users u ON u.id = s.user_id
  WHERE s.id = p_session_id AND s.revoke_time IS NULL AND s.expire_time > now() - interval '60 seconds'
$$;
CREATE FUNCTION is_invited(p_email text) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM invitations i
    JOIN orgs o ON o.id = i.org_id AND o.delete_time IS NULL
    WHERE i.email = p_email AND i.accept_time IS NULL AND i.revoke_time IS NULL
      AND i.expire_time > now() - interval '60 seconds')
$$;
CREATE INDEX invitations_email ON invitations (email) WHERE accept_time IS NULL AND revoke_time IS NULL;
"""
FUNCTIONS = ("find_principal(uuid)", "is_invited(text)")


def upgrade() -> None:
    op.execute(SESSIONS)
    op.execute(LOOKUPS)
    op.execute("CREATE POLICY lookup ON invitations FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
