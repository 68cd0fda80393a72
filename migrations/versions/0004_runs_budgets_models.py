"""Leases of runs, a ledger of reservations and settlements, budgets, roll-ups, model policies and keys at providers."""

from alembic import op

revision = "0004"
down_revision = "0003"

# What was one reservation a run becomes the claim of a run on its conversation and its request_id; what is reserved is
# told by the ledger. server_id is who works on an open run.
RUNS = """
ALTER TABLE reservations RENAME TO run_claims;
ALTER INDEX reservations_pkey RENAME TO run_claims_pkey;
ALTER INDEX reservations_request RENAME TO run_claims_request;
ALTER INDEX reservations_open RENAME TO run_claims_open;
ALTER TABLE run_claims DROP CONSTRAINT reservations_state_check, NO FORCE ROW LEVEL SECURITY;
UPDATE run_claims SET state = 'closed' WHERE state <> 'open';
ALTER TABLE run_claims
  FORCE ROW LEVEL SECURITY,
  ADD CHECK (state IN ('open', 'closed')),
  ADD COLUMN server_id uuid,
  ADD COLUMN stop text CHECK (stop IN ('cancelled')),
  DROP COLUMN amount_nanos,
  DROP COLUMN currency,
  DROP COLUMN model;
CREATE TABLE servers (
  id uuid PRIMARY KEY,
  name text NOT NULL,
  start_time timestamptz NOT NULL,
  lease_end_time timestamptz NOT NULL
);
"""

# A reservation is ended once: by the one entry of settle or release for its attempt. key_id is that of an API key, and
# no foreign key: entries outlive keys.
LEDGER = """
ALTER TABLE ledger_entries
  NO FORCE ROW LEVEL SECURITY,
  DROP CONSTRAINT ledger_entries_org_id_run_id_key,
  DROP CONSTRAINT ledger_entries_input_tokens_check,
  DROP CONSTRAINT ledger_entries_cached_input_tokens_check,
  DROP CONSTRAINT ledger_entries_cache_write_tokens_check,
  DROP CONSTRAINT ledger_entries_output_tokens_check,
  DROP CONSTRAINT ledger_entries_reasoning_tokens_check,
  DROP CONSTRAINT ledger_entries_cost_nanos_check,
  ADD COLUMN kind text NOT NULL DEFAULT 'settle' CHECK (kind IN ('reserve', 'settle', 'release', 'adjust')),
  ADD COLUMN attempt integer NOT NULL DEFAULT 1 CHECK (attempt > 0),
  ADD COLUMN reserved_nanos bigint NOT NULL DEFAULT 0,
  ADD COLUMN run_time timestamptz,
  ADD COLUMN key_id uuid,
  ADD COLUMN own_key boolean NOT NULL DEFAULT false,
  ADD COLUMN input_audio_tokens bigint NOT NULL DEFAULT 0,
  ADD COLUMN output_audio_tokens bigint NOT NULL DEFAULT 0;
UPDATE ledger_entries SET run_time = create_time;
ALTER TABLE ledger_entries
  FORCE ROW LEVEL SECURITY,
  ALTER COLUMN kind DROP DEFAULT,
  ALTER COLUMN attempt DROP DEFAULT,
  ALTER COLUMN reserved_nanos DROP DEFAULT,
  ALTER COLUMN own_key DROP DEFAULT,
  ALTER COLUMN input_audio_tokens DROP DEFAULT,
  ALTER COLUMN output_audio_tokens DROP DEFAULT,
  ALTER COLUMN run_time SET NOT NULL,
  ADD CHECK (CASE kind
    WHEN 'reserve' THEN reserved_nanos >= 0 AND cost_nanos = 0
    WHEN 'settle' THEN reserved_nanos <= 0 AND cost_nanos >= 0
    WHEN 'release' THEN reserved_nanos <= 0 AND cost_nanos = 0
    ELSE reserved_nanos = 0 END),
  ADD CHECK (kind = 'adjust' OR least(
    input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens,
    output_audio_tokens) >= 0);
CREATE UNIQUE INDEX ledger_entries_begin ON ledger_entries (org_id, run_id, attempt) WHERE kind = 'reserve';
CREATE UNIQUE INDEX ledger_entries_end ON ledger_entries (org_id, run_id, attempt) WHERE kind IN ('settle', 'release');
CREATE INDEX ledger_entries_run ON ledger_entries (org_id, run_id, attempt);
CREATE TABLE usage_rollups (
  org_id uuid NOT NULL REFERENCES orgs,
  period text NOT NULL CHECK (period IN ('hour', 'day')),
  start_time timestamptz NOT NULL,
  workspace_id uuid NOT NULL,
  user_id uuid NOT NULL,
  key_id uuid NOT NULL,
  model text NOT NULL,
  request_count bigint NOT NULL,
  input_tokens bigint NOT NULL,
  cached_input_tokens bigint NOT NULL,
  cache_write_tokens bigint NOT NULL,
  output_tokens bigint NOT NULL,
  reasoning_tokens bigint NOT NULL,
  input_audio_tokens bigint NOT NULL,
  output_audio_tokens bigint NOT NULL,
  cost_nanos bigint NOT NULL,
  PRIMARY KEY (org_id, period, start_time, workspace_id, user_id, key_id, model),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id)
);
"""

