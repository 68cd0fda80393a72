"""Alembic's environment: migrates over the connection that the caller hands in."""

from alembic import context

from aiworkspace_server.tables import metadata

context.configure(
    connection=context.config.attributes["connection"], target_metadata=metadata, transaction_per_migration=True
)
with context.begin_transaction():
    context.run_migrations()
