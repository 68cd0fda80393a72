"""Rules of organizations, memberships and invitations."""

from collections.abc import Sequence
from datetime import timedelta
from typing import Any
from uuid import UUID

from aiworkspace.v1 import common_pb2 as pb
from aiworkspace.v1 import event_pb2 as event

from ..auth import store as users
from ..auth.authority import OrgSuspended, Principal, current_principal
from ..auth.models import User
from ..auth.service import email_unverified
from ..events.outbox import append
from ..kit.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionMissing,
    Unauthenticated,
    check_etag,
)
from ..kit.ids import new_id
from ..kit.postgres import ReadSession, WriteSession, set_tenant
from ..kit.timestamps import is_over, now
from . import store
from .granting import (
    RoleChoice,
    check_may_grant,
    check_may_have,
    check_within,
    granted,
    permissions_of,
    principal_now,
    role_of,
)
from .holds import check_orgs
from .models import Invitation, Membership, Org

INVITATION_LIFETIME = timedelta(days=7)
_MOST_NAMED = 50  # organizations named in one error


async def create_org(tx: WriteSession, org_id: UUID, name: str, owner_id: UUID) -> Org:
    """Create an organization and its owner's membership. The transaction's tenant is the new organization."""
    time = now()
    org = Org(id=org_id, name=name, version=1, create_time=time, update_time=time)
    tx.add(org)
    await tx.flush()  # before the membership that refers to it
    tx.add(new_membership(org_id, owner_id, RoleChoice("owner")))
    return org


async def update_org(tx: WriteSession, org_id: UUID, etag: str, values: dict[str, Any], caller: Principal) -> Org:
    if "name" in values and not values["name"]:
        raise InvalidArgument({"org.name": "must not be empty"})
    org = await lock_org(tx, org_id, "org.org_id")
    await check_may_grant(tx, caller)
    check_etag(etag, org.version, "org.etag")
    org.name = values.get("name", org.name)
    org.version += 1
    org.update_time = now()
    append(tx, event.EVENT_TYPE_ORG_UPDATED)
    return org


async def delete_org(tx: WriteSession, org_id: UUID, caller: Principal) -> None:
    await lock_org(tx, org_id, "org_id")
    await check_may_grant(tx, caller)
    await end_org(tx, org_id)


async def end_org(tx: WriteSession, org_id: UUID) -> bool:
    """Delete the organization, on nobody's behalf. Return False if it is deleted already. Raises OnHold."""
    org = await store.lock_org(tx, org_id)
    if org is None:
        return False
    await check_orgs(tx, [org_id])
    org.delete_time = now()
    return True


async def create_invitation(
    tx: WriteSession, org_id: UUID, email: str, role: RoleChoice, inviter: Principal
) -> Invitation:
    """Create an invitation, or renew the open one. A unique index allows one open invitation per address."""
    await lock_org(tx, org_id, "org_id")
    earlier = await store.lock_open_invitation(tx, email)
    replaced = await _offered(tx, earlier) if earlier and is_open(earlier) else frozenset[str]()
    await check_may_grant(tx, inviter, await permissions_of(tx, role), replaced)
    if await store.is_member(tx, email):
        raise AlreadyExists("This person is already a member of the organization.", "email")
    time = now()
    if earlier and is_open(earlier):
        invitation = earlier
    else:
        if earlier:
            earlier.revoke_time = time
            await tx.flush()  # before its replacement: the index allows only one open invitation
        invitation = Invitation(org_id=org_id, id=new_id(), email=email, create_time=time)
        tx.add(invitation)
    invitation.role, invitation.custom_role_id = role
    invitation.inviter_id, invitation.creator_key_id = inviter.user_id, inviter.key_id
    invitation.expire_time = time + INVITATION_LIFETIME
    return invitation


async def revoke_invitation(tx: WriteSession, org_id: UUID, invitation_id: UUID, caller: Principal) -> Invitation:
    await lock_org(tx, org_id, "org_id")
    invitation = await store.lock_invitation(tx, invitation_id)
    if invitation is None:
        raise NotFound("invitation_id")
    if invitation.accept_time:
        raise _invitation_closed("The invitation was accepted: remove the member instead.")
    if is_open(invitation):
        await check_may_grant(tx, caller, await _offered(tx, invitation))
    invitation.revoke_time = invitation.revoke_time or now()
    return invitation


