"""The start and the end of a run are one statement each, which sets the tenant itself.

All functions work with the caller's privileges and under row-level security. Those that write lock in the same order:
the ledger of the organization, the claim of the run, roll-ups by model, budget windows by budget.
"""

from alembic import op

revision = "0012"
down_revision = "0011"

# The budgets that count a run, each with whose it is and the window: that in which the run began, if the budget was
# there before it ended. An allowance counts what the server's own keys are used for.
# The first key of the line of rotations that a key belongs to: budgets of keys count the whole line. A line that was
# deleted while a run of it goes on is still known from the run's first entry.
COUNTING = """
CREATE FUNCTION counting_budgets(p_workspace_id uuid, p_user_id uuid, p_key_root_id uuid, p_run_time timestamptz,
                                 p_own_key boolean)
RETURNS TABLE (budget_id uuid, subject_id uuid, start_time timestamptz) LANGUAGE sql STABLE AS $$
  SELECT b.id, counts.subject_id, counts.start_time
  FROM budgets b CROSS JOIN LATERAL (SELECT
    CASE b.scope
      WHEN 'org' THEN b.org_id
      WHEN 'workspace' THEN p_workspace_id
      WHEN 'member' THEN p_user_id
      WHEN 'allowance' THEN CASE WHEN NOT p_own_key THEN b.org_id END
      ELSE p_key_root_id END,
    date_trunc(b.period, p_run_time, 'UTC')) AS counts(subject_id, start_time)
  WHERE counts.subject_id IS NOT NULL
    AND (b.scope = 'org' OR b.subject_id IS NULL OR b.subject_id = counts.subject_id)
    AND counts.start_time >= date_trunc(b.period, b.create_time, 'UTC')
$$;
CREATE FUNCTION root_of_key(p_key_id uuid, p_run_id uuid) RETURNS uuid LANGUAGE sql STABLE AS $$
  SELECT CASE WHEN p_key_id IS NOT NULL THEN coalesce(
    (SELECT coalesce(k.root_id, k.id) FROM api_keys k WHERE k.id = p_key_id),
    (SELECT e.key_root_id FROM ledger_entries e WHERE e.run_id = p_run_id LIMIT 1),
    p_key_id) END
$$;
"""

# Returns the hard budgets that have not enough left: the caller must not commit then.
RESERVE = """
CREATE FUNCTION reserve_attempt(
  p_org_id uuid, p_workspace_id uuid, p_conversation_id uuid, p_run_id uuid, p_run_time timestamptz, p_user_id uuid,
  p_key_id uuid, p_request_id uuid, p_id uuid, p_attempt integer, p_model text, p_own_key boolean, p_nanos bigint,
  p_expected_nanos bigint, p_allowance_nanos bigint, p_currency text, p_version text, p_time timestamptz)
RETURNS TABLE (id uuid, scope text, period text, limit_nanos bigint, start_time timestamptz, settled_nanos bigint,
               reserved_nanos bigint)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_root uuid := root_of_key(p_key_id, p_run_id);
  v_budget record;
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || p_org_id, 0));
  INSERT INTO ledger_entries (
    org_id, workspace_id, conversation_id, run_id, run_time, user_id, key_id, key_root_id, request_id, id, kind,
    attempt, model, own_key, input_tokens, cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens,
    input_audio_tokens, output_audio_tokens, estimated, reserved_nanos, cost_nanos, currency, price_version,
    create_time)
  VALUES (
    p_org_id, p_workspace_id, p_conversation_id, p_run_id, p_run_time, p_user_id, p_key_id, v_root, p_request_id, p_id,
    'reserve', p_attempt, p_model, p_own_key, 0, 0, 0, 0, 0, 0, 0, false, p_nanos, 0, p_currency, p_version, p_time);
  FOR v_budget IN
    SELECT c.budget_id, c.subject_id, c.start_time, b.scope, b.period, b.hard,
           coalesce(b.limit_nanos, p_allowance_nanos) AS limit_nanos
    FROM counting_budgets(p_workspace_id, p_user_id, v_root, p_run_time, p_own_key) c
    JOIN budgets b ON b.org_id = p_org_id AND b.id = c.budget_id ORDER BY c.budget_id
    FOR KEY SHARE OF b
  LOOP
    INSERT INTO budget_windows AS w (org_id, budget_id, subject_id, start_time, settled_nanos, reserved_nanos,
                                     alerted_percent)
    VALUES (p_org_id, v_budget.budget_id, v_budget.subject_id, v_budget.start_time, 0, p_nanos, 0)
    ON CONFLICT (org_id, budget_id, subject_id, start_time)
      DO UPDATE SET reserved_nanos = w.reserved_nanos + p_nanos
    RETURNING w.settled_nanos, w.reserved_nanos INTO settled_nanos, reserved_nanos;
    IF v_budget.hard AND v_budget.limit_nanos < settled_nanos + reserved_nanos
        - (CASE v_budget.scope WHEN 'allowance' THEN greatest(p_nanos - p_expected_nanos, 0) ELSE 0 END) THEN
      id := v_budget.budget_id; scope := v_budget.scope; period := v_budget.period;
      limit_nanos := v_budget.limit_nanos; start_time := v_budget.start_time;
      RETURN NEXT;
    END IF;
  END LOOP;
END $$;
"""

