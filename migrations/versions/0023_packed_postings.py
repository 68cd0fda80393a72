"""Postings of a lexeme are packed over the versions of a workspace."""

from alembic import op

revision = "0023"
down_revision = "0022"

TENANT = "nullif(current_setting('app.org_id', true), '')::uuid"

# A version that has postings is in one of two tables: in search_versions while it answers, else in hidden_versions.
# Its chunks have the numbers from first_chunk on in the workspace.
NUMBERS = """
LOCK TABLE postings, search_versions;
ALTER TABLE search_versions NO FORCE ROW LEVEL SECURITY, ADD COLUMN first_chunk bigint;
UPDATE search_versions v SET first_chunk = n.first_chunk
FROM (SELECT org_id, version_id, sum(chunk_count) OVER (PARTITION BY org_id, workspace_id ORDER BY serial)
        - chunk_count AS first_chunk FROM search_versions) n
WHERE n.org_id = v.org_id AND n.version_id = v.version_id;
ALTER TABLE search_versions ALTER first_chunk SET NOT NULL, DROP COLUMN serial,
  ADD UNIQUE (org_id, workspace_id, first_chunk);
CREATE TABLE hidden_versions (
  org_id uuid NOT NULL,
  version_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  first_chunk bigint NOT NULL,
  chunk_count integer NOT NULL,
  posted_count integer NOT NULL,
  PRIMARY KEY (org_id, version_id),
  UNIQUE (org_id, workspace_id, first_chunk),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id)
);
"""

# Each occurrence is one integer: the chunk's number in the workspace (39 bits), how often it has the lexeme (8 bits),
# and how many lexemes it has (16 bits). All are of chunks from first_chunk to last_chunk, and of less than 131,072
# numbers. No index has the last two columns, so that a row that grows stays where it is if its page has room.
POSTINGS = """
CREATE TABLE packed_postings (
  org_id uuid NOT NULL,
  workspace_id uuid NOT NULL,
  lexeme text COLLATE "C" NOT NULL,
  first_chunk bigint NOT NULL,
  last_chunk bigint NOT NULL,
  occurrences bigint[] NOT NULL,
  PRIMARY KEY (org_id, workspace_id, lexeme, first_chunk),
  FOREIGN KEY (org_id, workspace_id) REFERENCES workspaces (org_id, id)
) WITH (fillfactor = 85);
ALTER TABLE postings NO FORCE ROW LEVEL SECURITY;
"""

# Postings of versions that do not answer are left out: the step that writes them begins again.
PACKED = """
INSERT INTO packed_postings (org_id, workspace_id, lexeme, first_chunk, last_chunk, occurrences)
SELECT org_id, workspace_id, lexeme, min(occurrence >> 24), max(occurrence >> 24),
       array_agg(occurrence ORDER BY occurrence)
FROM (
  SELECT org_id, workspace_id, lexeme, span, occurrence,
         (row_number() OVER (PARTITION BY org_id, workspace_id, lexeme, span ORDER BY occurrence) - 1) / 128 AS part
  FROM (
    SELECT p.org_id, p.workspace_id, p.lexeme, (v.first_chunk + p.block * 128 + (o >> 24)) / 131072 AS span,
           (v.first_chunk + p.block * 128 + (o >> 24)) << 24 | (o & 16777215) AS occurrence
    FROM postings p JOIN search_versions v ON v.org_id = p.org_id AND v.version_id = p.version_id,
      unnest(p.occurrences) o
  ) numbered
) parted
GROUP BY org_id, workspace_id, lexeme, span, part;
DROP TABLE postings;
ALTER TABLE packed_postings RENAME TO postings;
ALTER INDEX packed_postings_pkey RENAME TO postings_pkey;
ALTER TABLE search_versions FORCE ROW LEVEL SECURITY;
ANALYZE postings, search_versions;
"""


def upgrade() -> None:
    for part in (NUMBERS, POSTINGS, PACKED):
        op.execute(part)
    for table in ("hidden_versions", "postings"):
        op.execute(f"GRANT SELECT, INSERT, UPDATE, DELETE ON {table} TO aiworkspace_app")
        op.execute(f"ALTER TABLE {table} ENABLE ROW LEVEL SECURITY")
        op.execute(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
        op.execute(f"CREATE POLICY tenant ON {table} TO aiworkspace_app USING (org_id = {TENANT})")
