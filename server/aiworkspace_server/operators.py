"""The commands that appoint operators of the server. They may run while servers run."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from uuid import UUID

from sqlalchemy import text
from sqlalchemy.exc import ProgrammingError

from .audit.build import make_chain
from .audit.models import OPERATORS
from .auth.operators import add_operator, list_operators, remove_operator
from .auth.store import find_user_by_email
from .commands import CommandError, operator_entry
from .databases import databases
from .kit import typed
from .kit.postgres import APP_ROLE, Database, WriteSession
from .schema import check_schema
from .settings import Settings

# The login itself, instead of the role under which the server works.
_AS_LOGIN, _AS_SERVER = text("SET LOCAL ROLE NONE"), text(f"SET LOCAL ROLE {APP_ROLE}")


async def add(settings: Settings, email: str) -> None:
    """Make the person with this address an operator. Raises CommandError without a verified account."""
    async with _database(settings) as db, db.write(OPERATORS) as tx:
        user = await find_user_by_email(tx, typed.email(email))
        if user is None:
            raise CommandError(f"{email} has no account; create one with the command register")
        if user.verify_time is None:
            raise CommandError(f"{email} is not verified: only the owner of a verified address can be an operator")
        if await _appoint(tx, user.id):
            await _record(settings, tx, "operators add", user.id)
            print(f"{user.email} is an operator now")
        else:
            print(f"{user.email} is an operator already")


async def remove(settings: Settings, email: str) -> None:
    """End the rights of an operator, at once on all servers."""
    async with _database(settings) as db, db.write(OPERATORS) as tx:
        user = await find_user_by_email(tx, typed.email(email))
        if user is None or not await remove_operator(tx, user.id):
            raise CommandError(f"{email} is no operator")
        await _record(settings, tx, "operators remove", user.id)
    print(f"{user.email} is no operator any more")


async def show(settings: Settings) -> None:
    """Print the operators."""
    async with _database(settings) as db, db.read() as tx:
        for row in await list_operators(tx):
            print(f"{row.user_id}  {row.create_time:%Y-%m-%d %H:%MZ}  {row.email}")


async def _appoint(tx: WriteSession, user_id: UUID) -> bool:
    await tx.execute(_AS_LOGIN)
    try:
        return await add_operator(tx, user_id)
    except ProgrammingError as error:
        raise CommandError(
            "this login may not appoint operators: run the command with that of migrations (MIGRATION_DATABASE_URL)"
        ) from error
    finally:
        if tx.is_active:
            await tx.execute(_AS_SERVER)


async def _record(settings: Settings, tx: WriteSession, command: str, user_id: UUID) -> None:
    entry: dict[str, Any] = operator_entry(command, user_id=user_id)
    await make_chain(settings).append(tx, OPERATORS, entry)


@asynccontextmanager
async def _database(settings: Settings) -> AsyncIterator[Database]:
    async with databases(settings) as where:
        db = Database(where.owner_url)
        try:
            await check_schema(db, embedded=settings.embedded)
            yield db
        finally:
            await db.close()
