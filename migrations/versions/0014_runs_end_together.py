"""The ends of several runs are one statement.

Like those of 0012, the functions work with the caller's privileges and under row-level security, and lock in the same
order: the ledger of the organization, claims by run, roll-ups by their key, budget windows by theirs. Of several
organizations, one comes after the other, by id.

`end_run`, and `end_attempts` for a single run, are those of the release before. They stay for its servers.
"""

from alembic import op

revision = "0014"
down_revision = "0013"

# Adds entries that were just written to roll-ups and budget windows. A window that reaches another threshold is noted,
# and a job of the same transaction sends the mails. Also called by the functions of the release before.
COUNT = """
CREATE OR REPLACE FUNCTION count_entries(p_ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  v_sum record;
  v_settled bigint;
  v_alerted integer;
  v_percent integer;
BEGIN
  INSERT INTO usage_rollups AS r (
    org_id, period, start_time, workspace_id, user_id, key_id, model, request_count, input_tokens,
    cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens,
    cost_nanos)
  SELECT e.org_id, p.period, date_trunc(p.period, e.run_time, 'UTC') AS start_time, e.workspace_id, e.user_id,
         coalesce(e.key_id, '00000000-0000-0000-0000-000000000000') AS key_id, e.model,
         count(*) FILTER (WHERE e.kind = 'settle'), sum(e.input_tokens), sum(e.cached_input_tokens),
         sum(e.cache_write_tokens), sum(e.output_tokens), sum(e.reasoning_tokens), sum(e.input_audio_tokens),
         sum(e.output_audio_tokens), sum(e.cost_nanos)
  FROM ledger_entries e CROSS JOIN (VALUES ('day'), ('hour')) AS p(period)
  WHERE e.id = ANY (p_ids) AND e.kind IN ('settle', 'adjust')
  GROUP BY 1, 2, 3, 4, 5, 6, 7
  ORDER BY 1, 2, 3, 4, 5, 6, 7
  ON CONFLICT (org_id, period, start_time, workspace_id, user_id, key_id, model) DO UPDATE SET
    request_count = r.request_count + excluded.request_count,
    input_tokens = r.input_tokens + excluded.input_tokens,
    cached_input_tokens = r.cached_input_tokens + excluded.cached_input_tokens,
    cache_write_tokens = r.cache_write_tokens + excluded.cache_write_tokens,
    output_tokens = r.output_tokens + excluded.output_tokens,
    reasoning_tokens = r.reasoning_tokens + excluded.reasoning_tokens,
    input_audio_tokens = r.input_audio_tokens + excluded.input_audio_tokens,
    output_audio_tokens = r.output_audio_tokens + excluded.output_audio_tokens,
    cost_nanos = r.cost_nanos + excluded.cost_nanos;
  FOR v_sum IN
    SELECT s.*, b.limit_nanos, b.alert_percents
    FROM (
      SELECT e.org_id, c.budget_id, c.subject_id, c.start_time, sum(e.cost_nanos)::bigint AS cost_nanos,
             sum(e.reserved_nanos)::bigint AS reserved_nanos
      FROM ledger_entries e
      CROSS JOIN LATERAL counting_budgets(e.workspace_id, e.user_id, coalesce(e.key_root_id, e.key_id), e.run_time,
                                          e.own_key) c
      WHERE e.id = ANY (p_ids)
      GROUP BY e.org_id, c.budget_id, c.subject_id, c.start_time) s
    JOIN budgets b ON b.org_id = s.org_id AND b.id = s.budget_id
    ORDER BY s.budget_id, s.subject_id, s.start_time
    FOR KEY SHARE OF b
  LOOP
    INSERT INTO budget_windows AS w (org_id, budget_id, subject_id, start_time, settled_nanos, reserved_nanos,
                                     alerted_percent)
    VALUES (v_sum.org_id, v_sum.budget_id, v_sum.subject_id, v_sum.start_time, v_sum.cost_nanos,
            greatest(v_sum.reserved_nanos, 0), 0)
    ON CONFLICT (org_id, budget_id, subject_id, start_time) DO UPDATE SET
      settled_nanos = w.settled_nanos + v_sum.cost_nanos,
      reserved_nanos = w.reserved_nanos + v_sum.reserved_nanos
    RETURNING w.settled_nanos, w.alerted_percent INTO v_settled, v_alerted;
    IF v_sum.cost_nanos > 0 THEN
      SELECT max(p) INTO v_percent FROM unnest(v_sum.alert_percents) p
      WHERE v_settled::numeric * 100 >= v_sum.limit_nanos::numeric * p;
      IF v_percent > v_alerted THEN
        UPDATE budget_windows SET alerted_percent = v_percent
        WHERE org_id = v_sum.org_id AND budget_id = v_sum.budget_id AND subject_id = v_sum.subject_id
          AND start_time = v_sum.start_time;
        PERFORM procrastinate_defer_jobs_v1(ARRAY[ROW(
          'default', 'budgets.alert', 0, NULL, NULL,
          jsonb_build_object('org_id', v_sum.org_id, 'budget_id', v_sum.budget_id, 'subject_id', v_sum.subject_id,
                             'start_time', v_sum.start_time, 'percent', v_percent::text),
          NULL)::procrastinate_job_to_defer_v1]);
      END IF;
    END IF;
  END LOOP;
END $$;
"""