async def accept_invitation(tx: WriteSession, org_id: UUID, invitation_id: UUID, user: User) -> tuple[Org, RoleChoice]:
    """Make the user a member. Return the organization and the new member's role."""
    org = await lock_org(tx, org_id, "token")
    invitation = await store.lock_invitation(tx, invitation_id)
    if invitation is None or invitation.email != user.email:
        raise NotFound("token")
    if not is_open(invitation):
        raise _invitation_closed("The invitation was accepted or revoked, or it has expired: ask for a new one.")
    if org.suspend_time:
        raise OrgSuspended
    if await store.find_member(tx, user.id):
        raise AlreadyExists("You are already a member of this organization.", "token")
    if await store.is_being_erased(tx, user.id):
        message = "What you have left in this organization is being erased: accept again in a few minutes."
        raise FailedPrecondition(pb.ERROR_REASON_ERASURE_RUNNING, message)
    invitation.accept_time, invitation.accepter_id = now(), user.id
    await store.close_invitations_to(tx, user.id, user.email)
    role = RoleChoice(invitation.role, invitation.custom_role_id)
    tx.add(new_membership(org.id, user.id, role))
    append(tx, event.EVENT_TYPE_MEMBER_ADDED, user_id=user.id)
    return org, role


def is_open(invitation: Invitation) -> bool:
    """Return whether the invitation can be accepted."""
    return not (invitation.accept_time or invitation.revoke_time or is_over(invitation.expire_time))


def check_verified(user: User) -> None:
    if user.kind == "person" and user.verify_time is None:
        raise email_unverified()


def new_membership(org_id: UUID, user_id: UUID, role: RoleChoice, creator_key_id: UUID | None = None) -> Membership:
    return Membership(
        org_id=org_id,
        user_id=user_id,
        role=role.name,
        custom_role_id=role.custom_role_id,
        version=1,
        create_time=now(),
        creator_key_id=creator_key_id,
    )


async def update_member(
    tx: WriteSession, org_id: UUID, user_id: UUID, etag: str, role: RoleChoice | None, caller: Principal
) -> tuple[Membership, User]:
    await lock_org(tx, org_id, "member.org_id")
    member, user = await find_member(tx, user_id, "member.user_id")
    check_etag(etag, member.version, "member.etag")
    if role and role != role_of(member):
        check_may_have(user, role, "member.role")
        permissions = await permissions_of(tx, role, "member.custom_role_id")
        await check_may_grant(tx, caller, permissions, await permissions_of(tx, role_of(member)))
        await _check_owner_left(tx, member)
        await withdraw_invitations(tx, user_id, permissions)
        member.role, member.custom_role_id = role
        _note_update(tx, member)
    return member, user


async def remove_member(tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal) -> None:
    await lock_org(tx, org_id, "org_id")
    member, user = await find_member(tx, user_id, "user_id")
    if user_id != caller.user_id or caller.key:
        await check_may_grant(tx, caller, await permissions_of(tx, role_of(member)))
    elif member.suspend_time:  # suspended after authorization; leaving would allow coming back without reinstatement
        raise NotFound("org_id")
    await _check_owner_left(tx, member)
    await withdraw_invitations(tx, user_id, frozenset())
    await store.close_invitations_to(tx, user_id, user.email)
    await _end_membership(tx, user_id)


async def leave_all(tx: WriteSession, user: User) -> Sequence[UUID]:
    """End all memberships of a person, with their teams and workspaces. Return the organizations.

    Raises FailedPrecondition for the only owner of one, and OnHold where a legal hold keeps what the person wrote.
    Organizations are locked in the order of their ids, so that concurrent calls cannot deadlock.
    """
    left = await store.list_membership_orgs(tx, user.id)
    await check_orgs(tx, {*left, *await store.list_run_orgs(tx, user.id)})
    owned = []
    for org_id in left:
        await set_tenant(tx, org_id)
        await store.lock_org(tx, org_id)
        found = await store.find_member(tx, user.id)
        if found is None:  # removed concurrently, alone or with the organization
            continue
        if await _is_last_owner(tx, found[0]):
            owned.append(org_id)
            continue
        await withdraw_invitations(tx, user.id, frozenset())
        await _end_membership(tx, user.id)
    if owned:
        raise _last_owner_of(owned)
    for org_id in await store.list_invitation_orgs(tx, user.id):
        await set_tenant(tx, org_id)
        await store.delete_invitations_of(tx, user)
    return left


async def _end_membership(tx: WriteSession, user_id: UUID) -> None:
    await store.remove_member(tx, user_id)
    append(tx, event.EVENT_TYPE_MEMBER_REMOVED, user_id=user_id)


def _note_update(tx: WriteSession, member: Membership) -> None:
    member.version += 1
    append(tx, event.EVENT_TYPE_MEMBER_UPDATED, user_id=member.user_id)


