"""Versions that have ended know whether their document was deleted: what answers quote of it goes, too."""

from alembic import op

revision = "0020"
down_revision = "0019"


def upgrade() -> None:
    op.execute("ALTER TABLE document_versions ADD COLUMN deleted_document_id uuid")
