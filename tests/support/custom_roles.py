"""Roles that an organization makes for itself, and who has them."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import access_pb2, org_pb2
from aiworkspace_server.auth.authority import PERMISSIONS
from tests.support.people import Person
from tests.support.staff import Team

ALL = sorted(PERMISSIONS)
CUSTOM, BILLING = org_pb2.ROLE_CUSTOM, org_pb2.ROLE_BILLING


def create(by: Person, org_id: str, *permissions: str, name: str = "Special", request_id: str = "") -> Any:
    request = access_pb2.CreateCustomRoleRequest(
        org_id=org_id, name=name, permissions=permissions, request_id=request_id
    )
    return by.access.CreateCustomRole(request)


async def make_role(by: Person, org_id: str, *permissions: str) -> str:
    return str((await create(by, org_id, *permissions)).role.custom_role_id)


def update(by: Person, org_id: str, role_id: str, *paths: str, etag: str = "", **values: Any) -> Any:
    role = access_pb2.CustomRole(org_id=org_id, custom_role_id=role_id, etag=etag, **values)
    return by.access.UpdateCustomRole(access_pb2.UpdateCustomRoleRequest(role=role, update_mask=FieldMask(paths=paths)))


def delete(by: Person, org_id: str, role_id: str) -> Any:
    return by.access.DeleteCustomRole(access_pb2.DeleteCustomRoleRequest(org_id=org_id, custom_role_id=role_id))


async def listed(by: Person, org_id: str) -> list[access_pb2.CustomRole]:
    request = access_pb2.ListCustomRolesRequest(org_id=org_id, page_size=1000)
    return list((await by.access.ListCustomRoles(request)).roles)


def assign(by: Person, org_id: str, person: Person, role: int = CUSTOM, role_id: str = "") -> Any:
    member = org_pb2.Member(
        org_id=org_id, user_id=person.user_id, role=org_pb2.Role.ValueType(role), custom_role_id=role_id
    )
    return by.orgs.UpdateMember(org_pb2.UpdateMemberRequest(member=member))


async def restrict(team: Team, person: Person, *permissions: str) -> str:
    """Leaves the person with these permissions alone. Returns the id of the role."""
    role_id = await make_role(team.owner, team.org_id, *permissions)
    await assign(team.owner, team.org_id, person, role_id=role_id)
    return role_id