# Ends reservations of any runs of the organization, each once: with what an attempt used, or for nothing. Returns
# whether it ended one.
END = """
CREATE FUNCTION end_attempts(p_org_id uuid, p_settlements jsonb, p_time timestamptz) RETURNS boolean
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  v_ids uuid[];
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || p_org_id, 0));
  WITH given AS (
    SELECT * FROM jsonb_to_recordset(p_settlements) AS g(
      id uuid, run_id uuid, attempt integer, kind text, input_tokens bigint, cached_input_tokens bigint,
      cache_write_tokens bigint, output_tokens bigint, reasoning_tokens bigint, input_audio_tokens bigint,
      output_audio_tokens bigint, estimated boolean, above_limit boolean, nanos bigint, currency text, version text)
  ), ended AS (
    INSERT INTO ledger_entries (
      org_id, workspace_id, conversation_id, run_id, run_time, user_id, key_id, key_root_id, request_id, id, kind,
      attempt, model, own_key, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
      input_audio_tokens, output_audio_tokens, estimated, above_limit, reserved_nanos, cost_nanos, currency,
      price_version, create_time)
    SELECT e.org_id, e.workspace_id, e.conversation_id, e.run_id, e.run_time, e.user_id, e.key_id, e.key_root_id,
           e.request_id, g.id, g.kind, e.attempt, e.model, e.own_key, g.input_tokens, g.cached_input_tokens,
           g.cache_write_tokens, g.output_tokens, g.reasoning_tokens, g.input_audio_tokens, g.output_audio_tokens,
           g.estimated, g.above_limit, -e.reserved_nanos, g.nanos, g.currency, g.version, p_time
    FROM given g
    JOIN ledger_entries e
      ON e.org_id = p_org_id AND e.run_id = g.run_id AND e.attempt = g.attempt AND e.kind = 'reserve'
    ORDER BY e.run_id, e.attempt
    ON CONFLICT (org_id, run_id, attempt) WHERE kind IN ('settle', 'release') DO NOTHING
    RETURNING id
  )
  SELECT array_agg(id) INTO v_ids FROM ended;
  IF v_ids IS NULL THEN
    RETURN false;
  END IF;
  PERFORM count_entries(v_ids);
  RETURN true;
END $$;
"""

# The ends of runs, each of an organization: their attempts are settled and their claims closed, except for the claim of
# a run with reservations of others, which first have to be settled too. Returns those. Several runs do not wait long
# for a lock that keeps one of them: they are ended one by one then.
CLOSE = """
CREATE FUNCTION end_runs(p_org_ids uuid[], p_run_ids uuid[], p_settlements jsonb, p_time timestamptz)
RETURNS TABLE (run_id uuid, attempt integer, model text, create_time timestamptz)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_org_id uuid;
  v_run_ids uuid[];
  v_open uuid[] := '{}';
BEGIN
  IF cardinality(p_run_ids) > 1 THEN
    PERFORM set_config('lock_timeout', '100ms', true);
  END IF;
  FOR v_org_id, v_run_ids IN
    SELECT g.org_id, array_agg(g.run_id) FROM unnest(p_org_ids, p_run_ids) AS g(org_id, run_id)
    GROUP BY g.org_id ORDER BY g.org_id
  LOOP
    PERFORM set_config('app.org_id', v_org_id::text, true), set_config('app.user_id', '', true),
            set_config('TimeZone', 'UTC', true);
    PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || v_org_id, 0));
    PERFORM FROM run_claims c WHERE c.org_id = v_org_id AND c.run_id = ANY (v_run_ids) ORDER BY c.run_id FOR UPDATE;
    PERFORM end_attempts(v_org_id, p_settlements, p_time);
    FOR run_id, attempt, model, create_time IN
      SELECT e.run_id, e.attempt, e.model, e.create_time FROM ledger_entries e
      WHERE e.org_id = v_org_id AND e.run_id = ANY (v_run_ids) AND e.kind = 'reserve' AND NOT EXISTS (
        SELECT FROM ledger_entries x WHERE x.org_id = e.org_id AND x.run_id = e.run_id AND x.attempt = e.attempt
          AND x.kind IN ('settle', 'release'))
      ORDER BY e.run_id, e.attempt
    LOOP
      v_open := v_open || run_id;
      RETURN NEXT;
    END LOOP;
    UPDATE run_claims c SET state = 'closed'
    WHERE c.org_id = v_org_id AND c.run_id = ANY (v_run_ids) AND c.run_id <> ALL (v_open) AND c.state = 'open';
  END LOOP;
END $$;
"""

FUNCTIONS = ("end_attempts(uuid, jsonb, timestamptz)", "end_runs(uuid[], uuid[], jsonb, timestamptz)")


def upgrade() -> None:
    for part in (COUNT, END, CLOSE):
        op.execute(part)
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")


def downgrade() -> None:
    for function in reversed(FUNCTIONS):  # the release before works with count_entries as it is
        op.execute(f"DROP FUNCTION {function}")
