"""Alembic's environment: migrates over the connection that the caller hands in. Without one it writes the SQL."""

from typing import Any

from alembic import context
from alembic.runtime.migration import MigrationContext

from aiworkspace_server.compatibility import declare
from aiworkspace_server.tables import metadata


def applied(*, ctx: MigrationContext, step: Any, **_: Any) -> None:
    declare(context.script, ctx, step.up_revision_id)


connection = context.config.attributes.get("connection")
on_paper = {"dialect_name": "postgresql", "literal_binds": True}
where: dict[str, Any] = {"connection": connection} if connection else on_paper
context.configure(**where, target_metadata=metadata, transaction_per_migration=True, on_version_apply=applied)
with context.begin_transaction():
    context.run_migrations()
