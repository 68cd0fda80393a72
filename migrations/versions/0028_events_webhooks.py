"""Events of organizations, and the webhook endpoints to which they are sent."""

from alembic import op

revision = "0028"
down_revision = "0027"
compatible_with = "0023"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"

# event_heads has the number of an organization's latest event, also when that is no longer kept. Numbering locks it.
EVENTS = """
CREATE TABLE event_heads (
  org_id uuid PRIMARY KEY REFERENCES orgs,
  sequence bigint NOT NULL
);
CREATE TABLE events (
  org_id uuid NOT NULL REFERENCES orgs,
  sequence bigint NOT NULL,
  id uuid NOT NULL,
  type text NOT NULL,
  create_time timestamptz NOT NULL,
  resources jsonb NOT NULL,
  PRIMARY KEY (org_id, sequence),
  UNIQUE (org_id, id)
);
CREATE INDEX events_create_time ON events (create_time);
"""

# answering: the last attempt succeeded. fail_time: of the first attempt that failed since. resume_time: before it, the
# endpoint has asked not to be called. A delivery has a next_attempt_time exactly while it is pending.
WEBHOOKS = """
CREATE TABLE webhook_endpoints (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  url text NOT NULL,
  description text NOT NULL,
  event_types text[] NOT NULL,
  enabled boolean NOT NULL,
  disable_reason text,
  answering boolean NOT NULL,
  fail_time timestamptz,
  resume_time timestamptz,
  secret bytea NOT NULL,
  previous_secret bytea,
  previous_secret_expire_time timestamptz,
  version bigint NOT NULL,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id)
);
CREATE TABLE webhook_deliveries (
  org_id uuid NOT NULL,
  webhook_endpoint_id uuid NOT NULL,
  sequence bigint NOT NULL,
  state text NOT NULL,
  attempt_count bigint NOT NULL,
  next_attempt_time timestamptz CHECK ((next_attempt_time IS NOT NULL) = (state = 'pending')),
  attempts jsonb NOT NULL,
  PRIMARY KEY (org_id, webhook_endpoint_id, sequence),
  FOREIGN KEY (org_id, webhook_endpoint_id) REFERENCES webhook_endpoints (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, sequence) REFERENCES events (org_id, sequence) ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_event ON webhook_deliveries (org_id, sequence);
CREATE INDEX webhook_deliveries_due ON webhook_deliveries (org_id, webhook_endpoint_id, next_attempt_time)
  WHERE next_attempt_time IS NOT NULL;
"""

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
CREATE FUNCTION list_event_heads(p_org_ids uuid[]) RETURNS TABLE (org_id uuid, sequence bigint)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT h.org_id, h.sequence FROM event_heads h WHERE h.org_id = ANY (p_org_ids)
$$;
CREATE FUNCTION list_old_event_orgs(p_before timestamptz, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT e.org_id
  FROM (SELECT org_id FROM events WHERE create_time < p_before ORDER BY create_time LIMIT p_limit) e
$$;
CREATE FUNCTION list_due_webhooks(p_before timestamptz) RETURNS TABLE (org_id uuid, id uuid, answering boolean)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT e.org_id, e.id, e.answering FROM webhook_endpoints e
  WHERE e.enabled AND EXISTS (
    SELECT FROM webhook_deliveries d
    WHERE d.org_id = e.org_id AND d.webhook_endpoint_id = e.id AND d.next_attempt_time <= p_before)
$$;
CREATE FUNCTION list_webhook_orgs() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT e.org_id FROM webhook_endpoints e
$$;
"""
TABLES = ("event_heads", "events", "webhook_endpoints", "webhook_deliveries")
FUNCTIONS = (
    "list_event_heads(uuid[])",
    "list_old_event_orgs(timestamptz, integer)",
    "list_due_webhooks(timestamptz)",
    "list_webhook_orgs()",
)


def upgrade() -> None:
    op.execute(EVENTS)
    op.execute(WEBHOOKS)
    op.execute(LOOKUPS)
    for table in TABLES:
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO aiworkspace_app")
        op.execute(f"GRANT SELECT ON {table} TO aiworkspace_lookup")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING (org_id = {TENANT})")
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
