"""A workspace is read with one statement, which sets the tenant itself.

It works with the caller's privileges and under row-level security, like the functions of 0012. Row-level security
alone keeps it to the organization: there is no comparison with org_id that could stand in for it.
"""

from alembic import op

revision = "0013"
down_revision = "0012"

READ = """
CREATE FUNCTION read_workspace(p_org_id uuid, p_workspace_id uuid)
RETURNS TABLE (name text, default_model text, system_prompt text, visibility text, version bigint,
               create_time timestamptz, update_time timestamptz)
LANGUAGE plpgsql SET search_path = public, pg_temp AS $$
#variable_conflict use_column
BEGIN
  PERFORM set_config('app.org_id', p_org_id::text, true), set_config('app.user_id', '', true);
  RETURN QUERY
    SELECT w.name, w.default_model, w.system_prompt, w.visibility, w.version, w.create_time, w.update_time
    FROM workspaces w
    WHERE w.id = p_workspace_id AND w.delete_time IS NULL;
END $$;
"""


def upgrade() -> None:
    op.execute(READ)
    op.execute("REVOKE ALL ON FUNCTION read_workspace FROM PUBLIC")
    op.execute("GRANT EXECUTE ON FUNCTION read_workspace TO aiworkspace_app")


def downgrade() -> None:
    op.execute("DROP FUNCTION read_workspace")
