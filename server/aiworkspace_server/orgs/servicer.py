"""OrgService: proto in and out, one transaction per call."""

from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Any, Protocol
from uuid import UUID

from aiworkspace.v1 import org_pb2 as pb
from aiworkspace.v1.org_pb2_grpc import OrgServiceServicer

from ..auth import store as users
from ..auth.authority import Principal, current_principal
from ..auth.models import User
from ..auth.principal import Authenticator
from ..kit.context import caller_id, current, tenant_id
from ..kit.errors import InvalidArgument, NotFound, Unauthenticated
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import new_id, parse_id
from ..kit.mail_limits import SenderLimit
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database, WriteSession
from ..kit.tasks import Tasks
from ..kit.timestamps import LEEWAY, is_over, timestamp
from . import service, store
from .granting import RoleChoice, role_of
from .jobs import InvitationMails
from .models import Invitation, Membership
from .tokens import InvitationTokens

# Called with a new organization and its creator, in the transaction that creates it.
OrgCreated = Callable[[WriteSession, UUID, UUID], Awaitable[None]]
# Called after commit with an organization in which somebody has lost rights.
RightsLost = Callable[[UUID], Awaitable[None]]


# Raises PermissionMissing if the caller lacks a permission that the member has in a workspace.
CheckPlaces = Callable[[WriteSession, UUID, Principal, UUID], Awaitable[None]]


class RevokeMade(Protocol):
    """Revokes API keys that a member created, as far as the caller may: a person's only if the request says so."""

    async def __call__(
        self, tx: WriteSession, caller: Principal, user_id: UUID, *, of_person: bool = False
    ) -> tuple[Sequence[UUID], Sequence[UUID]]:
        """Return the keys that were revoked and those that remain valid."""


# Called in the transaction of a deletion; enqueues the erasure of the organization's content.
Erase = Callable[[WriteSession, UUID], Awaitable[None]]