# A budget that is deleted at the same time is waited for, and then left out.
# Adds entries that were just written to roll-ups and budget windows. A window that reaches another threshold is noted,
# and a job of the same transaction sends the mails.
COUNT = """
CREATE FUNCTION count_entries(p_ids uuid[]) RETURNS void
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  v_entry ledger_entries;
  v_sum record;
  v_settled bigint;
  v_alerted integer;
  v_percent integer;
BEGIN
  FOR v_entry IN
    SELECT e.* FROM ledger_entries e WHERE e.id = ANY (p_ids) AND e.kind IN ('settle', 'adjust')
    ORDER BY e.model, e.attempt
  LOOP
    INSERT INTO usage_rollups AS r (
      org_id, period, start_time, workspace_id, user_id, key_id, model, request_count, input_tokens,
      cached_input_tokens, cache_write_tokens, output_tokens, reasoning_tokens, input_audio_tokens, output_audio_tokens,
      cost_nanos)
    SELECT v_entry.org_id, p.period, date_trunc(p.period, v_entry.run_time, 'UTC'), v_entry.workspace_id,
           v_entry.user_id, coalesce(v_entry.key_id, '00000000-0000-0000-0000-000000000000'), v_entry.model,
           CASE v_entry.kind WHEN 'settle' THEN 1 ELSE 0 END, v_entry.input_tokens, v_entry.cached_input_tokens,
           v_entry.cache_write_tokens, v_entry.output_tokens, v_entry.reasoning_tokens, v_entry.input_audio_tokens,
           v_entry.output_audio_tokens, v_entry.cost_nanos
    FROM (VALUES ('day'), ('hour')) AS p(period)
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
  END LOOP;
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
    ORDER BY s.budget_id
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

# Ends reservations, each once: with what an attempt used, or for nothing. Returns the attempts that it ended.
END = """
CREATE FUNCTION end_attempts(p_org_id uuid, p_run_id uuid, p_settlements jsonb, p_time timestamptz) RETURNS integer[]
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
DECLARE
  v_ids uuid[];
  v_attempts integer[];
BEGIN
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || p_org_id, 0));
  WITH given AS (
    SELECT * FROM jsonb_to_recordset(p_settlements) AS g(
      id uuid, attempt integer, kind text, input_tokens bigint, cached_input_tokens bigint, cache_write_tokens bigint,
      output_tokens bigint, reasoning_tokens bigint, input_audio_tokens bigint, output_audio_tokens bigint,
      estimated boolean, above_limit boolean, nanos bigint, currency text, version text)
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
      ON e.org_id = p_org_id AND e.run_id = p_run_id AND e.attempt = g.attempt AND e.kind = 'reserve'
    ORDER BY e.attempt
    ON CONFLICT (org_id, run_id, attempt) WHERE kind IN ('settle', 'release') DO NOTHING
    RETURNING id, attempt
  )
  SELECT array_agg(id), array_agg(attempt) INTO v_ids, v_attempts FROM ended;
  IF v_ids IS NOT NULL THEN
    PERFORM count_entries(v_ids);
  END IF;
  RETURN coalesce(v_attempts, '{}');
END $$;
"""

# The start of a run: its claim, the caller's right to it, and its first reservation. Returns nothing when it started,
# else the earlier run of the same request_id, or a row without a run: another one is in progress in the conversation.
# Raises AW001 when the right was lost, AW002 with the budget as DETAIL when that has not enough left. See rights.py for
# why the right is checked after the lock and in a statement of its own.
START = """
CREATE FUNCTION start_run(
  p_org_id uuid, p_workspace_id uuid, p_conversation_id uuid, p_run_id uuid, p_run_time timestamptz, p_user_id uuid,
  p_key_id uuid, p_request_id uuid, p_session_id uuid, p_content_hash bytea, p_server_id uuid,
  p_administering text[], p_sending text[], p_sending_inside text[],
  p_id uuid, p_model text, p_own_key boolean, p_nanos bigint, p_expected_nanos bigint, p_allowance_nanos bigint,
  p_currency text, p_version text)
