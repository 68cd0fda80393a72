"""Backends that call with an API key."""

from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any
from uuid import uuid4

from aiworkspace.v1 import org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.auth.authority import ROLES, WORKSPACE_PERMISSIONS
from tests.backdoor import sql
from tests.conftest import Stores
from tests.people import Person

EVERY = sorted(ROLES["owner"])
OF_ADMINS = sorted(ROLES["admin"])
OF_WORKSPACES = sorted(WORKSPACE_PERMISSIONS)

NewBackend = Callable[[str], Person]


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