class OrgServicer(OrgServiceServicer):
    def __init__(
        self,
        db: Database,
        authenticator: Authenticator,
        created: OrgCreated,
        rights_lost: RightsLost,
        tasks: Tasks,
        erase: Erase,
        check_places: CheckPlaces,
        revoke_made: RevokeMade,
        tokens: InvitationTokens,
        mails: InvitationMails,
        sender_limit: SenderLimit,
        require_verified: bool,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._authenticator = authenticator
        self._created = created
        self._rights_lost = rights_lost
        self._tasks = tasks
        self._erase = erase
        self._check_places = check_places
        self._revoke_made = revoke_made
        self._tokens = tokens
        self._mails = mails
        self._sender_limit = sender_limit
        self._require_verified = require_verified
        self._pages = pages
        self._idempotency = idempotency

    async def CreateOrg(self, request: pb.CreateOrgRequest, context: Any) -> pb.CreateOrgResponse:
        org_id = new_id()
        async with self._db.write(org_id, caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateOrgResponse):
                return reply
            self._check(await users.lock_user(tx, caller_id()))  # the account counts the organizations that it creates
            org = await service.create_org(tx, org_id, request.name, caller_id())
            await self._created(tx, org_id, caller_id())
            reply = pb.CreateOrgResponse(org=_org_to_proto(org, RoleChoice("owner")))
            await self._idempotency.save(tx, request, reply)
            current.get().org_id = org_id  # its audit log begins with this call
        self._authenticator.forget(caller_id())
        return reply

    async def GetOrg(self, request: pb.GetOrgRequest, context: Any) -> pb.GetOrgResponse:
        async with self._db.read(tenant_id()) as tx:
            org = await store.find_org(tx, tenant_id())
        if org is None:
            raise NotFound("org_id")
        return pb.GetOrgResponse(org=_org_to_proto(org, _own_role(), org.state_reason if org.suspend_time else None))

    async def ListOrgs(self, request: pb.ListOrgsRequest, context: Any) -> pb.ListOrgsResponse:
        key = current_principal().key
        if key and "org.read" not in key.permissions:
            return pb.ListOrgsResponse()
        async with self._db.read() as tx:
            rows = await store.list_orgs(tx, caller_id(), self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row.id])
        suspended = {org_id: each.suspended for org_id, each in current_principal().memberships.items()}
        orgs = [_org_to_proto(row, role_of(row), suspended.get(row.id)) for row in rows]
        return pb.ListOrgsResponse(orgs=orgs, next_page_token=more)

    async def UpdateOrg(self, request: pb.UpdateOrgRequest, context: Any) -> pb.UpdateOrgResponse:
        values = changes(request.org, request.update_mask, {"name"})
        async with self._db.write(tenant_id()) as tx:
            org = await service.update_org(tx, tenant_id(), request.org.etag, values, current_principal())
        return pb.UpdateOrgResponse(org=_org_to_proto(org, _own_role()))

    async def DeleteOrg(self, request: pb.DeleteOrgRequest, context: Any) -> pb.DeleteOrgResponse:
        async with self._db.write(tenant_id()) as tx:
            await service.delete_org(tx, tenant_id(), current_principal())
            await self._erase(tx, tenant_id())
        self._authenticator.forget_org(tenant_id())
        await self._rights_lost(tenant_id())
        return pb.DeleteOrgResponse()

    async def CreateInvitation(self, request: pb.CreateInvitationRequest, context: Any) -> pb.CreateInvitationResponse:
        org_id, email = tenant_id(), request.email
        role = read_role(request.role, request.custom_role_id, "")
        async with self._db.write(org_id, caller_id()) as tx:
            reply = await self._idempotency.find(tx, request, pb.CreateInvitationResponse)
            if reply is None:
                await self._sender_limit.count(caller_id(), org_id)
                invitation = await service.create_invitation(tx, org_id, email, role, current_principal())
                reply = pb.CreateInvitationResponse(invitation=invitation_to_proto(invitation))
                await self._idempotency.save(tx, request, reply)
                await self._mails.ask(tx, invitation)
        reply.invitation.email = email
        reply.token = self._tokens.make(org_id, UUID(reply.invitation.invitation_id))
        return reply

    async def ListInvitations(self, request: pb.ListInvitationsRequest, context: Any) -> pb.ListInvitationsResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_invitations(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda invitation: [invitation.id])
        return pb.ListInvitationsResponse(invitations=map(invitation_to_proto, rows), next_page_token=more)

    async def RevokeInvitation(self, request: pb.RevokeInvitationRequest, context: Any) -> pb.RevokeInvitationResponse:
        invitation_id = parse_id(request.invitation_id, "invitation_id")
        async with self._db.write(tenant_id()) as tx:
            invitation = await service.revoke_invitation(tx, tenant_id(), invitation_id, current_principal())
        return pb.RevokeInvitationResponse(invitation=invitation_to_proto(invitation))

    async def AcceptInvitation(self, request: pb.AcceptInvitationRequest, context: Any) -> pb.AcceptInvitationResponse:
        org_id, invitation_id = self._tokens.read(request.token)
        async with self._db.write(org_id, caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.AcceptInvitationResponse):
                org = await store.find_org(tx, org_id)
                reply.org.name = org.name if org else ""  # stored replies have no names
                return reply
            user = await self._caller(tx)
            org, role = await service.accept_invitation(tx, org_id, invitation_id, user)
            reply = await self._idempotency.save(tx, request, pb.AcceptInvitationResponse(org=_org_to_proto(org, role)))
            current.get().org_id = org_id  # the call is in this audit log. Refused calls are not: strangers cause them
        self._authenticator.forget(caller_id())
        return reply

    async def _caller(self, tx: WriteSession) -> User:
        """Return the caller. Raises FailedPrecondition if a verified email address is required and missing."""
        user = await users.hold_user(tx, caller_id())
        if user is None:
            raise Unauthenticated
        self._check(user)
        return user

    def _check(self, user: User) -> None:
        if self._require_verified:
            service.check_verified(user)

    async def ListMembers(self, request: pb.ListMembersRequest, context: Any) -> pb.ListMembersResponse:
        key = self._pages.after(request)
        after = (datetime.fromisoformat(key[0]), UUID(key[1])) if key else None
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_members(tx, after, self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].create_time, row[0].user_id])
        return pb.ListMembersResponse(members=[_member_to_proto(*row) for row in rows], next_page_token=more)

    async def UpdateMember(self, request: pb.UpdateMemberRequest, context: Any) -> pb.UpdateMemberResponse:
        member = request.member
        user_id = parse_id(member.user_id, "member.user_id")
        values = changes(member, request.update_mask, {"role", "custom_role_id"})
        role = read_role(values.get("role", pb.ROLE_CUSTOM), member.custom_role_id, "member.") if values else None
        caller = current_principal()
        async with self._db.write(tenant_id()) as tx:
            changed = await service.update_member(tx, tenant_id(), user_id, member.etag, role, caller)
        self._authenticator.forget(user_id)
        await self._rights_lost(tenant_id())
        return pb.UpdateMemberResponse(member=_member_to_proto(*changed))

    # Taking rights away may take long. It is completed even if the caller's deadline is shorter: otherwise each retry
    # would be rolled back as well.
    async def RemoveMember(self, request: pb.RemoveMemberRequest, context: Any) -> pb.RemoveMemberResponse:
        return await self._tasks.complete(self._remove(request))

    async def _remove(self, request: pb.RemoveMemberRequest) -> pb.RemoveMemberResponse:
        user_id, caller = parse_id(request.user_id, "user_id"), current_principal()
        async with self._db.write(tenant_id()) as tx:
            await self._check_places(tx, tenant_id(), caller, user_id)
            revoked, kept = await self._revoke_made(tx, caller, user_id, of_person=request.revoke_created_keys)
            await service.remove_member(tx, tenant_id(), user_id, caller)
        await self._access_lost(user_id, revoked)
        return pb.RemoveMemberResponse(revoked_api_key_ids=map(str, revoked), kept_api_key_ids=map(str, kept))

    async def SuspendMember(self, request: pb.SuspendMemberRequest, context: Any) -> pb.SuspendMemberResponse:
        return await self._tasks.complete(self._suspend(request))

    async def _suspend(self, request: pb.SuspendMemberRequest) -> pb.SuspendMemberResponse:
        user_id, caller = parse_id(request.user_id, "user_id"), current_principal()
        async with self._db.write(tenant_id()) as tx:
            await self._check_places(tx, tenant_id(), caller, user_id)
            revoked, kept = await self._revoke_made(tx, caller, user_id, of_person=request.revoke_created_keys)
            changed = await service.suspend_member(tx, tenant_id(), user_id, caller)
        await self._access_lost(user_id, revoked)
        return pb.SuspendMemberResponse(
            member=_member_to_proto(*changed), revoked_api_key_ids=map(str, revoked), kept_api_key_ids=map(str, kept)
        )

    async def _access_lost(self, user_id: UUID, revoked: Sequence[UUID]) -> None:
        if revoked:
            self._authenticator.forget_org(tenant_id())  # the keys belong to other accounts
        self._authenticator.forget(user_id)
        await self._rights_lost(tenant_id())

    async def ReinstateMember(self, request: pb.ReinstateMemberRequest, context: Any) -> pb.ReinstateMemberResponse:
        user_id = parse_id(request.user_id, "user_id")
        async with self._db.write(tenant_id()) as tx:
            await self._check_places(tx, tenant_id(), current_principal(), user_id)
            changed = await service.reinstate_member(tx, tenant_id(), user_id, current_principal())
        self._authenticator.forget(user_id)
        return pb.ReinstateMemberResponse(member=_member_to_proto(*changed))


