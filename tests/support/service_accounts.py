"""Service accounts and their API keys, made through the contract or written straight into PostgreSQL."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any
from uuid import uuid4

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.auth.api_keys import new_key, secret_hash, visible_part
from aiworkspace_server.auth.authority import ROLES, WORKSPACE_PERMISSIONS
from aiworkspace_server.kit.ids import new_id
from tests.support.people import Person
from tests.support.postgres import sql
from tests.support.stores import Stores

EVERY = sorted(ROLES["owner"])
OF_ADMINS = sorted(ROLES["admin"])
OF_WORKSPACES = sorted(WORKSPACE_PERMISSIONS)

NewBackend = Callable[[str], Person]

_USER = """
INSERT INTO users (id, kind, display_name, create_time, update_time) VALUES (%s, 'service', 'Robot', now(), now())
"""
_MEMBER = "INSERT INTO memberships (org_id, user_id, role, create_time) VALUES (%s, %s, %s, now())"
_KEY = """
INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited, creator_id,
                      create_time)
VALUES (%s, %s, %s, 'Key', %s, %s, %s, %s, %s, now())
"""


async def make_account(owner: Person, org_id: str, **fields: Any) -> str:
    """A service account, an admin unless the fields say otherwise."""
    asked: dict[str, Any] = {"name": "Robot", "role": org_pb2.ROLE_ADMIN} | fields
    response = await owner.service_accounts.CreateServiceAccount(pb.CreateServiceAccountRequest(org_id=org_id, **asked))
    return str(response.service_account.user_id)


def key_request(org_id: str, user_id: str, permissions: Iterable[str] = OF_ADMINS, **fields: Any) -> Any:
    asked: dict[str, Any] = {"name": "production"} | fields
    return pb.CreateApiKeyRequest(org_id=org_id, user_id=user_id, permissions=permissions, **asked)


async def make_key(
    owner: Person, org_id: str, user_id: str, permissions: Iterable[str] = OF_ADMINS, **fields: Any
) -> pb.CreateApiKeyResponse:
    made: pb.CreateApiKeyResponse = await owner.service_accounts.CreateApiKey(
        key_request(org_id, user_id, permissions, **fields)
    )
    return made


async def make_custom_role(stores: Stores, org_id: str, permissions: Iterable[str]) -> str:
    role_id = str(uuid4())
    columns = "org_id, id, name, permissions, create_time, update_time"
    made = f"INSERT INTO custom_roles ({columns}) VALUES (%s, %s, 'Own', %s, now(), now())"
    await sql(stores, made, org_id, role_id, list(permissions))
    return role_id


async def rotate_key(by: Person, key: pb.ApiKey, **fields: Any) -> pb.RotateApiKeyResponse:
    request = pb.RotateApiKeyRequest(org_id=key.org_id, api_key_id=key.api_key_id, **fields)
    rotated: pb.RotateApiKeyResponse = await by.service_accounts.RotateApiKey(request)
    return rotated


async def revoke_key(by: Person, key: pb.ApiKey, **fields: Any) -> pb.RevokeApiKeyResponse:
    request = pb.RevokeApiKeyRequest(org_id=key.org_id, api_key_id=key.api_key_id, **fields)
    revoked: pb.RevokeApiKeyResponse = await by.service_accounts.RevokeApiKey(request)
    return revoked


async def make_robot(
    stores: Stores,
    address: str,
    org_id: str,
    role: str,
    permissions: Iterable[str],
    workspace_ids: Sequence[str] | None = None,
) -> Person:
    """A new service account with a key of these permissions, past the contract. To be disconnected by the caller."""
    robot = Person(address)
    await insert_account(stores, org_id, role, robot, *permissions, workspace_ids=workspace_ids)
    return robot


async def insert_account(
    stores: Stores,
    org_id: str,
    role: str,
    account: Person,
    *permissions: str,
    workspace_ids: Sequence[str] | None = None,
) -> None:
    """Makes the unregistered `account` a service account that calls with a new key of these permissions."""
    account.user_id = str(new_id())
    await sql(stores, _USER, account.user_id)
    await sql(stores, _MEMBER, org_id, account.user_id, role)
    await insert_key(stores, org_id, account, *permissions, workspace_ids=workspace_ids)


async def insert_key(
    stores: Stores, org_id: str, account: Person, *permissions: str, workspace_ids: Sequence[str] | None = None
) -> None:
    """Lets the service account call with a new key of these permissions, in these workspaces or all."""
    key, key_id, limited = new_key(), new_id(), workspace_ids is not None
    what = visible_part(key), secret_hash(key), list(permissions), limited
    await sql(stores, _KEY, org_id, key_id, account.user_id, *what, account.user_id)
    for workspace_id in workspace_ids or ():
        await sql(stores, "INSERT INTO api_key_workspaces VALUES (%s, %s, %s)", org_id, key_id, workspace_id)
    account.bearer.token = key
