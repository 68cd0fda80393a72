"""${message}"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
# The oldest schema whose servers work with this one: at least that of the last release. See CONTRIBUTING.md.
compatible_with = ${repr(down_revision)}


def upgrade() -> None:
    ${upgrades if upgrades else "pass"}
