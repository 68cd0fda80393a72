"""Documents, their bytes, collections and uploads."""

from alembic import op

revision = "0015"
down_revision = "0014"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"

# What an organization uses and has reserved for uploads that are not finished.
USAGE = """
CREATE TABLE document_usage (
  org_id uuid PRIMARY KEY REFERENCES orgs,
  size_bytes bigint NOT NULL CHECK (size_bytes >= 0),
  document_count bigint NOT NULL CHECK (document_count >= 0)
);
"""

# Equal bytes are kept once in an organization. The id of a blob is that of the upload that brought it.
DOCUMENTS = """
CREATE TABLE blobs (
  org_id uuid NOT NULL REFERENCES orgs,
  id uuid NOT NULL,
  sha256 bytea NOT NULL CHECK (length(sha256) = 32),
  size_bytes bigint NOT NULL CHECK (size_bytes > 0),
  create_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id),
  UNIQUE (org_id, sha256)
);
CREATE TABLE documents (
  org_id uuid NOT NULL,
  id uuid NOT NULL UNIQUE,
  workspace_id uuid NOT NULL,
  user_id uuid NOT NULL,
  blob_id uuid NOT NULL,
  name text NOT NULL,
  version bigint NOT NULL,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id),
  FOREIGN KEY (org_id, blob_id) REFERENCES blobs (org_id, id)
);
CREATE INDEX documents_workspace ON documents (org_id, workspace_id, id);
CREATE INDEX documents_blob ON documents (org_id, blob_id);
CREATE TABLE collections (
  org_id uuid NOT NULL,
  id uuid NOT NULL UNIQUE,
  workspace_id uuid NOT NULL,
  name text NOT NULL,
  description text NOT NULL,
  version bigint NOT NULL,
  create_time timestamptz NOT NULL,
  update_time timestamptz NOT NULL,
  PRIMARY KEY (org_id, id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id)
);
CREATE INDEX collections_workspace ON collections (org_id, workspace_id, id);
CREATE TABLE collection_documents (
  org_id uuid NOT NULL,
  collection_id uuid NOT NULL,
  document_id uuid NOT NULL,
  PRIMARY KEY (org_id, collection_id, document_id),
  FOREIGN KEY (org_id, collection_id) REFERENCES collections (org_id, id) ON DELETE CASCADE,
  FOREIGN KEY (org_id, document_id) REFERENCES documents (org_id, id) ON DELETE CASCADE
);
CREATE INDEX collection_documents_document ON collection_documents (org_id, document_id);
"""

# stream_id is the stream that writes. document_id is set when the upload is finished, end_time when it was given up:
# what a stream stored of it afterwards is deleted with the row.
UPLOADS = """
CREATE TABLE uploads (
  org_id uuid NOT NULL,
  id uuid NOT NULL UNIQUE,
  workspace_id uuid NOT NULL,
  user_id uuid NOT NULL,
  name text NOT NULL,
  size_bytes bigint NOT NULL CHECK (size_bytes > 0),
  sha256 bytea NOT NULL CHECK (length(sha256) = 32),
  collection_ids uuid[] NOT NULL,
  stream_id uuid,
  document_id uuid,
  create_time timestamptz NOT NULL,
  expire_time timestamptz NOT NULL,
  end_time timestamptz,
  PRIMARY KEY (org_id, id),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id),
  FOREIGN KEY (org_id, document_id) REFERENCES documents (org_id, id) ON DELETE CASCADE
);
CREATE INDEX uploads_document ON uploads (org_id, document_id);
CREATE INDEX uploads_workspace ON uploads (org_id, workspace_id);
CREATE INDEX uploads_user ON uploads (user_id, org_id);
CREATE INDEX uploads_expire_time ON uploads (expire_time) WHERE end_time IS NULL;
CREATE INDEX uploads_end_time ON uploads (end_time) WHERE end_time IS NOT NULL;
"""

GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON document_usage, blobs, documents, collections, collection_documents, uploads
  TO aiworkspace_app;
GRANT SELECT ON documents, collections, uploads TO aiworkspace_lookup;
"""

# As in the first migration: each answers one question that comes before a tenant is known, and no other.
LOOKUPS = """
CREATE FUNCTION find_document(p_id uuid) RETURNS TABLE (org_id uuid, workspace_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT d.org_id, d.workspace_id FROM documents d WHERE d.id = p_id
$$;
CREATE FUNCTION find_collection(p_id uuid) RETURNS TABLE (org_id uuid, workspace_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT c.org_id, c.workspace_id FROM collections c WHERE c.id = p_id
$$;
CREATE FUNCTION find_upload(p_id uuid, p_user_id uuid) RETURNS TABLE (org_id uuid, workspace_id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT u.org_id, u.workspace_id FROM uploads u WHERE u.id = p_id AND u.user_id = p_user_id AND u.end_time IS NULL
$$;
CREATE FUNCTION list_expired_uploads(p_before timestamptz, p_limit integer) RETURNS TABLE (org_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT u.org_id, u.id FROM uploads u WHERE u.end_time IS NULL AND u.expire_time < p_before LIMIT p_limit
$$;
CREATE FUNCTION list_ended_uploads(p_before timestamptz, p_limit integer) RETURNS TABLE (org_id uuid, id uuid)
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT u.org_id, u.id FROM uploads u WHERE u.end_time < p_before LIMIT p_limit
$$;
CREATE FUNCTION list_upload_orgs(p_user_id uuid) RETURNS SETOF uuid
LANGUAGE sql STABLE SECURITY DEFINER SET search_path = public, pg_temp AS $$
  SELECT DISTINCT u.org_id FROM uploads u WHERE u.user_id = p_user_id
$$;
"""
TABLES = ("document_usage", "blobs", "documents", "collections", "collection_documents", "uploads")
FUNCTIONS = (
    "find_document(uuid)",
    "find_collection(uuid)",
    "find_upload(uuid, uuid)",
    "list_expired_uploads(timestamptz, integer)",
    "list_ended_uploads(timestamptz, integer)",
    "list_upload_orgs(uuid)",
)


def upgrade() -> None:
    for part in (USAGE, DOCUMENTS, UPLOADS, GRANTS, LOOKUPS):
        op.execute(part)
    for table in TABLES:
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING (org_id = {TENANT})")
    for table in ("documents", "collections", "uploads"):
        op.execute(f"CREATE POLICY lookup ON {table} FOR SELECT TO aiworkspace_lookup USING (true)")
    op.execute("GRANT CREATE ON SCHEMA public TO aiworkspace_lookup")  # PostgreSQL asks this of a function's new owner
    for function in FUNCTIONS:
        op.execute(f"REVOKE ALL ON FUNCTION {function} FROM PUBLIC")
        op.execute(f"GRANT EXECUTE ON FUNCTION {function} TO aiworkspace_app")
        op.execute(f"ALTER FUNCTION {function} OWNER TO aiworkspace_lookup")
    op.execute("REVOKE CREATE ON SCHEMA public FROM aiworkspace_lookup")
