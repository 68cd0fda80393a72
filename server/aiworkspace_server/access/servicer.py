"""AccessService: proto in and out, one transaction per call."""

from collections.abc import Mapping
from typing import Any

from aiworkspace.v1 import access_pb2 as pb
from aiworkspace.v1.access_pb2_grpc import AccessServiceServicer

from ..auth.authority import Source, current_principal
from ..auth.principal import Authenticator
from ..kit.context import caller_id, current, tenant_id
from ..kit.contract import Method
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.timestamps import timestamp
from ..orgs.models import CustomRole
from ..orgs.servicer import RightsLost
from ..orgs.store import find_custom_role
from . import service, store
from .authorize import Access
from .explain import explain, find_method


class AccessServicer(AccessServiceServicer):
    def __init__(
        self,
        db: Database,
        authenticator: Authenticator,
        access: Access,
        methods: Mapping[str, Method],
        rights_lost: RightsLost,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._authenticator = authenticator
        self._access = access
        self._methods = methods
        self._rights_lost = rights_lost
        self._pages = pages
        self._idempotency = idempotency

    async def CreateCustomRole(self, request: pb.CreateCustomRoleRequest, context: Any) -> pb.CreateCustomRoleResponse:
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateCustomRoleResponse):
                return reply
            caller = current_principal()
            role = await service.create_role(tx, tenant_id(), request.name, request.permissions, caller)
            reply = pb.CreateCustomRoleResponse(role=_role_to_proto(role))
            return await self._idempotency.save(tx, request, reply)

    async def ListCustomRoles(self, request: pb.ListCustomRolesRequest, context: Any) -> pb.ListCustomRolesResponse:
        async with self._db.read(tenant_id()) as tx:
            rows = await store.list_roles(tx, self._pages.after_id(request), self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda role: [role.id])
        return pb.ListCustomRolesResponse(roles=map(_role_to_proto, rows), next_page_token=more)

    async def UpdateCustomRole(self, request: pb.UpdateCustomRoleRequest, context: Any) -> pb.UpdateCustomRoleResponse:
        given, caller = request.role, current_principal()
        values = changes(given, request.update_mask, {"name", "permissions"})
        custom_role_id = parse_id(given.custom_role_id, "role.custom_role_id")
        async with self._db.write(tenant_id()) as tx:
            role = await service.update_role(tx, tenant_id(), custom_role_id, given.etag, values, caller)
        self._authenticator.forget_org(tenant_id())
        await self._rights_lost(tenant_id())
        return pb.UpdateCustomRoleResponse(role=_role_to_proto(role))

    async def DeleteCustomRole(self, request: pb.DeleteCustomRoleRequest, context: Any) -> pb.DeleteCustomRoleResponse:
        custom_role_id = parse_id(request.custom_role_id, "custom_role_id")
        async with self._db.write(tenant_id()) as tx:
            await service.delete_role(tx, tenant_id(), custom_role_id, current_principal())
        return pb.DeleteCustomRoleResponse()

    async def ExplainAccess(self, request: pb.ExplainAccessRequest, context: Any) -> pb.ExplainAccessResponse:
        found = await explain(
            self._access, current.get(), find_method(self._methods, request.method), request.resource_id
        )
        grants = [await self._grant_to_proto(source) for source in found.grants]
        if not (found.permission or found.refusal):
            grants = [pb.Grant(source=pb.GRANT_SOURCE_METHOD)]
        return pb.ExplainAccessResponse(
            allowed=not found.refusal, permission=found.permission, grants=grants, refusal=found.refusal
        )

    async def _grant_to_proto(self, source: Source) -> pb.Grant:
        if source.team_id:
            return pb.Grant(source=pb.GRANT_SOURCE_TEAM, role=source.role, team_id=str(source.team_id))
        if source.in_workspace:
            return pb.Grant(source=pb.GRANT_SOURCE_WORKSPACE_MEMBER, role=source.role)
        return pb.Grant(source=pb.GRANT_SOURCE_ORG_ROLE, role=await self._org_role_name(source.role))

    async def _org_role_name(self, role: str) -> str:
        custom_role_id = current_principal().memberships[tenant_id()].custom_role_id
        if custom_role_id is None:
            return role
        async with self._db.read(tenant_id()) as tx:
            custom = await find_custom_role(tx, custom_role_id)
        return custom.name if custom else role


def _role_to_proto(role: CustomRole) -> pb.CustomRole:
    return pb.CustomRole(
        org_id=str(role.org_id),
        custom_role_id=str(role.id),
        name=role.name,
        permissions=role.permissions,
        create_time=timestamp(role.create_time),
        update_time=timestamp(role.update_time),
        etag=str(role.version),
    )
