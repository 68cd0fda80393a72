"""Organizations, their members and their invitations: the calls, short enough for tables."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import org_pb2 as pb
from tests.support.outcomes import OK, outcome
from tests.support.people import Person
from tests.support.staff import Team


async def get_org(person: Person, org_id: str) -> pb.Org:
    org: pb.Org = (await person.orgs.GetOrg(pb.GetOrgRequest(org_id=org_id))).org
    return org


async def has_access(person: Person, org_id: str) -> bool:
    return await outcome(get_org(person, org_id)) == OK


async def update_org(person: Person, org_id: str, *paths: str, **fields: Any) -> pb.Org:
    request = pb.UpdateOrgRequest(org=pb.Org(org_id=org_id, **fields), update_mask=FieldMask(paths=paths))
    org: pb.Org = (await person.orgs.UpdateOrg(request)).org
    return org


def delete_org(person: Person, org_id: str) -> Any:
    return person.orgs.DeleteOrg(pb.DeleteOrgRequest(org_id=org_id))


async def list_members(person: Person, org_id: str) -> list[pb.Member]:
    return list((await person.orgs.ListMembers(pb.ListMembersRequest(org_id=org_id))).members)


def update_member(by: Person, org_id: str, person: Person, *paths: str, role: int = 0, **fields: Any) -> Any:
    member = pb.Member(org_id=org_id, user_id=person.user_id, role=pb.Role.ValueType(role), **fields)
    return by.orgs.UpdateMember(pb.UpdateMemberRequest(member=member, update_mask=FieldMask(paths=paths)))


def remove_member(by: Person, org_id: str, person: Person) -> Any:
    return by.orgs.RemoveMember(pb.RemoveMemberRequest(org_id=org_id, user_id=person.user_id))


def suspend(by: Person, org_id: str, person: Person) -> Any:
    return by.orgs.SuspendMember(pb.SuspendMemberRequest(org_id=org_id, user_id=person.user_id))


def reinstate(by: Person, org_id: str, person: Person) -> Any:
    return by.orgs.ReinstateMember(pb.ReinstateMemberRequest(org_id=org_id, user_id=person.user_id))


def invitation(org_id: str, email: str, role: int = pb.ROLE_MEMBER, **fields: str) -> pb.CreateInvitationRequest:
    return pb.CreateInvitationRequest(org_id=org_id, email=email, role=pb.Role.ValueType(role), **fields)


def invite(by: Person, org_id: str, email: str, role: int = pb.ROLE_MEMBER, role_id: str = "") -> Any:
    return by.orgs.CreateInvitation(invitation(org_id, email, role, custom_role_id=role_id))


def invite_outsider(team: Team, role: int = pb.ROLE_MEMBER) -> Any:
    return invite(team.admin, team.org_id, team.outsider.email, role)


def accept(person: Person, token: str, request_id: str = "") -> Any:
    return person.orgs.AcceptInvitation(pb.AcceptInvitationRequest(token=token, request_id=request_id))


def revoke_invitation(by: Person, invited: pb.Invitation) -> Any:
    request = pb.RevokeInvitationRequest(org_id=invited.org_id, invitation_id=invited.invitation_id)
    return by.orgs.RevokeInvitation(request)


async def list_invitations(by: Person, org_id: str) -> list[pb.Invitation]:
    """At most a thousand, the latest first."""
    request = pb.ListInvitationsRequest(org_id=org_id, page_size=1000)
    return list((await by.orgs.ListInvitations(request)).invitations)
