"""For migrations that change many rows: in batches, each of which is committed, while servers work on the table."""

import structlog
from alembic import op

log = structlog.get_logger("migrate")

_LOGGED = 100  # batches


def change_in_batches(table: str, statement: str) -> None:
    """Run a statement until it changes no more rows of the table, each time in a transaction of its own.

    The statement changes a bounded number of rows, and finds by what they hold those that it has not changed: so a
    migration that was interrupted goes on where it stopped. Servers of the release before write rows meanwhile, of the
    old kind: a trigger, a default or the readers of the column take care of those.
    """
    with op.get_context().autocommit_block():
        connection, count = op.get_bind(), 0
        connection.exec_driver_sql("SET lock_timeout = '3s'")
        # Row-level security is forced on the owner, too. It stays in force for the server, which owns no table.
        connection.exec_driver_sql(f"ALTER TABLE {table} NO FORCE ROW LEVEL SECURITY")
        try:
            while connection.exec_driver_sql(statement).rowcount:
                count += 1
                if count % _LOGGED == 0:
                    log.info("rows_changed", table=table, batches=count)
        finally:
            connection.exec_driver_sql(f"ALTER TABLE {table} FORCE ROW LEVEL SECURITY")
            connection.exec_driver_sql("RESET lock_timeout")
