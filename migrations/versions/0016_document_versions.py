"""Versions of documents, and the steps in which each is read."""

from alembic import op

revision = "0016"
down_revision = "0015"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"

# A version is one set of bytes and what was read of them. An ended version is a tombstone without a document, and stays
# until everything that was stored of it is erased. claim_id belongs to whoever works on a step.
VERSIONS = """
CREATE TABLE document_versions (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  document_id uuid,
  number integer NOT NULL,
  blob_id uuid,
  state text NOT NULL CHECK (state IN ('processing', 'ready', 'failed', 'ended')),
  step text NOT NULL,
  reason text,
  due_time timestamptz NOT NULL,
  claim_id uuid,
  media_type text NOT NULL,
  text_id uuid,
  language text NOT NULL,
  text_length bigint NOT NULL,
  page_count integer NOT NULL,
  unread_pages integer[] NOT NULL,
  chunk_count integer NOT NULL,
  create_time timestamptz NOT NULL,
  end_time timestamptz,
  PRIMARY KEY (org_id, id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id),
  FOREIGN KEY (org_id, document_id) REFERENCES documents (org_id, id),
  FOREIGN KEY (org_id, blob_id) REFERENCES blobs (org_id, id),
  CHECK ((state = 'ended') = (end_time IS NOT NULL)),
  CHECK ((state = 'ended') = (document_id IS NULL)),
  CHECK ((state = 'ended') = (blob_id IS NULL))
);
CREATE INDEX document_versions_document ON document_versions (org_id, document_id, number);
CREATE INDEX document_versions_blob ON document_versions (org_id, blob_id);
CREATE INDEX document_versions_due ON document_versions (org_id, due_time) WHERE state = 'processing';
CREATE INDEX document_versions_due_time ON document_versions (due_time) WHERE state = 'processing';
CREATE INDEX document_versions_end_time ON document_versions (end_time) WHERE state = 'ended';
CREATE TABLE document_steps (
  org_id uuid NOT NULL,
  version_id uuid NOT NULL,
  step text NOT NULL,
  attempt_count integer NOT NULL,
  start_time timestamptz NOT NULL,
  end_time timestamptz,
  reason text,
  fraction real NOT NULL CHECK (fraction BETWEEN 0 AND 1),
  PRIMARY KEY (org_id, version_id, step),
  FOREIGN KEY (org_id, version_id) REFERENCES document_versions (org_id, id) ON DELETE CASCADE
);
"""

# The bytes belong to versions now. Documents that exist are read from the beginning.
DOCUMENTS = (
    "ALTER TABLE documents NO FORCE ROW LEVEL SECURITY",  # the owner of the tables may be a plain login
    """
    INSERT INTO document_versions (org_id, id, workspace_id, document_id, number, blob_id, state, step, due_time,
                                   media_type, language, text_length, page_count, unread_pages, chunk_count,
                                   create_time)
    SELECT org_id, gen_random_uuid(), workspace_id, id, 1, blob_id, 'processing', 'checked', create_time,
           '', '', 0, 0, '{}', 0, create_time
    FROM documents
    """,
    """
    INSERT INTO document_steps (org_id, version_id, step, attempt_count, start_time, end_time, fraction)
    SELECT org_id, id, 'received', 1, create_time, create_time, 1 FROM document_versions
    """,
    "ALTER TABLE documents ADD COLUMN latest_version_id uuid, ADD COLUMN ready_version_id uuid",
    """
    UPDATE documents d SET latest_version_id = v.id
    FROM document_versions v WHERE v.org_id = d.org_id AND v.document_id = d.id
    """,
    "ALTER TABLE documents ALTER COLUMN latest_version_id SET NOT NULL, DROP COLUMN blob_id, FORCE ROW LEVEL SECURITY",
    "ALTER TABLE uploads ADD COLUMN replaces_id uuid",
)

# Embedding a version is an entry's run, too.
LEDGER = "ALTER TABLE ledger_entries DROP CONSTRAINT ledger_entries_org_id_run_id_fkey"

GRANTS = "GRANT SELECT, INSERT, UPDATE, DELETE ON document_versions, document_steps TO aiworkspace_app"
LOOKUP_GRANT = "GRANT SELECT ON document_versions TO aiworkspace_lookup"

LOOKUPS = """
CREATE FUNCTION list_due_orgs(p_before timestamptz, p_limit integer) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT v.org_id FROM document_versions v
  WHERE v.state = 'processing' AND v.due_time <= p_before LIMIT p_limit
$$;
CREATE FUNCTION list_ended_versions(p_before timestamptz, p_limit integer) RETURNS TABLE (org_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT v.org_id, v.id FROM document_versions v WHERE v.state = 'ended' AND v.end_time < p_before LIMIT p_limit
$$;
"""
FUNCTIONS = ("list_due_orgs(timestamptz, integer)", "list_ended_versions(timestamptz, integer)")


def upgrade() -> None:
    for statement in (VERSIONS, *DOCUMENTS, LEDGER, GRANTS, LOOKUP_GRANT, LOOKUPS):
        op.execute(statement)
    for table in ("document_versions", "document_steps"):
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING (org_id = {TENANT})")
    op.execute("CREATE POLICY lookup ON document_versions FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
