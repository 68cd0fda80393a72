"""What is remembered of an address whose account was deleted or has another one: how many organizations it made."""

from alembic import op

revision = "0011"
down_revision = "0010"

FORMER_ADDRESSES = """
CREATE TABLE former_addresses (
  address_hash bytea PRIMARY KEY,
  created_org_count bigint NOT NULL,
  update_time timestamptz NOT NULL
);
GRANT SELECT, INSERT, UPDATE, DELETE ON former_addresses TO aiworkspace_app;
"""


def upgrade() -> None:
    op.execute(FORMER_ADDRESSES)
