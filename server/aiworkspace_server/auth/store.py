"""Queries on accounts and sessions."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple
from uuid import UUID

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.dialects.postgresql import insert

from ..kit.call_limits import Stored
from ..kit.errors import Unauthenticated
from ..kit.postgres import Database, ReadSession, WriteSession
from ..kit.timestamps import LEEWAY, now
from .authority import Principal
from .models import Session, User

_FIND_PRINCIPAL = "SELECT user_id, verified, last_use_time, memberships FROM find_principal(%s)"
_FIND_API_KEY = """
    SELECT id, org_id, user_id, permissions, workspace_ids, last_use_time, memberships, line_id, call_ceilings,
           account_limits, key_limits
    FROM find_key(%s)
"""
_CREDENTIALS_WORK = text("""
    SELECT CASE WHEN CAST(:session_id AS uuid) IS NOT NULL
      THEN EXISTS (SELECT FROM sessions WHERE id = :session_id AND revoke_time IS NULL
                   AND expire_time > clock_timestamp() - interval '60 seconds')
      ELSE EXISTS (SELECT FROM api_keys WHERE id = :key_id AND revoke_time IS NULL
                   AND (expire_time IS NULL OR expire_time > clock_timestamp()))
    END
""")
_IS_INVITED = text("SELECT is_invited(:email)")
_TOUCH_API_KEY = text("""
    UPDATE api_keys SET last_use_time = now(), last_use_address = :address WHERE id = (
      SELECT id FROM api_keys WHERE id = :id AND (last_use_time IS NULL OR last_use_time < now() - interval '1 minute')
      FOR UPDATE SKIP LOCKED)
""")


class FoundSession(NamedTuple):
    """A live session, with its owner's memberships."""

    user_id: UUID
    verified: bool  # whether the owner's address is
    last_use_time: datetime
    memberships: list[dict[str, Any]]


class FoundKey(NamedTuple):
    """A valid API key, with its owner's memberships. Without `workspace_ids` it reaches all workspaces."""

    id: UUID
    org_id: UUID
    user_id: UUID
    permissions: list[str]
    workspace_ids: list[UUID] | None
    last_use_time: datetime | None
    memberships: list[dict[str, Any]]
    line_id: UUID  # first key of its line
    call_ceilings: Stored  # of the organization
    account_limits: Stored
    key_limits: Stored  # of its line


async def find_principal(db: Database, session_id: UUID) -> FoundSession | None:
    """Return a session if it is live."""
    rows = await db.fetch(_FIND_PRINCIPAL, (session_id,))
    return FoundSession(*rows[0]) if rows else None


async def find_api_key(db: Database, secret_hash: bytes) -> FoundKey | None:
    """Return the key with this secret if it is valid."""
    rows = await db.fetch(_FIND_API_KEY, (secret_hash,))
    return FoundKey(*rows[0]) if rows else None


async def credentials_work(tx: ReadSession, caller: Principal) -> bool:
    """Return whether the session or API key of a call is still valid. The tenant must be that of the key."""
    values = {"session_id": caller.session_id, "key_id": caller.key_id}
    return bool((await tx.execute(_CREDENTIALS_WORK, values)).scalar_one())


async def touch_api_key(tx: WriteSession, api_key_id: UUID, address: str) -> None:
    """Record a use, unless another call has done so within a minute or is doing so."""
    await tx.execute(_TOUCH_API_KEY, {"id": api_key_id, "address": address})


async def find_user(tx: ReadSession, user_id: UUID) -> User | None:
    """Return the account, or None if it was deleted."""
    user = await tx.get(User, user_id)
    return None if user is None or user.delete_time else user


async def hold_user(tx: WriteSession, user_id: UUID) -> User | None:
    """Return the account, or None if it was deleted. It cannot be deleted until the transaction ends."""
    query = select(User).where(User.id == user_id, User.delete_time.is_(None))
    return (await tx.execute(query.with_for_update(read=True))).scalar_one_or_none()


