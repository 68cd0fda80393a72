"""The queue of background jobs, as the library that works on it defines it.

Its tables belong to no tenant: a job has ids for arguments, and reads as its tenant what it is about.
"""

from alembic import op
from procrastinate.schema import SchemaManager

revision = "0003"
down_revision = "0002"

# Its functions work with the caller's privileges, so these are all that the server can do.
GRANTS = """
GRANT SELECT, INSERT, UPDATE, DELETE ON procrastinate_jobs, procrastinate_periodic_defers, procrastinate_workers
  TO aiworkspace_app;
GRANT SELECT, INSERT ON procrastinate_events TO aiworkspace_app;
GRANT USAGE ON SEQUENCE procrastinate_jobs_id_seq, procrastinate_periodic_defers_id_seq, procrastinate_events_id_seq
  TO aiworkspace_app;
"""


def upgrade() -> None:
    op.get_bind().exec_driver_sql(SchemaManager.get_schema().replace("%", "%%"))
    op.execute(GRANTS)
