"""Erases organizations, workspaces and accounts in PostgreSQL.

The rows that the ledger refers to stay, with only ids and times. Statements work in batches and are repeated until they
find nothing, so that none takes long and all can be repeated after a crash.
"""

from collections.abc import Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import Row, TextClause, select, text, update
from sqlalchemy.engine import CursorResult

from ..auth.models import User
from ..kit.postgres import Database, ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs.models import Org
from ..workspaces.models import Workspace

_BATCH = 1000


def _delete(table: str, where: str = "true") -> TextClause:
    """Return a statement that deletes a batch of the tenant's or person's rows.

    Row-level security selects them; `where` is for tables without it.
    """
    some = f"SELECT ctid FROM {table} WHERE {where} LIMIT {_BATCH}"
    return text(f"DELETE FROM {table} WHERE ctid = ANY (ARRAY({some}))")


# Ordered so that nothing refers to deleted rows. Budget windows are deleted with their budgets.
_ORG = (
    text("""
      UPDATE workspaces SET name = '', system_prompt = '', default_model = '',
             delete_time = coalesce(delete_time, now()), erase_time = coalesce(erase_time, now())
      WHERE erase_time IS NULL OR name <> '' OR system_prompt <> ''
    """),
    text("UPDATE orgs SET name = '', state_reason = '' WHERE name <> '' OR state_reason <> ''"),
    _delete("webhook_deliveries"),
    _delete("webhook_endpoints"),
    _delete("events"),
    _delete("event_heads"),
    _delete("provider_keys"),
    _delete("api_key_workspaces"),
    _delete("api_keys"),
    _delete("invitations"),
    _delete("model_policies"),
    _delete("data_policies"),
    _delete("exports"),
    _delete("budgets"),
    _delete("workspace_members"),
    _delete("team_members"),
    _delete("teams"),
    text("""
      UPDATE users SET display_name = '', delete_time = now(), erase_time = now()
      WHERE kind = 'service' AND delete_time IS NULL AND id IN (SELECT user_id FROM memberships)
    """),
    _delete("memberships"),
    _delete("custom_roles"),
)
_WORKSPACE = (
    text("""
      UPDATE workspaces SET name = '', system_prompt = '', default_model = ''
      WHERE id = :workspace_id AND (name <> '' OR system_prompt <> '')
    """),
    _delete("api_key_workspaces", "workspace_id = :workspace_id"),
    _delete("model_policies", "workspace_id = :workspace_id"),
    _delete("data_policies", "scope_id = :workspace_id"),
    _delete("budgets", "scope = 'workspace' AND subject_id = :workspace_id"),
    _delete("workspace_members", "workspace_id = :workspace_id"),
)
_ACCOUNT = (
    _delete("sessions", "user_id = :user_id"),
    _delete("email_tokens", "user_id = :user_id"),
    _delete("replies", "user_id = :user_id"),
    _delete("operators", "user_id = :user_id"),
)
_ORIGINS = (_delete("audit_origins"),)
_ORIGINS_OF_PERSON = (
    _delete(
        "audit_origins",
        "sequence IN (SELECT e.sequence FROM audit_events e WHERE e.user_id = :user_id)",  # one chain is visible
    ),
)
# An invitation is to a person if that person accepted it, or has its address.
_INVITATIONS = (
    _delete("invitations", "accepter_id = :user_id OR email = (SELECT u.email FROM users u WHERE u.id = :user_id)"),
)
# The last call with a key that the person made may have been the person's.
_ADDRESSES_OF_KEYS = (
    text("""
      UPDATE api_keys SET last_use_address = NULL WHERE creator_id = :user_id AND last_use_address IS NOT NULL
    """),
)
_LIST_UNERASED = text("SELECT org_id, workspace_id FROM list_unerased(:before)")
_LIST_UNERASED_USERS = text(
    "SELECT id FROM users WHERE delete_time IS NOT NULL AND erase_time IS NULL AND delete_time < :before"
)
_RECONCILES_ALONE = text("SELECT pg_try_advisory_xact_lock(hashtextextended('erasure.reconcile', 0))")


async def erase_org(db: Database, org_id: UUID) -> bool:
    return await _erase(db, _ORG, {}, org_id)


async def erase_workspace(db: Database, org_id: UUID, workspace_id: UUID) -> bool:
    return await _erase(db, _WORKSPACE, {"workspace_id": workspace_id}, org_id)


async def erase_account(db: Database, user_id: UUID) -> bool:
    return await _erase(db, _ACCOUNT, {"user_id": user_id}, None, user_id)


async def erase_origins(db: Database, org_id: UUID, user_id: UUID | None) -> bool:
    """Erase address and user agent from the log of an organization: of all calls, or of one person's."""
    if user_id:
        return await _erase(db, _ORIGINS_OF_PERSON, {"user_id": user_id}, org_id)
    return await _erase(db, _ORIGINS, {}, org_id)


async def erase_traces(db: Database, org_id: UUID, user_id: UUID) -> bool:
    """Erase the invitations of an organization to a person, and from where the person's keys were used."""
    return await _erase(db, (*_INVITATIONS, *_ADDRESSES_OF_KEYS), {"user_id": user_id}, org_id)


async def _erase(
    db: Database,
    statements: Sequence[TextClause],
    values: dict[str, Any],
    org_id: UUID | None,
    user_id: UUID | None = None,
) -> bool:
    """Run the statements until they find nothing. Return whether there was anything."""
    found = False
    for statement in statements:
        while True:
            async with db.write(org_id, user_id) as tx:
                result = await tx.execute(statement, values)
            assert isinstance(result, CursorResult)
            if not result.rowcount:
                break
            found = True
    return found


async def find_unerased(tx: ReadSession, table: type[Org | Workspace | User], row_id: UUID) -> datetime | None:
    """Return when the organization, workspace or account was deleted; None if it is live or erased."""
    query = select(table.delete_time).where(table.id == row_id, table.erase_time.is_(None))
    return (await tx.execute(query)).scalar_one_or_none()


async def is_erased(tx: ReadSession, org_id: UUID) -> bool:
    """Return whether the organization was deleted, and everything in it erased."""
    query = select(Org.id).where(Org.id == org_id, Org.erase_time.is_not(None))
    return (await tx.execute(query)).first() is not None


async def note_erased(tx: WriteSession, table: type[Org | Workspace | User], row_id: UUID) -> None:
    await tx.execute(update(table).where(table.id == row_id).values(erase_time=now()))


async def list_unerased(tx: ReadSession, before: datetime) -> Sequence[Row[UUID, UUID | None]]:
    """Return the unerased tombstones of all tenants before a time: organizations, and workspaces of live ones."""
    return (await tx.execute(_LIST_UNERASED, {"before": before})).all()


async def list_unerased_users(tx: ReadSession, before: datetime) -> Sequence[UUID]:
    return (await tx.execute(_LIST_UNERASED_USERS, {"before": before})).scalars().all()


async def reconciles_alone(tx: WriteSession) -> bool:
    """Return whether this transaction got the lock under which missing jobs are enqueued."""
    return bool((await tx.execute(_RECONCILES_ALONE)).scalar_one())
