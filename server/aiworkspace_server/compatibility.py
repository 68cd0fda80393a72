"""Which servers a schema of PostgreSQL works with: what migrations declare, and what the database keeps of it."""

import re

from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

# In a comment, which every role reads, needs no table before the first migration, and is committed with the revision.
_DECLARE = "COMMENT ON TABLE alembic_version IS 'works with servers from {}'"
_DECLARED = text("SELECT obj_description(to_regclass('alembic_version'), 'pg_class')")


def oldest_server(scripts: ScriptDirectory, revision: str) -> str:
    """Return the oldest schema whose servers work with that of a revision.

    A migration works with servers that have it and, if it declares `compatible_with`, with those from that revision on.
    """
    chain = [script for script in scripts.walk_revisions("base", revision)][::-1]
    order = {script.revision: position for position, script in enumerate(chain)}
    declared = (getattr(script.module, "compatible_with", script.revision) for script in chain)
    return max(declared, key=lambda oldest: order[oldest])


def declare(scripts: ScriptDirectory, ctx: MigrationContext, revision: str) -> None:
    """Keep in the database, with the revision that is being applied, which servers it works with."""
    ctx.execute(_DECLARE.format(oldest_server(scripts, revision)))


def declared(connection: Connection) -> str:
    """Return the oldest schema whose servers work with this database; empty if nothing is declared."""
    found = re.fullmatch("works with servers from (.+)", connection.scalar(_DECLARED) or "")
    return found[1] if found else ""
