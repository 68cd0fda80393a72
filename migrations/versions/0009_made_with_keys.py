"""What was made with an API key, and one open invitation per address of an organization."""

from alembic import op

revision = "0009"
down_revision = "0008"

# creator_key_id is that of the API key with which something was made, and no foreign key: what was made may outlive it.
ORIGINS = """
ALTER TABLE api_keys ADD COLUMN creator_key_id uuid;
ALTER TABLE memberships ADD COLUMN creator_key_id uuid;
ALTER TABLE invitations ADD COLUMN creator_key_id uuid;
CREATE INDEX api_keys_creator_key ON api_keys (org_id, creator_key_id) WHERE creator_key_id IS NOT NULL;
CREATE INDEX memberships_creator_key ON memberships (org_id, creator_key_id) WHERE creator_key_id IS NOT NULL;
CREATE INDEX invitations_creator_key ON invitations (org_id, creator_key_id) WHERE creator_key_id IS NOT NULL;
"""

# Of several open invitations of one address the latest stays.
INVITATIONS = """
ALTER TABLE invitations NO FORCE ROW LEVEL SECURITY;
UPDATE invitations i SET revoke_time = now()
WHERE accept_time IS NULL AND revoke_time IS NULL AND EXISTS (
  SELECT FROM invitations later
  WHERE later.org_id = i.org_id AND later.email = i.email AND later.id > i.id
    AND later.accept_time IS NULL AND later.revoke_time IS NULL);
ALTER TABLE invitations FORCE ROW LEVEL SECURITY;
CREATE UNIQUE INDEX invitations_open ON invitations (org_id, email) WHERE accept_time IS NULL AND revoke_time IS NULL;
"""


def upgrade() -> None:
    op.execute(ORIGINS)
    op.execute(INVITATIONS)
