"""Queries on custom roles. The tenant is set by the session, never here."""

from collections.abc import Sequence
from uuid import UUID

from sqlalchemy import delete, exists, or_, select

from ..kit.postgres import ReadSession, WriteSession
from ..orgs.models import CustomRole, Invitation, Membership
from ..orgs.store import is_pending


async def list_roles(tx: ReadSession, after: UUID | None, limit: int) -> Sequence[CustomRole]:
    """Return custom roles, oldest first, starting after `after`."""
    query = select(CustomRole).order_by(CustomRole.id).limit(limit)
    if after:
        query = query.where(CustomRole.id > after)
    return (await tx.execute(query)).scalars().all()


async def is_in_use(tx: ReadSession, custom_role_id: UUID) -> bool:
    """Return whether a member, suspended or not, has the role or a pending invitation offers it."""
    held = exists().where(Membership.custom_role_id == custom_role_id)
    offered = exists().where(Invitation.custom_role_id == custom_role_id, *is_pending())
    return bool((await tx.execute(select(or_(held, offered)))).scalar_one())


async def list_inviters(tx: ReadSession, custom_role_id: UUID) -> Sequence[Membership]:
    """Return the members with pending invitations who have the role, or offer it in one of these."""
    concerned = or_(Membership.custom_role_id == custom_role_id, Invitation.custom_role_id == custom_role_id)
    invited = exists().where(Invitation.inviter_id == Membership.user_id, concerned, *is_pending())
    return (await tx.execute(select(Membership).where(invited))).scalars().all()


async def delete_role(tx: WriteSession, custom_role_id: UUID) -> None:
    await tx.execute(delete(CustomRole).where(CustomRole.id == custom_role_id))
