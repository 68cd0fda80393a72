"""Roles that an organization makes for itself, and who has them."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import access_pb2, org_pb2
from aiworkspace_server.auth.api_keys import new_key, secret_hash
from aiworkspace_server.auth.authority import PERMISSIONS
from aiworkspace_server.kit.ids import new_id
from tests.backdoor import sql
from tests.conftest import Stores
from tests.people import Person
from tests.team import Team

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


def suspend(by: Person, org_id: str, person: Person) -> Any:
    return by.orgs.SuspendMember(org_pb2.SuspendMemberRequest(org_id=org_id, user_id=person.user_id))


def reinstate(by: Person, org_id: str, person: Person) -> Any:
    return by.orgs.ReinstateMember(org_pb2.ReinstateMemberRequest(org_id=org_id, user_id=person.user_id))


async def add_service_account(stores: Stores, org_id: str, role: str, account: Person, *scopes: str) -> None:
    """Makes the unregistered `account` one of the organization, that calls with a key of these permissions."""
    account.user_id = str(new_id())
    await sql(
        stores,
        "INSERT INTO users (id, kind, display_name, create_time, update_time)"
        " VALUES (%s, 'service', 'Backend', now(), now())",
        account.user_id,
    )
    await sql(
        stores,
        "INSERT INTO memberships (org_id, user_id, role, create_time) VALUES (%s, %s, %s, now())",
        *(org_id, account.user_id, role),
    )
    await use_new_key(stores, org_id, account, *scopes)


async def use_new_key(stores: Stores, org_id: str, account: Person, *scopes: str) -> None:
    """Lets the service account call with a new key of these permissions."""
    key = new_key()
    await sql(
        stores,
        "INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited,"
        " creator_id, create_time) VALUES (%s, %s, %s, 'key', %s, %s, %s, false, %s, now())",
        *(org_id, str(new_id()), account.user_id, key[:13], secret_hash(key), list(scopes), account.user_id),
    )
    account.bearer.token = key
