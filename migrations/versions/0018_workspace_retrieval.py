"""Workspaces name the documents that answers are based on, and runs check the right to read them.

`read_message_context` is that of the release before, and stays for its servers. They name the columns of
`read_workspace` that they read.
"""

from alembic import op

revision = "0018"
down_revision = "0017"

# collection_ids, all_documents and max_passages; null: none.
RETRIEVAL = """
ALTER TABLE workspaces ADD COLUMN retrieval jsonb;
"""

# As in 0013 and 0012, with the retrieval.
READ = """
DROP FUNCTION read_workspace;
CREATE FUNCTION read_workspace(p_org_id uuid, p_workspace_id uuid)
RETURNS TABLE (name text, default_model text, system_prompt text, visibility text, version bigint,
               create_time timestamptz, update_time timestamptz, retrieval jsonb)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', '', true);
  RETURN QUERY
    SELECT w.name, w.default_model, w.system_prompt, w.visibility, w.version, w.create_time, w.update_time, w.retrieval
    FROM workspaces w
    WHERE w.id = p_workspace_id AND w.delete_time IS NULL;
END $$;
CREATE FUNCTION read_chat_context(p_org_id uuid, p_user_id uuid, p_workspace_id uuid, p_request_id uuid)
RETURNS TABLE (default_model text, system_prompt text, retrieval jsonb, org_policy jsonb, workspace_policy jsonb,
               keys jsonb, run_id uuid, content_hash bytea)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', '', true);
  RETURN QUERY
    SELECT w.default_model, w.system_prompt, w.retrieval,
           (SELECT policy FROM model_policies m WHERE m.org_id = p_org_id AND m.scope_id = p_org_id),
           (SELECT policy FROM model_policies m WHERE m.org_id = p_org_id AND m.scope_id = p_workspace_id),
           (SELECT jsonb_object_agg(k.provider, k.id) FROM provider_keys k WHERE k.org_id = p_org_id),
           c.run_id, c.content_hash
    FROM workspaces w
    LEFT JOIN run_claims c ON c.org_id = p_org_id AND c.user_id = p_user_id AND c.request_id = p_request_id
    WHERE w.org_id = p_org_id AND w.id = p_workspace_id AND w.delete_time IS NULL;
END $$;
"""

# may_run with document.read in place of chat.send: whether the owner of a run may read documents of its workspace, also
# with the API key that started it. Answers this one question past row-level security.
MAY_READ = """
CREATE FUNCTION may_read_documents(p_org_id uuid, p_workspace_id uuid, p_user_id uuid, p_key_id uuid,
                                   p_administering text[], p_reading text[], p_reading_inside text[]) RETURNS boolean
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT EXISTS (
    SELECT FROM memberships m
    JOIN orgs o ON o.id = m.org_id AND o.delete_time IS NULL
    JOIN workspaces w ON w.org_id = m.org_id AND w.id = p_workspace_id AND w.delete_time IS NULL
    LEFT JOIN custom_roles r ON r.org_id = m.org_id AND r.id = m.custom_role_id
    WHERE m.org_id = p_org_id AND m.user_id = p_user_id AND m.suspend_time IS NULL
      AND (m.role = ANY (p_administering) OR 'workspace.administer' = ANY (r.permissions)
        OR (w.visibility = 'org' AND (m.role = ANY (p_reading) OR 'document.read' = ANY (r.permissions)))
        OR EXISTS (
          SELECT FROM workspace_members wm
          WHERE wm.org_id = m.org_id AND wm.workspace_id = w.id AND wm.role = ANY (p_reading_inside)
            AND (wm.user_id = m.user_id OR wm.team_id IN (
              SELECT tm.team_id FROM team_members tm WHERE tm.org_id = m.org_id AND tm.user_id = m.user_id))))
      AND (p_key_id IS NULL OR EXISTS (
        SELECT FROM api_keys k
        WHERE k.org_id = m.org_id AND k.id = p_key_id AND k.user_id = m.user_id AND k.revoke_time IS NULL
          AND (k.expire_time IS NULL OR k.expire_time > clock_timestamp()) AND 'document.read' = ANY (k.permissions)
          AND (NOT k.workspaces_limited OR EXISTS (
            SELECT FROM api_key_workspaces kw
            WHERE kw.org_id = k.org_id AND kw.api_key_id = k.id AND kw.workspace_id = w.id)))))
$$;
"""
OWN = ("read_workspace", "read_chat_context", "may_read_documents")


def upgrade() -> None:
    for part in (RETRIEVAL, READ, MAY_READ):
        op.execute(part)
    for function in OWN:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    op.execute("ALTER FUNCTION may_read_documents OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
