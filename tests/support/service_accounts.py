"""Service accounts and their API keys, made through the contract or written straight into PostgreSQL."""

import uuid
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.auth.api_keys import new_key, secret_hash
from aiworkspace_server.auth.authority import ROLES, WORKSPACE_PERMISSIONS
from aiworkspace_server.kit.ids import new_id
from tests.support.people import Person
from tests.support.postgres import sql
from tests.support.stores import Stores

EVERY = sorted(ROLES["owner"])
OF_ADMINS = sorted(ROLES["admin"])
OF_WORKSPACES = sorted(WORKSPACE_PERMISSIONS)

NewBackend = Callable[[str], Person]

_USER = (
    "INSERT INTO users (id, kind, display_name, create_time, update_time) VALUES (%s, 'service', 'Robot', now(), now())"
)
_MEMBER = "INSERT INTO memberships (org_id, user_id, role, create_time) VALUES (%s, %s, %s, now())"
_KEY = """
INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited, creator_id,
                      create_time)
VALUES (%s, %s, %s, 'Key', 'aiws_', %s, %s, %s, %s, now())
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


async def make_robot(
    stores: Stores,
    address: str,
    org_id: str,
    role: str,
    permissions: Sequence[str],
    workspace_ids: Sequence[str] | None = None,
) -> Person:
    """Calls with a key of these permissions, in these workspaces or all. To be closed by the caller."""
    robot, key, key_id = Person(address), new_key(), uuid.uuid4()
    robot.user_id = str(uuid.uuid4())
    await sql(stores, _USER, robot.user_id)
    await sql(stores, _MEMBER, org_id, robot.user_id, role)
    limited = workspace_ids is not None
    whose = key_id, robot.user_id, secret_hash(key), list(permissions), limited, robot.user_id
    await sql(stores, _KEY, org_id, *whose)
    for workspace_id in workspace_ids or ():
        await sql(stores, "INSERT INTO api_key_workspaces VALUES (%s, %s, %s)", org_id, key_id, workspace_id)
    robot.bearer.token = key
    return robot


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


@asynccontextmanager
async def backends(address: str) -> AsyncIterator[NewBackend]:
    """Makes connections that call with a key, and closes them at the end."""
    known: list[Person] = []

    def new_backend(secret: str) -> Person:
        backend = Person(address)
        backend.bearer.token = secret
        known.append(backend)
        return backend

    yield new_backend
    for backend in known:
        await backend.channel.close()
