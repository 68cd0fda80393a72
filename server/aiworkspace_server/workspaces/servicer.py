"""WorkspaceService: proto in and out, one transaction per call."""

from collections.abc import Awaitable, Callable
from typing import Any
from uuid import UUID

from aiworkspace.v1 import workspace_pb2 as pb
from aiworkspace.v1.workspace_pb2_grpc import WorkspaceServiceServicer

from ..auth.authority import current_principal
from ..kit.context import caller_id, tenant_id
from ..kit.errors import InvalidArgument, NotFound
from ..kit.idempotency import IdempotencyStore
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database, WriteSession
from ..kit.timestamps import timestamp
from ..orgs.servicer import RightsLost
from ..policies.providers import Providers
from . import members, service, store
from .members import Who
from .models import Workspace, WorkspaceMember
from .retrieval import AreCollections, check_collections, read_retrieval, retrieval_to_proto
from .service import WorkspaceFinder
from .store import WorkspaceRow

_VISIBILITIES = {
    name.removeprefix("WORKSPACE_VISIBILITY_").lower(): value for name, value in pb.WorkspaceVisibility.items()
}
# Called in the transaction of a deletion; enqueues the erasure of the workspace's content.
Erase = Callable[[WriteSession, UUID, UUID], Awaitable[None]]


class WorkspaceServicer(WorkspaceServiceServicer):
    def __init__(
        self,
        db: Database,
        providers: Providers,
        finder: WorkspaceFinder,
        rights_lost: RightsLost,
        erase: Erase,
        are_collections: AreCollections,
        pages: Pages,
        idempotency: IdempotencyStore,
    ) -> None:
        self._db = db
        self._providers = providers
        self._finder = finder
        self._rights_lost = rights_lost
        self._erase = erase
        self._are_collections = are_collections
        self._pages = pages
        self._idempotency = idempotency

    async def CreateWorkspace(self, request: pb.CreateWorkspaceRequest, context: Any) -> pb.CreateWorkspaceResponse:
        model = request.default_model or await self._default_model()
        await self._providers.check(tenant_id(), model, "default_model")
        values = {"name": request.name, "default_model": model, "system_prompt": request.system_prompt}
        values["visibility"] = _visibility(request.visibility or pb.WORKSPACE_VISIBILITY_ORG)
        retrieval = read_retrieval(request)
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._idempotency.find(tx, request, pb.CreateWorkspaceResponse):
                return reply
            workspace = await service.create_workspace(
                tx, tenant_id(), {**values, "retrieval": retrieval}, current_principal()
            )
            await check_collections(self._are_collections, tx, workspace.id, retrieval, "retrieval")
            reply = pb.CreateWorkspaceResponse(workspace=_workspace_to_proto(workspace))
            return await self._idempotency.save(tx, request, reply)

    async def GetWorkspace(self, request: pb.GetWorkspaceRequest, context: Any) -> pb.GetWorkspaceResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        workspace = await store.read_workspace(self._db, tenant_id(), workspace_id)
        if workspace is None:
            raise NotFound("workspace_id")
        return pb.GetWorkspaceResponse(workspace=_workspace_to_proto(workspace))

    async def ListWorkspaces(self, request: pb.ListWorkspacesRequest, context: Any) -> pb.ListWorkspacesResponse:
        async with self._db.read(tenant_id()) as tx:
            caller, after = current_principal(), self._pages.after_id(request)
            rows = await store.list_workspaces(tx, caller, tenant_id(), after, self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda workspace: [workspace.id])
        return pb.ListWorkspacesResponse(workspaces=map(_workspace_to_proto, rows), next_page_token=more)

    async def UpdateWorkspace(self, request: pb.UpdateWorkspaceRequest, context: Any) -> pb.UpdateWorkspaceResponse:
        given = request.workspace
        values = changes(given, request.update_mask, {"name", "default_model", "system_prompt", "retrieval"})
        if "retrieval" in values:
            values["retrieval"] = read_retrieval(given)
        workspace_id = parse_id(given.workspace_id, "workspace.workspace_id")
        if "default_model" in values:
            await self._providers.check(tenant_id(), values["default_model"], "workspace.default_model")
        async with self._db.write(tenant_id()) as tx:
            workspace = await service.update_workspace(tx, workspace_id, given.etag, values)
            retrieval = values.get("retrieval")
            await check_collections(self._are_collections, tx, workspace_id, retrieval, "workspace.retrieval")
        return pb.UpdateWorkspaceResponse(workspace=_workspace_to_proto(workspace))

    async def DeleteWorkspace(self, request: pb.DeleteWorkspaceRequest, context: Any) -> pb.DeleteWorkspaceResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.write(tenant_id()) as tx:
            await service.delete_workspace(tx, tenant_id(), workspace_id, current_principal())
            await self._erase(tx, tenant_id(), workspace_id)
        await self._withdrawn(workspace_id)
        return pb.DeleteWorkspaceResponse()

    async def SetWorkspaceVisibility(
        self, request: pb.SetWorkspaceVisibilityRequest, context: Any
    ) -> pb.SetWorkspaceVisibilityResponse:
        workspace_id, caller = parse_id(request.workspace_id, "workspace_id"), current_principal()
        visibility = _visibility(request.visibility)
        async with self._db.write(tenant_id()) as tx:
            workspace = await service.set_visibility(tx, tenant_id(), workspace_id, visibility, caller)
        await self._withdrawn(workspace_id)
        return pb.SetWorkspaceVisibilityResponse(workspace=_workspace_to_proto(workspace))

    async def SetWorkspaceMember(
        self, request: pb.SetWorkspaceMemberRequest, context: Any
    ) -> pb.SetWorkspaceMemberResponse:
        workspace_id, who = parse_id(request.workspace_id, "workspace_id"), _who(request)
        role = pb.WorkspaceRole.Name(request.role).removeprefix("WORKSPACE_ROLE_").lower()
        async with self._db.write(tenant_id()) as tx:
            caller = current_principal()
            member, name = await members.set_member(tx, tenant_id(), workspace_id, who, role, caller)
        await self._withdrawn(workspace_id)  # the previous role may have been higher
        return pb.SetWorkspaceMemberResponse(member=_member_to_proto(member, name))

    async def RemoveWorkspaceMember(
        self, request: pb.RemoveWorkspaceMemberRequest, context: Any
    ) -> pb.RemoveWorkspaceMemberResponse:
        workspace_id, who = parse_id(request.workspace_id, "workspace_id"), _who(request)
        async with self._db.write(tenant_id()) as tx:
            await members.remove_member(tx, tenant_id(), workspace_id, who, current_principal())
        await self._withdrawn(workspace_id)
        return pb.RemoveWorkspaceMemberResponse()

    async def ListWorkspaceMembers(
        self, request: pb.ListWorkspaceMembersRequest, context: Any
    ) -> pb.ListWorkspaceMembersResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.read(tenant_id()) as tx:
            after, limit = self._pages.after_id(request), self._pages.limit(request)
            rows = await store.list_members(tx, workspace_id, after, limit)
        rows, more = self._pages.cut(request, rows, lambda row: [row[0].member_id])
        return pb.ListWorkspaceMembersResponse(members=[_member_to_proto(*row) for row in rows], next_page_token=more)

    async def _default_model(self) -> str:
        async with self._db.read(tenant_id()) as tx:
            return await service.default_model(tx, tenant_id())

    async def _withdrawn(self, workspace_id: UUID) -> None:
        """Drop caches and cancel runs after a change that may have taken rights away."""
        self._finder.forget(workspace_id)
        await self._rights_lost(tenant_id())


