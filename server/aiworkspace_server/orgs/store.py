"""Queries on organizations, memberships and invitations. The tenant is set by the session, never here."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

from sqlalchemy import ColumnElement, Row, delete, func, or_, select, text, update

from ..auth.authority import ROLES
from ..auth.models import User
from ..kit.postgres import ReadSession, WriteSession, any_of
from ..kit.timestamps import LEEWAY, now
from .models import CustomRole, Invitation, Membership, Org, Team

_IS_BEING_ERASED = text("""
  SELECT EXISTS (SELECT FROM erasures WHERE user_id = :user_id AND end_time IS NULL AND cancel_time IS NULL)
""")
_LIST_ORGS = text("SELECT * FROM list_user_orgs(:user_id, CAST(:after AS uuid), :limit)")

_LIST_MEMBERSHIP_ORGS = text("SELECT list_membership_orgs(:user_id)")
_LIST_RUN_ORGS = text("SELECT list_run_orgs(:user_id)")
_LIST_INVITATION_ORGS = text("SELECT list_invitation_orgs(:user_id)")


async def find_org(tx: ReadSession, org_id: UUID) -> Org | None:
    return (await tx.execute(select(Org).where(Org.id == org_id, Org.delete_time.is_(None)))).scalar_one_or_none()


async def is_suspended(tx: ReadSession, org_id: UUID) -> bool:
    query = select(Org.id).where(Org.id == org_id, Org.suspend_time.is_not(None))
    return (await tx.execute(query)).first() is not None


async def lock_org(tx: WriteSession, org_id: UUID) -> Org | None:
    """Lock the organization and its owners until the transaction ends, and return it."""
    # Not FOR UPDATE: a starting run refers to organization and workspace, and could deadlock with a change of both.
    query = select(Org).where(Org.id == org_id, Org.delete_time.is_(None)).with_for_update(key_share=True)
    return (await tx.execute(query)).scalar_one_or_none()


async def is_being_erased(tx: ReadSession, user_id: UUID) -> bool:
    """Return whether what a former member has left in the organization is being erased."""
    return bool((await tx.execute(_IS_BEING_ERASED, {"user_id": user_id})).scalar_one())


async def list_orgs(tx: ReadSession, user_id: UUID, after: UUID | None, limit: int) -> Sequence[Row[*tuple[Any, ...]]]:
    """Return a person's organizations, oldest first.

    The columns are id, name, version, create_time, update_time, role and custom_role_id.
    """
    return (await tx.execute(_LIST_ORGS, {"user_id": user_id, "after": after, "limit": limit})).all()


async def find_member(tx: ReadSession, user_id: UUID) -> tuple[Membership, User] | None:
    query = select(Membership, User).join(User, User.id == Membership.user_id).where(Membership.user_id == user_id)
    row = (await tx.execute(query)).one_or_none()
    return (row[0], row[1]) if row else None


async def list_members(
    tx: ReadSession, after: tuple[datetime, UUID] | None, limit: int
) -> Sequence[Row[Membership, User]]:
    order = Membership.create_time, Membership.user_id
    query = select(Membership, User).join(User, User.id == Membership.user_id).order_by(*order).limit(limit)
    if after:
        query = query.where(_follows(after))
    return (await tx.execute(query)).all()


def _follows(after: tuple[datetime, UUID]) -> Any:
    time, user_id = after
    later = Membership.create_time > time
    return later | ((Membership.create_time == time) & (Membership.user_id > user_id))


async def count_owners(tx: ReadSession) -> int:
    """Return the number of owners that are not suspended."""
    owners = Membership.role == "owner", Membership.suspend_time.is_(None)
    return (await tx.execute(select(func.count()).where(*owners))).scalar_one()


async def is_member(tx: ReadSession, email: str) -> bool:
    query = select(User.id).join(Membership, Membership.user_id == User.id).where(User.email == email)
    return (await tx.execute(query)).first() is not None


async def remove_member(tx: WriteSession, user_id: UUID) -> None:
    await tx.execute(delete(Membership).where(Membership.user_id == user_id))


async def list_membership_orgs(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Return the organizations of a person by id, including those in which the person is suspended."""
    return (await tx.execute(_LIST_MEMBERSHIP_ORGS, {"user_id": user_id})).scalars().all()


