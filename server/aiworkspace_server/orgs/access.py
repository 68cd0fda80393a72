"""Authorization: from the scope that the contract names to the organization, the role, and the permission."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any
from uuid import UUID

from ..auth.principal import Authenticator
from ..kit.context import Call
from ..kit.contract import value_at
from ..kit.errors import NotFound, PermissionMissing
from ..kit.ids import parse_id
from .roles import PERMISSIONS

# Finds the organization of a resource that the call's principal may see, or None.
FindOrg = Callable[[Call, UUID], Awaitable[UUID | None]]


class Access:
    """The check that every method with a permission passes before anything else looks at its request."""

    def __init__(self, authenticator: Authenticator, finders: Mapping[str, FindOrg]) -> None:
        self._authenticator = authenticator
        self._finders: dict[str, FindOrg] = {"org_id": _itself, **finders}

    @property
    def scopes(self) -> tuple[str, ...]:
        """Names of the fields from which an organization can be found."""
        return tuple(self._finders)

    async def authorize(self, call: Call, request: Any) -> None:
        """Sets the call's tenant. Raises NotFound to people outside it and PermissionMissing to those inside."""
        path = call.method.access.scope
        resource_id = parse_id(value_at(request, path), path)
        if not await self._allowed(call, request, path, resource_id):
            await self._authenticator.refresh(call)  # what was granted a moment ago counts
            if not await self._allowed(call, request, path, resource_id):
                raise PermissionMissing(call.method.access.permission) if call.org_id else NotFound(path)

    async def _allowed(self, call: Call, request: Any, path: str, resource_id: UUID) -> bool:
        org_id = await self._finders[path.rpartition(".")[2]](call, resource_id)
        call.org_id = org_id if org_id in call.principal.roles else None
        if org_id is None or call.org_id is None:
            return False
        declared = call.method.access
        if declared.self_field and value_at(request, declared.self_field).lower() == str(call.user_id):
            return True
        return declared.permission in PERMISSIONS[call.principal.roles[org_id]]


async def _itself(call: Call, org_id: UUID) -> UUID | None:
    return org_id