async def give_up_address(tx: WriteSession, user: User) -> None:
    """Revoke open invitations to the current address of a person, in all organizations.

    Otherwise somebody who is removed under a new address could return to this one and accept an old invitation.
    """
    for org_id in sorted(await store.list_invitation_orgs(tx, user.id)):
        await set_tenant(tx, org_id)
        await store.close_invitations_to(tx, user.id, user.email)


async def suspend_member(tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal) -> tuple[Membership, User]:
    if user_id == caller.user_id:
        raise InvalidArgument({"user_id": "is your own: you cannot suspend yourself"})
    await lock_org(tx, org_id, "org_id")
    member, user = await find_member(tx, user_id, "user_id")
    await check_may_grant(tx, caller, await permissions_of(tx, role_of(member)))
    await withdraw_invitations(tx, user_id, frozenset())
    await store.close_invitations_to(tx, user_id, user.email)
    if member.suspend_time is None:
        await _check_owner_left(tx, member)
        member.suspend_time = now()
        _note_update(tx, member)
    return member, user


async def reinstate_member(tx: WriteSession, org_id: UUID, user_id: UUID, caller: Principal) -> tuple[Membership, User]:
    await lock_org(tx, org_id, "org_id")
    member, user = await find_member(tx, user_id, "user_id")
    await check_may_grant(tx, caller, await permissions_of(tx, role_of(member)))
    if member.suspend_time:
        member.suspend_time = None
        _note_update(tx, member)
    return member, user


async def lock_org(tx: WriteSession, org_id: UUID, field: str) -> Org:
    """Lock the organization and its memberships until the transaction ends, and return it.

    Raises Unauthenticated if the caller's session or key has ended while the call waited for the lock: what it creates
    would not be revoked with the key.
    """
    org = await store.lock_org(tx, org_id)
    if org is None:
        raise NotFound(field)
    # Checked once per transaction, because the transaction itself may end the caller's key.
    if not tx.info.get("caller_checked"):
        if not await users.credentials_work(tx, current_principal()):
            raise Unauthenticated
        tx.info["caller_checked"] = True
    return org


async def find_member(tx: WriteSession, user_id: UUID, field: str) -> tuple[Membership, User]:
    found = await store.find_member(tx, user_id)
    if found is None:
        raise NotFound(field)
    return found


async def withdraw_invitations(tx: WriteSession, inviter_id: UUID, permissions: frozenset[str]) -> None:
    """Revoke the pending invitations that the inviter could no longer create with these permissions."""
    pending = await store.pending_invitations(tx, inviter_id)
    needed = await _needed_for(tx, pending)
    for invitation in pending:
        if not needed[role_of(invitation)] <= permissions:
            invitation.revoke_time = now()


async def _offered(tx: ReadSession, invitation: Invitation) -> frozenset[str]:
    return await permissions_of(tx, role_of(invitation))


async def _needed_for(tx: ReadSession, invitations: Sequence[Invitation]) -> dict[RoleChoice, frozenset[str]]:
    """Return the permissions of each role that is offered, read once per role."""
    roles = {role_of(invitation) for invitation in invitations}
    return {role: await permissions_of(tx, role) | {"invitation.manage"} for role in roles}


async def take_back_invitations(
    tx: WriteSession, invitations: Sequence[Invitation], caller: Principal
) -> PermissionMissing | None:
    """Revoke the open invitations that the caller may revoke. Return the reason why another one stays open."""
    pending = [invitation for invitation in invitations if is_open(invitation)]
    permissions, refused = granted(await principal_now(tx, caller)), None
    needed = await _needed_for(tx, pending)
    for invitation in pending:
        try:
            check_within(permissions, needed[role_of(invitation)])
            invitation.revoke_time = now()
        except PermissionMissing as error:
            refused = error
    return refused


async def _check_owner_left(tx: WriteSession, leaving: Membership) -> None:
    """Raise FailedPrecondition if no owner would be left.

    The organization must be locked: two owners that leave at the same time must not both see the other.
    """
    if await _is_last_owner(tx, leaving):
        raise FailedPrecondition(pb.ERROR_REASON_LAST_OWNER, "An organization must keep at least one owner.")


async def _is_last_owner(tx: WriteSession, leaving: Membership) -> bool:
    return leaving.role == "owner" and not leaving.suspend_time and await store.count_owners(tx) == 1


def _last_owner_of(org_ids: Sequence[UUID]) -> FailedPrecondition:
    return FailedPrecondition(
        pb.ERROR_REASON_LAST_OWNER,
        "You are the only owner of an organization: make somebody else an owner, or delete it first.",
        metadata={"org_ids": ",".join(map(str, org_ids[:_MOST_NAMED]))},
    )


def _invitation_closed(message: str) -> FailedPrecondition:
    return FailedPrecondition(pb.ERROR_REASON_INVITATION_CLOSED, message)