def read_role(role: pb.Role.ValueType, custom_role_id: str, prefix: str) -> RoleChoice:
    """Return the role in a request, whose fields have this prefix. Only a custom role has an id."""
    if role == pb.ROLE_UNSPECIFIED:
        raise InvalidArgument({f"{prefix}role": "must be a role"})
    if (role == pb.ROLE_CUSTOM) != bool(custom_role_id):
        raise InvalidArgument({f"{prefix}custom_role_id": "must be given with ROLE_CUSTOM, and only with it"})
    name = pb.Role.Name(role).removeprefix("ROLE_").lower()
    return RoleChoice(name, parse_id(custom_role_id, f"{prefix}custom_role_id") if custom_role_id else None)


def role_to_proto(name: str) -> pb.Role.ValueType:
    return pb.Role.Value(f"ROLE_{name.upper()}")


def _own_role() -> RoleChoice:
    return role_of(current_principal().memberships[tenant_id()])


def _org_to_proto(org: Any, role: RoleChoice, suspended: str | None = None) -> pb.Org:
    """`org` is an Org or a row of list_orgs. `suspended` is why it is suspended, None if it is active."""
    return pb.Org(
        org_id=str(org.id),
        name=org.name,
        role=role_to_proto(role.name),
        custom_role_id=str(role.custom_role_id or ""),
        create_time=timestamp(org.create_time),
        update_time=timestamp(org.update_time),
        etag=str(org.version),
        state=pb.ORG_STATE_ACTIVE if suspended is None else pb.ORG_STATE_SUSPENDED,
        suspend_reason=suspended or "",
    )


def _member_to_proto(member: Membership, user: User) -> pb.Member:
    return pb.Member(
        org_id=str(member.org_id),
        user_id=str(member.user_id),
        email=user.email or "",
        email_verified=user.verify_time is not None,
        display_name=user.display_name,
        role=role_to_proto(member.role),
        custom_role_id=str(member.custom_role_id or ""),
        kind=pb.MEMBER_KIND_PERSON if user.kind == "person" else pb.MEMBER_KIND_SERVICE_ACCOUNT,
        state=pb.MEMBER_STATE_SUSPENDED if member.suspend_time else pb.MEMBER_STATE_ACTIVE,
        create_time=timestamp(member.create_time),
        etag=str(member.version),
    )


def invitation_to_proto(invitation: Invitation) -> pb.Invitation:
    return pb.Invitation(
        invitation_id=str(invitation.id),
        org_id=str(invitation.org_id),
        email=invitation.email,
        role=role_to_proto(invitation.role),
        custom_role_id=str(invitation.custom_role_id or ""),
        state=_invitation_state(invitation),
        inviter_id=str(invitation.inviter_id),
        creator_key_id=str(invitation.creator_key_id or ""),
        create_time=timestamp(invitation.create_time),
        expire_time=timestamp(invitation.expire_time),
    )


def _invitation_state(invitation: Invitation) -> pb.InvitationState.ValueType:
    if invitation.accept_time:
        return pb.INVITATION_STATE_ACCEPTED
    if invitation.revoke_time and invitation.revoke_time < invitation.expire_time + LEEWAY:
        return pb.INVITATION_STATE_REVOKED
    return pb.INVITATION_STATE_EXPIRED if is_over(invitation.expire_time) else pb.INVITATION_STATE_PENDING
