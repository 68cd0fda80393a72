"""WorkspaceService: proto in and out, one transaction per call."""

from typing import Any

from aiworkspace.v1 import workspace_pb2 as pb
from aiworkspace.v1.workspace_pb2_grpc import WorkspaceServiceServicer

from ..kit.context import caller_id, current, tenant_id
from ..kit.errors import NotFound
from ..kit.ids import parse_id
from ..kit.masks import changes
from ..kit.pages import Pages
from ..kit.postgres import Database
from ..kit.replies import Replies
from ..kit.timestamps import timestamp
from ..llm.registry import Registry
from . import service, store
from .models import Workspace
from .service import WorkspaceFinder


class WorkspaceServicer(WorkspaceServiceServicer):
    def __init__(
        self, db: Database, registry: Registry, finder: WorkspaceFinder, pages: Pages, replies: Replies
    ) -> None:
        self._db = db
        self._registry = registry
        self._finder = finder
        self._pages = pages
        self._replies = replies

    async def CreateWorkspace(self, request: pb.CreateWorkspaceRequest, context: Any) -> pb.CreateWorkspaceResponse:
        model = request.default_model or service.DEFAULT_MODEL
        await service.resolve_model(self._registry, model, "default_model")
        values = {"name": request.name, "default_model": model, "system_prompt": request.system_prompt}
        values["visibility"] = "members" if request.visibility == pb.WORKSPACE_VISIBILITY_MEMBERS else "org"
        async with self._db.write(tenant_id(), caller_id()) as tx:
            if reply := await self._replies.earlier(tx, request, pb.CreateWorkspaceResponse):
                return reply
            workspace = await service.create_workspace(tx, tenant_id(), caller_id(), values)
            reply = pb.CreateWorkspaceResponse(workspace=_workspace_to_proto(workspace))
            return await self._replies.keep(tx, request, reply)

    async def GetWorkspace(self, request: pb.GetWorkspaceRequest, context: Any) -> pb.GetWorkspaceResponse:
        async with self._db.read(tenant_id()) as tx:
            workspace = await store.find_workspace(tx, parse_id(request.workspace_id, "workspace_id"))
        if workspace is None:
            raise NotFound("workspace_id")
        return pb.GetWorkspaceResponse(workspace=_workspace_to_proto(workspace))

    async def ListWorkspaces(self, request: pb.ListWorkspacesRequest, context: Any) -> pb.ListWorkspacesResponse:
        async with self._db.read(tenant_id()) as tx:
            caller, after = current.get().principal, self._pages.after_id(request)
            rows = await store.list_workspaces(tx, caller, tenant_id(), after, self._pages.limit(request))
        rows, more = self._pages.cut(request, rows, lambda workspace: [workspace.id])
        return pb.ListWorkspacesResponse(workspaces=map(_workspace_to_proto, rows), next_page_token=more)

    async def UpdateWorkspace(self, request: pb.UpdateWorkspaceRequest, context: Any) -> pb.UpdateWorkspaceResponse:
        given = request.workspace
        values = changes(given, request.update_mask, {"name", "default_model", "system_prompt"})
        workspace_id = parse_id(given.workspace_id, "workspace.workspace_id")
        if "default_model" in values:
            await service.resolve_model(self._registry, values["default_model"], "workspace.default_model")
        async with self._db.write(tenant_id()) as tx:
            workspace = await service.update_workspace(tx, workspace_id, given.etag, values)
        return pb.UpdateWorkspaceResponse(workspace=_workspace_to_proto(workspace))

    async def DeleteWorkspace(self, request: pb.DeleteWorkspaceRequest, context: Any) -> pb.DeleteWorkspaceResponse:
        workspace_id = parse_id(request.workspace_id, "workspace_id")
        async with self._db.write(tenant_id()) as tx:
            await service.delete_workspace(tx, workspace_id)
        self._finder.forget(workspace_id)
        return pb.DeleteWorkspaceResponse()


def _workspace_to_proto(workspace: Workspace) -> pb.Workspace:
    return pb.Workspace(
        workspace_id=str(workspace.id),
        org_id=str(workspace.org_id),
        name=workspace.name,
        default_model=workspace.default_model,
        system_prompt=workspace.system_prompt,
        visibility=pb.WorkspaceVisibility.Value(f"WORKSPACE_VISIBILITY_{workspace.visibility.upper()}"),
        create_time=timestamp(workspace.create_time),
        update_time=timestamp(workspace.update_time),
        etag=str(workspace.version),
    )
