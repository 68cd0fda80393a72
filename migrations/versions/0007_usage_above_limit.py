"""Ledger entries of which the provider counted more than the request allowed are marked."""

from alembic import op

revision = "0007"
down_revision = "0006"


def upgrade() -> None:
    op.execute("ALTER TABLE ledger_entries ADD COLUMN above_limit boolean NOT NULL DEFAULT false")