# subject_id is a workspace, a member or an API key as the scope says; without one each of them has a budget of its own.
BUDGETS = """
CREATE TABLE budgets (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  scope text NOT NULL CHECK (scope IN ('org', 'workspace', 'member', 'api_key')),
  subject_id uuid,
  period text NOT NULL CHECK (period IN ('day', 'month')),
  limit_nanos bigint NOT NULL CHECK (limit_nanos >= 0),
  hard boolean NOT NULL,
  alert_percents integer[] NOT NULL,
  version bigint NOT NULL,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id),
  CHECK (scope <> 'org' OR subject_id IS NULL)
);
CREATE TABLE budget_windows (
  org_id uuid NOT NULL REFERENCES orgs,
  budget_id uuid NOT NULL,
  subject_id uuid NOT NULL,
  start_time timestamptz NOT NULL,
  settled_nanos bigint NOT NULL,
  reserved_nanos bigint NOT NULL CHECK (reserved_nanos >= 0),
  alerted_percent integer NOT NULL,
  PRIMARY KEY (org_id, budget_id, subject_id, start_time),
  FOREIGN KEY (org_id, budget_id) REFERENCES budgets (org_id, id) ON DELETE CASCADE
);
"""

# scope_id is the organization or one of its workspaces. A key is stored encrypted.
MODELS = """
CREATE TABLE model_policies (
  org_id uuid NOT NULL REFERENCES orgs,
  scope_id uuid NOT NULL,
  workspace_id uuid,
  policy jsonb NOT NULL,
  version bigint NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, scope_id),
  CHECK (scope_id = coalesce(workspace_id, org_id)),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id) ON DELETE CASCADE
);
CREATE TABLE provider_keys (
  org_id uuid NOT NULL REFERENCES orgs,
  provider text NOT NULL,
  id uuid NOT NULL,
  secret bytea NOT NULL,
  hint text NOT NULL,
  creator_id uuid NOT NULL REFERENCES users,
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, provider)
);
"""

TENANT = "NULLIF(current_setting('app.org_id', true), '')::uuid"
TABLES = ("usage_rollups", "budgets", "budget_windows", "model_policies", "provider_keys")

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON servers, usage_rollups, budgets, provider_keys TO aiworkspace_app;
GRANT SELECT, INSERT, UPDATE ON budget_windows, model_policies TO aiworkspace_app;
GRANT SELECT ON servers, ledger_entries, provider_keys TO aiworkspace_lookup;
"""

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
DROP FUNCTION list_open_reservations();
CREATE FUNCTION list_orphaned_runs()
RETURNS TABLE (org_id uuid, run_id uuid, conversation_id uuid, server_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT c.org_id, c.run_id, c.conversation_id, c.server_id
  FROM run_claims c
  WHERE c.state = 'open'
    AND NOT EXISTS (SELECT FROM servers s WHERE s.id = c.server_id AND s.lease_end_time > clock_timestamp())
$$;
CREATE FUNCTION list_stopped_runs(p_server_id uuid) RETURNS TABLE (run_id uuid, stop text)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT c.run_id, c.stop FROM run_claims c
  WHERE c.state = 'open' AND c.server_id = p_server_id AND c.stop IS NOT NULL
$$;
CREATE FUNCTION list_ledger_orgs() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT e.org_id FROM ledger_entries e
$$;
CREATE FUNCTION find_ledger_orgs(p_run_ids uuid[]) RETURNS TABLE (run_id uuid, org_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT e.run_id, e.org_id FROM ledger_entries e WHERE e.run_id = ANY (p_run_ids)
$$;
CREATE FUNCTION list_provider_key_orgs() RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT k.org_id FROM provider_keys k
$$;
"""
FUNCTIONS = (
    "list_orphaned_runs()",
    "list_stopped_runs(uuid)",
    "list_ledger_orgs()",
    "find_ledger_orgs(uuid[])",
    "list_provider_key_orgs()",
)


def upgrade() -> None:
    for part in (RUNS, LEDGER, BUDGETS, MODELS, GRANTS, LOOKUPS):
        op.execute(part)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING (org_id = {TENANT})")
    for table in ("ledger_entries", "provider_keys"):
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