RETURNS TABLE (run_id uuid, content_hash bytea)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
DECLARE
  v_exceeded record;
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', p_user_id::text, true),
          set_config('TimeZone', 'UTC', true);
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || p_org_id, 0));
  INSERT INTO run_claims (org_id, run_id, workspace_id, conversation_id, user_id, key_id, request_id, content_hash,
                          state, server_id, create_time)
  VALUES (p_org_id, p_run_id, p_workspace_id, p_conversation_id, p_user_id, p_key_id, p_request_id, p_content_hash,
          'open', p_server_id, p_run_time)
  ON CONFLICT DO NOTHING;
  IF NOT FOUND THEN
    RETURN QUERY SELECT c.run_id, c.content_hash FROM run_claims c
                 WHERE c.user_id = p_user_id AND c.request_id = p_request_id;
    IF NOT FOUND THEN
      RETURN NEXT;
    END IF;
    RETURN;
  END IF;
  IF NOT may_run(p_org_id, p_workspace_id, p_user_id, p_key_id, p_administering, p_sending, p_sending_inside)
      OR (p_session_id IS NOT NULL AND NOT EXISTS (
        SELECT FROM sessions s WHERE s.id = p_session_id AND s.revoke_time IS NULL
          AND s.expire_time > clock_timestamp() - interval '60 seconds')) THEN
    RAISE EXCEPTION 'right_lost' USING ERRCODE = 'AW001';
  END IF;
  FOR v_exceeded IN
    SELECT r.* FROM reserve_attempt(
      p_org_id, p_workspace_id, p_conversation_id, p_run_id, p_run_time, p_user_id, p_key_id, p_request_id, p_id, 1,
      p_model, p_own_key, p_nanos, p_expected_nanos, p_allowance_nanos, p_currency, p_version, p_run_time) r
    ORDER BY r.limit_nanos - r.settled_nanos - r.reserved_nanos LIMIT 1
  LOOP
    RAISE EXCEPTION 'budget_exhausted' USING ERRCODE = 'AW002', DETAIL = to_jsonb(v_exceeded)::text;
  END LOOP;
END $$;
"""

# The end of a run: its attempts are settled and its claim is closed, unless there are reservations of others that first
# have to be settled too. Returns those.
CLOSE = """
CREATE FUNCTION end_run(p_org_id uuid, p_run_id uuid, p_settlements jsonb, p_time timestamptz)
RETURNS TABLE (attempt integer, model text, create_time timestamptz)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', '', true),
          set_config('TimeZone', 'UTC', true);
  PERFORM pg_advisory_xact_lock_shared(hashtextextended('ledger ' || p_org_id, 0));
  PERFORM FROM run_claims c WHERE c.org_id = p_org_id AND c.run_id = p_run_id FOR UPDATE;
  PERFORM end_attempts(p_org_id, p_run_id, p_settlements, p_time);
  RETURN QUERY
    SELECT e.attempt, e.model, e.create_time FROM ledger_entries e
    WHERE e.org_id = p_org_id AND e.run_id = p_run_id AND e.kind = 'reserve' AND NOT EXISTS (
      SELECT FROM ledger_entries x WHERE x.org_id = e.org_id AND x.run_id = e.run_id AND x.attempt = e.attempt
        AND x.kind IN ('settle', 'release'))
    ORDER BY e.attempt;
  IF NOT FOUND THEN
    UPDATE run_claims c SET state = 'closed' WHERE c.org_id = p_org_id AND c.run_id = p_run_id AND c.state = 'open';
  END IF;
END $$;
"""

# What a message needs to know of its workspace: its defaults, the policies that hold in it, the organization's keys at
# providers, and the run of an earlier request with this id.
CONTEXT = """
CREATE FUNCTION read_message_context(p_org_id uuid, p_user_id uuid, p_workspace_id uuid, p_request_id uuid)
RETURNS TABLE (default_model text, system_prompt text, org_policy jsonb, workspace_policy jsonb, keys jsonb,
               run_id uuid, content_hash bytea)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', '', true);
  RETURN QUERY
    SELECT w.default_model, w.system_prompt,
           (SELECT policy FROM model_policies m WHERE m.org_id = p_org_id AND m.scope_id = p_org_id),
           (SELECT policy FROM model_policies m WHERE m.org_id = p_org_id AND m.scope_id = p_workspace_id),
           (SELECT jsonb_object_agg(k.provider, k.id) FROM provider_keys k WHERE k.org_id = p_org_id),
           c.run_id, c.content_hash
    FROM workspaces w
    LEFT JOIN run_claims c ON c.org_id = p_org_id AND c.user_id = p_user_id AND c.request_id = p_request_id
    WHERE w.org_id = p_org_id AND w.id = p_workspace_id AND w.delete_time IS NULL;
END $$;
"""

FUNCTIONS = (
    "counting_budgets", "root_of_key", "reserve_attempt", "count_entries", "end_attempts", "start_run", "end_run",
    "read_message_context",
)  # fmt: skip


def upgrade() -> None:
    for part in (COUNTING, RESERVE, COUNT, END, START, CLOSE, CONTEXT):
        op.execute(part)
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
