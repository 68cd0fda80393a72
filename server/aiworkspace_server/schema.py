"""What a server needs of its databases: the schema, and a login that row-level security applies to."""

import structlog
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, Row, text
from sqlalchemy.exc import OperationalError

from .compatibility import declared
from .kit.mongo import Mongo
from .kit.postgres import APP_ROLE, Database
from .migrate import alembic_config, mongo_migrations

log = structlog.get_logger("schema")

_LOGIN = text("""
SELECT r.rolsuper OR r.rolbypassrls AS unbound,
       r.rolname = :app AS is_app,
       pg_has_role(r.oid, 'aiworkspace_app', 'USAGE') AS acts_as_app,
       EXISTS (SELECT FROM pg_class c WHERE c.relrowsecurity AND c.relowner = r.oid) AS owns,
       (SELECT rolsuper OR rolbypassrls OR rolcreaterole FROM pg_roles WHERE rolname = session_user) AS strong
FROM pg_roles r WHERE r.rolname = current_user
""")
_POOLER = "DATABASE_URL leads to a pooler: set DATABASE_DIRECT_URL to the address of PostgreSQL itself."


class SchemaError(Exception):
    """The schema or the server's role is not as this server needs it."""


async def check_schema(db: Database, *, embedded: bool) -> None:
    """Raise SchemaError unless PostgreSQL has a schema for this server and row-level security applies to it."""
    try:
        async with db.engine.connect() as connection:
            await connection.run_sync(_check_revision)
            login = (await connection.execute(_LOGIN, {"app": APP_ROLE})).one()
    except OperationalError as error:
        if f'role "{APP_ROLE}" does not exist' in str(error):
            raise SchemaError("The database has not been migrated: run the migrate command.") from None
        if "unsupported startup parameter" in str(error):
            raise SchemaError(_POOLER) from None
        raise
    _check_login(login, pooled=db.pooled)
    if login.strong and not embedded:
        log.warning("database_login_too_powerful", advice="use a login that is only a member of aiworkspace_app")


def _check_revision(connection: Connection) -> None:
    """Raise SchemaError unless the schema is this server's own, or a newer one that declares itself compatible."""
    scripts = ScriptDirectory.from_config(alembic_config())
    head, own = scripts.get_current_head(), {script.revision for script in scripts.walk_revisions()}
    present = MigrationContext.configure(connection).get_current_revision()
    if present == head:
        return
    if present is None or present in own:
        raise SchemaError(f"The database is at {present or 'no revision'}, not at {head}: run the migrate command.")
    if (oldest := declared(connection)) not in own:
        works = f"works with servers from {oldest} on" if oldest else "does not say which servers it works with"
        raise SchemaError(f"The database is at {present} and {works}, not with {head}: start a newer server.")
    log.info("schema_newer", revision=present, own=head, works_with_servers_from=oldest)


async def check_documents(mongo: Mongo) -> None:
    """Raise SchemaError unless MongoDB has every migration of this server, and others only that are compatible."""
    own = set(mongo_migrations())
    done = {record["_id"]: record async for record in mongo.database["migrations"].find()}
    if missing := own - done.keys():
        raise SchemaError(f"MongoDB lacks the migration {min(missing)}: run the migrate command.")
    for name in sorted(done.keys() - own):
        if done[name].get("compatible_with") not in own:
            raise SchemaError(f"MongoDB has {name}, with which this server cannot work: start a newer server.")


def _check_login(login: Row[tuple[bool, bool, bool, bool, bool]], *, pooled: bool) -> None:
    """Raise SchemaError if there are rows that this login sees and the server's role does not.

    Behind a pooler nothing makes it the server's role, so it has to be a plain member.
    """
    if login.unbound:
        raise SchemaError("The server's role bypasses row-level security: take SUPERUSER and BYPASSRLS from it.")
    if not pooled and not login.is_app:
        raise SchemaError(f"The connection is not one of the role {APP_ROLE}. {_POOLER}")
    if login.owns or not login.acts_as_app:
        raise SchemaError(
            f"The login of DATABASE_URL must be a member of {APP_ROLE} that inherits and owns no table:"
            f" CREATE ROLE name LOGIN IN ROLE {APP_ROLE}."
        )
