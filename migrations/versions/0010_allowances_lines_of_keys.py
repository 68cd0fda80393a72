"""Allowances on the server's own keys; budgets and usage follow rotations of keys; usage counts when a run began."""

from alembic import op

revision = "0010"
down_revision = "0009"

# An allowance has its organization's id. Without a limit_nanos the server's default holds.
ALLOWANCES = """
ALTER TABLE budgets
  NO FORCE ROW LEVEL SECURITY,
  DROP CONSTRAINT budgets_scope_check,
  DROP CONSTRAINT budgets_check,
  ALTER COLUMN limit_nanos DROP NOT NULL,
  ADD COLUMN named_id uuid,
  ADD CHECK (scope IN ('org', 'workspace', 'member', 'api_key', 'allowance')),
  ADD CHECK (scope NOT IN ('org', 'allowance') OR subject_id IS NULL),
  ADD CHECK (CASE scope WHEN 'allowance' THEN id = org_id AND hard AND period = 'month'
             ELSE limit_nanos IS NOT NULL END);
UPDATE budgets SET named_id = subject_id WHERE scope = 'api_key';
ALTER TABLE orgs NO FORCE ROW LEVEL SECURITY;
INSERT INTO budgets (org_id, id, scope, period, hard, alert_percents, version, create_time, update_time)
SELECT id, id, 'allowance', 'month', true, '{}', 1, create_time, create_time FROM orgs;
ALTER TABLE users ADD COLUMN created_org_count bigint NOT NULL DEFAULT 0;
ALTER TABLE memberships NO FORCE ROW LEVEL SECURITY;
UPDATE users u SET created_org_count = m.count
FROM (SELECT user_id, count(*) FROM memberships WHERE role = 'owner' GROUP BY user_id) m WHERE m.user_id = u.id;
ALTER TABLE memberships FORCE ROW LEVEL SECURITY;
ALTER TABLE orgs FORCE ROW LEVEL SECURITY;
ALTER TABLE budgets FORCE ROW LEVEL SECURITY;
CREATE FUNCTION add_allowance() RETURNS trigger LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
BEGIN
  INSERT INTO budgets (org_id, id, scope, period, hard, alert_percents, version, create_time, update_time)
  VALUES (NEW.id, NEW.id, 'allowance', 'month', true, '{}', 1, NEW.create_time, NEW.create_time);
  RETURN NULL;
END $$;
CREATE TRIGGER add_allowance AFTER INSERT ON orgs FOR EACH ROW EXECUTE FUNCTION add_allowance();
"""

# root_id is the first key of a line of rotations; without one, a key is the first itself.
KEYS = """
ALTER TABLE api_keys ADD COLUMN root_id uuid;
CREATE INDEX api_keys_line ON api_keys (org_id, coalesce(root_id, id));
ALTER TABLE ledger_entries ADD COLUMN key_root_id uuid;
"""

# What was counted by the time of the entries is counted by that of their runs, as budgets are, and allowances count
# what was spent before there were any.
USAGE = """
CREATE INDEX ledger_entries_run_time ON ledger_entries (org_id, run_time);
ALTER TABLE ledger_entries NO FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_rollups NO FORCE ROW LEVEL SECURITY;
ALTER TABLE budget_windows NO FORCE ROW LEVEL SECURITY;
DELETE FROM usage_rollups;
INSERT INTO usage_rollups (org_id, period, start_time, workspace_id, user_id, key_id, model, request_count,
                           input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
                           input_audio_tokens, output_audio_tokens, cost_nanos)
SELECT org_id, period, date_trunc(period, run_time, 'UTC'), workspace_id, user_id,
       coalesce(key_id, '00000000-0000-0000-0000-000000000000'), model, count(*) FILTER (WHERE kind = 'settle'),
       sum(input_tokens), sum(cached_input_tokens), sum(cache_write_tokens), sum(output_tokens),
       sum(reasoning_tokens), sum(input_audio_tokens), sum(output_audio_tokens), sum(cost_nanos)
FROM ledger_entries, (VALUES ('day'), ('hour')) AS periods(period)
WHERE kind IN ('settle', 'adjust')
GROUP BY 1, 2, 3, 4, 5, 6, 7;
INSERT INTO budget_windows (org_id, budget_id, subject_id, start_time, settled_nanos, reserved_nanos, alerted_percent)
SELECT org_id, org_id, org_id, date_trunc('month', run_time, 'UTC'), sum(cost_nanos), sum(reserved_nanos), 0
FROM ledger_entries WHERE NOT own_key GROUP BY 1, 4;
ALTER TABLE ledger_entries FORCE ROW LEVEL SECURITY;
ALTER TABLE usage_rollups FORCE ROW LEVEL SECURITY;
ALTER TABLE budget_windows FORCE ROW LEVEL SECURITY;
"""


def upgrade() -> None:
    for part in (ALLOWANCES, KEYS, USAGE):
        op.execute(part)