def _who(request: pb.SetWorkspaceMemberRequest | pb.RemoveWorkspaceMemberRequest) -> Who:
    if bool(request.user_id) == bool(request.team_id):
        raise InvalidArgument({"user_id": "set either user_id or team_id, not both"})
    if request.user_id:
        return Who(parse_id(request.user_id, "user_id"), None)
    return Who(None, parse_id(request.team_id, "team_id"))


def _visibility(value: pb.WorkspaceVisibility.ValueType) -> str:
    return pb.WorkspaceVisibility.Name(value).removeprefix("WORKSPACE_VISIBILITY_").lower()


def _workspace_to_proto(workspace: Workspace | WorkspaceRow) -> pb.Workspace:
    return pb.Workspace(
        workspace_id=str(workspace.id),
        org_id=str(workspace.org_id),
        name=workspace.name,
        default_model=workspace.default_model,
        system_prompt=workspace.system_prompt,
        visibility=_VISIBILITIES[workspace.visibility],
        create_time=timestamp(workspace.create_time),
        update_time=timestamp(workspace.update_time),
        etag=str(workspace.version),
        retrieval=retrieval_to_proto(workspace.retrieval),
    )


def _member_to_proto(member: WorkspaceMember, name: str) -> pb.WorkspaceMember:
    return pb.WorkspaceMember(
        workspace_id=str(member.workspace_id),
        user_id=str(member.user_id or ""),
        team_id=str(member.team_id or ""),
        display_name=name,
        role=pb.WorkspaceRole.Value(f"WORKSPACE_ROLE_{member.role.upper()}"),
        create_time=timestamp(member.create_time),
    )