async def list_run_orgs(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Return the organizations in which a person has had runs."""
    return (await tx.execute(_LIST_RUN_ORGS, {"user_id": user_id})).scalars().all()


async def list_invitation_orgs(tx: ReadSession, user_id: UUID) -> Sequence[UUID]:
    """Return the organizations that have invited a person."""
    return (await tx.execute(_LIST_INVITATION_ORGS, {"user_id": user_id})).scalars().all()


async def delete_invitations_of(tx: WriteSession, user: User) -> None:
    """Delete the invitations to a person, including accepted ones."""
    theirs = or_(Invitation.email == user.email, Invitation.accepter_id == user.id)
    await tx.execute(delete(Invitation).where(theirs))


async def list_owner_ids(tx: ReadSession) -> Sequence[UUID]:
    """Return the owners that are not suspended."""
    owners = Membership.role == "owner", Membership.suspend_time.is_(None)
    return (await tx.execute(select(Membership.user_id).where(*owners))).scalars().all()


async def list_people_with(tx: ReadSession, permission: str) -> Sequence[UUID]:
    """Return the people who hold a permission in the organization and are not suspended."""
    roles = [role for role, permissions in ROLES.items() if permission in permissions]
    query = (
        select(Membership.user_id)
        .join(User, User.id == Membership.user_id)
        .outerjoin(CustomRole, CustomRole.id == Membership.custom_role_id)
        .where(User.kind == "person", Membership.suspend_time.is_(None))
        .where(or_(Membership.role.in_(roles), CustomRole.permissions.contains([permission])))
    )
    return (await tx.execute(query)).scalars().all()


async def find_invitation(tx: ReadSession, invitation_id: UUID) -> Invitation | None:
    return (await tx.execute(select(Invitation).where(Invitation.id == invitation_id))).scalar_one_or_none()


async def lock_invitation(tx: WriteSession, invitation_id: UUID) -> Invitation | None:
    query = select(Invitation).where(Invitation.id == invitation_id).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def lock_open_invitation(tx: WriteSession, email: str) -> Invitation | None:
    """Lock and return the invitation to this address that is neither accepted nor revoked; it may have expired."""
    query = select(Invitation).where(Invitation.email == email, *_is_open()).with_for_update()
    return (await tx.execute(query)).scalar_one_or_none()


async def close_invitations_to(tx: WriteSession, user_id: UUID, email: str | None) -> None:
    """Revoke open invitations to a person's current address, and to addresses of invitations accepted earlier."""
    accepted = select(Invitation.email).where(Invitation.accepter_id == user_id)
    theirs = or_(Invitation.email == email, Invitation.email.in_(accepted))
    await tx.execute(update(Invitation).where(theirs, *_is_open()).values(revoke_time=now()))


async def invitations_of_keys(tx: WriteSession, key_ids: Collection[UUID]) -> Sequence[Invitation]:
    """Return the invitations that were created with one of these API keys, newest first."""
    query = select(Invitation).where(Invitation.creator_key_id == any_of(key_ids)).order_by(Invitation.id.desc())
    return (await tx.execute(query.with_for_update())).scalars().all()


async def pending_invitations(tx: WriteSession, inviter_id: UUID) -> Sequence[Invitation]:
    """Lock and return the invitations of this inviter that can still be accepted."""
    query = select(Invitation).where(Invitation.inviter_id == inviter_id, *is_pending()).with_for_update()
    return (await tx.execute(query)).scalars().all()


def _is_open() -> tuple[ColumnElement[bool], ...]:
    return Invitation.accept_time.is_(None), Invitation.revoke_time.is_(None)


def is_pending() -> tuple[ColumnElement[bool], ...]:
    """Return the conditions under which an invitation can be accepted."""
    return *_is_open(), Invitation.expire_time > now() - LEEWAY


async def find_custom_role(tx: ReadSession, custom_role_id: UUID) -> CustomRole | None:
    query = select(CustomRole).where(CustomRole.id == custom_role_id)
    return (await tx.execute(query)).scalar_one_or_none()


async def find_team(tx: ReadSession, team_id: UUID) -> Team | None:
    return (await tx.execute(select(Team).where(Team.id == team_id))).scalar_one_or_none()


async def list_invitations(tx: ReadSession, before: UUID | None, limit: int) -> Sequence[Invitation]:
    """Return invitations, newest first, starting after `before`."""
    query = select(Invitation).order_by(Invitation.id.desc()).limit(limit)
    if before:
        query = query.where(Invitation.id < before)
    return (await tx.execute(query)).scalars().all()
