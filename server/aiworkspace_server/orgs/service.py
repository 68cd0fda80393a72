"""Rules of organizations, memberships and invitations."""

import base64
import binascii
import hmac
from datetime import timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb

from ..auth.models import User
from ..kit.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, PermissionMissing, etag_mismatch
from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.timestamps import now
from . import store
from .models import Invitation, Membership, Org
from .roles import GIVES, ROLES

INVITATION_LIFETIME = timedelta(days=7)


async def create_org(tx: WriteSession, org_id: UUID, name: str, owner_id: UUID) -> Org:
    """The transaction's tenant is the new organization."""
    time = now()
    org = Org(id=org_id, name=name, version=1, create_time=time, update_time=time)
    tx.add(org)
    await tx.flush()  # before the membership that refers to it
    tx.add(Membership(org_id=org_id, user_id=owner_id, role="owner", version=1, create_time=time))
    return org


async def update_org(tx: WriteSession, org_id: UUID, etag: str, values: dict[str, Any]) -> Org:
    if "name" in values and not values["name"]:
        raise InvalidArgument({"org.name": "must not be empty"})
    org = await _lock_org(tx, org_id, "org.org_id")
    if etag and etag != str(org.version):
        raise etag_mismatch("org.etag")
    org.name = values.get("name", org.name)
    org.version += 1
    org.update_time = now()
    return org


async def delete_org(tx: WriteSession, org_id: UUID) -> None:
    org = await _lock_org(tx, org_id, "org_id")
    org.delete_time = now()


async def create_invitation(tx: WriteSession, org_id: UUID, email: str, role: str, inviter_id: UUID) -> Invitation:
    await _lock_org(tx, org_id, "org_id")
    await _check_may_give(tx, inviter_id, role)
    if await store.is_member(tx, email):
        raise AlreadyExists("This person is a member of the organization.", "email")
    time = now()
    invitation = Invitation(
        org_id=org_id,
        id=new_id(),
        email=email,
        role=role,
        inviter_id=inviter_id,
        create_time=time,
        expire_time=time + INVITATION_LIFETIME,
    )
    tx.add(invitation)
    return invitation


async def revoke_invitation(tx: WriteSession, invitation_id: UUID) -> Invitation:
    invitation = await store.lock_invitation(tx, invitation_id)
    if invitation is None:
        raise NotFound("invitation_id")
    if invitation.accept_time:
        raise _invitation_closed("The invitation was accepted: remove the member instead.")
    invitation.revoke_time = invitation.revoke_time or now()
    return invitation


async def accept_invitation(tx: WriteSession, org_id: UUID, invitation_id: UUID, user: User) -> tuple[Org, str]:
    """The organization and the new member's role in it."""
    org = await _lock_org(tx, org_id, "token")
    invitation = await store.lock_invitation(tx, invitation_id)
    if invitation is None or invitation.email != user.email:
        raise NotFound("token")
    time = now()
    if invitation.accept_time or invitation.revoke_time or invitation.expire_time <= time:
        raise _invitation_closed("The invitation was accepted or revoked, or has expired: ask for a new one.")
    if await store.find_member(tx, user.id):
        raise AlreadyExists("You are a member of this organization.", "token")
    invitation.accept_time = time
    tx.add(Membership(org_id=org.id, user_id=user.id, role=invitation.role, version=1, create_time=time))
    return org, invitation.role


async def update_member(
    tx: WriteSession, org_id: UUID, user_id: UUID, etag: str, role: str | None, caller_id: UUID
) -> tuple[Membership, User]:
    await _lock_org(tx, org_id, "member.org_id")
    member, user = await _member(tx, user_id, "member.user_id")
    if etag and etag != str(member.version):
        raise etag_mismatch("member.etag")
    if role and role != member.role:
        await _check_may_give(tx, caller_id, member.role, role)
        await _check_owner_left(tx, member)
        await _withdraw_invitations(tx, user_id, role)
        member.role = role
        member.version += 1
    return member, user


async def remove_member(tx: WriteSession, org_id: UUID, user_id: UUID, caller_id: UUID) -> None:
    await _lock_org(tx, org_id, "org_id")
    member, _ = await _member(tx, user_id, "user_id")
    if user_id != caller_id:
        await _check_may_give(tx, caller_id, member.role)
    await _check_owner_left(tx, member)
    await _withdraw_invitations(tx, user_id)
    await store.remove_member(tx, user_id)


class InvitationTokens:
    """Tokens that name an invitation and prove that this server made it. Nothing about them is stored."""

    def __init__(self, key: bytes) -> None:
        self._key = key

    def make(self, org_id: UUID, invitation_id: UUID) -> str:
        content = org_id.bytes + invitation_id.bytes
        return base64.urlsafe_b64encode(content + self._mac(content)).rstrip(b"=").decode()

    def read(self, token: str) -> tuple[UUID, UUID]:
        """Organization and invitation. Raises NotFound for what this server did not make."""
        try:
            content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (binascii.Error, ValueError):
            raise NotFound("token") from None
        if len(content) != 64:
            raise NotFound("token")
        ids = UUID(bytes=content[:16]), UUID(bytes=content[16:32])
        if not hmac.compare_digest(token.encode(), self.make(*ids).encode()):  # also other spellings of one content
            raise NotFound("token")
        return ids

    def _mac(self, content: bytes) -> bytes:
        return hmac.digest(self._key, content, "sha256")


async def _lock_org(tx: WriteSession, org_id: UUID, field: str) -> Org:
    org = await store.lock_org(tx, org_id)
    if org is None:
        raise NotFound(field)
    return org


async def _member(tx: WriteSession, user_id: UUID, field: str) -> tuple[Membership, User]:
    found = await store.find_member(tx, user_id)
    if found is None:
        raise NotFound(field)
    return found


async def _check_may_give(tx: WriteSession, giver_id: UUID, *roles: str) -> None:
    """Nobody gives or takes a role above their own, as it is now: call with the organization locked."""
    giver, _ = await _member(tx, giver_id, "org_id")
    for role in roles:
        if role not in GIVES[giver.role]:
            raise PermissionMissing("member.manage", f"The role {role} is above your own.")


async def _withdraw_invitations(tx: WriteSession, inviter_id: UUID, role: str | None = None) -> None:
    """Of somebody who leaves, or will have another role: none is to give what they can no longer give themselves."""
    kept = GIVES[role] if role else frozenset()
    await store.revoke_invitations(tx, inviter_id, [name for name in ROLES if name not in kept], now())


async def _check_owner_left(tx: WriteSession, leaving: Membership) -> None:
    """Call with the organization locked: two owners that leave at the same time must not both see the other."""
    if leaving.role == "owner" and await store.count_owners(tx) == 1:
        raise FailedPrecondition(pb.ERROR_REASON_LAST_OWNER, "An organization keeps at least one owner.")


def _invitation_closed(message: str) -> FailedPrecondition:
    return FailedPrecondition(pb.ERROR_REASON_INVITATION_CLOSED, message)