async def lock_for_deletion(tx: WriteSession, user_id: UUID) -> User:
    """Lock the account exclusively and return it. It may have been deleted meanwhile."""
    return (await tx.execute(select(User).where(User.id == user_id).with_for_update(key_share=True))).scalar_one()


async def find_user_by_email(tx: ReadSession, email: str) -> User | None:
    if "\0" in email:  # PostgreSQL raises an error for it
        return None
    return (await tx.execute(select(User).where(User.email == email))).scalar_one_or_none()


async def is_invited(tx: ReadSession, email: str) -> bool:
    """Return whether an organization has an open invitation for the address."""
    return bool((await tx.execute(_IS_INVITED, {"email": email})).scalar_one())


async def add_user(tx: WriteSession, user: Mapping[str, Any]) -> User | None:
    """Insert an account and return it, or None if the email address has one."""
    given = User.email.is_not(None)
    new = insert(User).values(**user).on_conflict_do_nothing(index_elements=["email"], index_where=given)
    return (await tx.execute(new.returning(User))).scalar_one_or_none()


async def lock_user(tx: WriteSession, user_id: UUID) -> User:
    """Return the account, locked until the transaction ends. Raises Unauthenticated if it was deleted."""
    # Not FOR UPDATE: two calls that each inserted a row that refers to the account would deadlock.
    query = select(User).where(User.id == user_id, User.delete_time.is_(None)).with_for_update(key_share=True)
    user = (await tx.execute(query)).scalar_one_or_none()
    if user is None:
        raise Unauthenticated
    return user


async def lock_session(tx: WriteSession, session_id: UUID) -> tuple[Session, datetime] | None:
    """Return the session, locked until the transaction ends, and the database's current time."""
    query = select(Session, func.clock_timestamp()).where(Session.id == session_id).with_for_update(of=Session)
    row = (await tx.execute(query)).one_or_none()
    return (row[0], row[1]) if row else None


async def list_sessions(tx: ReadSession, user_id: UUID, before: UUID | None, limit: int) -> Sequence[Session]:
    """Return live sessions, newest first, starting after `before`."""
    live = Session.user_id == user_id, Session.revoke_time.is_(None), Session.expire_time > func.now() - LEEWAY
    query = select(Session).where(*live).order_by(Session.id.desc()).limit(limit)
    if before:
        query = query.where(Session.id < before)
    return (await tx.execute(query)).scalars().all()


async def is_familiar(tx: ReadSession, user_id: UUID, address: str, user_agent: str) -> bool:
    """Return whether the person has signed in from this address with this client before."""
    same = Session.user_id == user_id, Session.address == address, Session.user_agent == user_agent
    return (await tx.execute(select(Session.id).where(*same).limit(1))).first() is not None


async def touch_session(tx: WriteSession, session_id: UUID, address: str) -> None:
    used = update(Session).where(Session.id == session_id).values(last_use_time=now(), address=address)
    await tx.execute(used)


async def revoke_session(tx: WriteSession, user_id: UUID, session_id: UUID) -> bool:
    """End the session if it is live. Return False if the person has no such session."""
    own = Session.id == session_id, Session.user_id == user_id
    ended = func.coalesce(Session.revoke_time, now())
    result = await tx.execute(update(Session).where(*own).values(revoke_time=ended).returning(Session.id))
    return result.first() is not None


async def delete_sessions(tx: WriteSession, user_id: UUID) -> None:
    await tx.execute(delete(Session).where(Session.user_id == user_id))


async def revoke_sessions(tx: WriteSession, user_id: UUID, time: datetime, kept: UUID | None) -> int:
    """End the person's sessions except the one that is kept. Return how many were live."""
    revoked = update(Session).where(Session.user_id == user_id, Session.revoke_time.is_(None))
    if kept:
        revoked = revoked.where(Session.id != kept)
    ends = (await tx.execute(revoked.values(revoke_time=time).returning(Session.expire_time))).scalars()
    return sum(end + LEEWAY > time for end in ends)
