"""Workspaces and who is a member of one: the calls, short enough for tables."""

from typing import Any

from google.protobuf.field_mask_pb2 import FieldMask

from aiworkspace.v1 import workspace_pb2 as pb
from tests.support.people import Person

READER, EDITOR, MANAGER = pb.WORKSPACE_ROLE_VIEWER, pb.WORKSPACE_ROLE_EDITOR, pb.WORKSPACE_ROLE_MANAGER
OPEN, CLOSED = pb.WORKSPACE_VISIBILITY_ORG, pb.WORKSPACE_VISIBILITY_MEMBERS


async def get_workspace(person: Person, workspace_id: str) -> pb.Workspace:
    request = pb.GetWorkspaceRequest(workspace_id=workspace_id)
    workspace: pb.Workspace = (await person.workspaces.GetWorkspace(request)).workspace
    return workspace


async def update_workspace(person: Person, workspace_id: str, *paths: str, **fields: Any) -> pb.Workspace:
    wanted = pb.Workspace(workspace_id=workspace_id, **fields)
    request = pb.UpdateWorkspaceRequest(workspace=wanted, update_mask=FieldMask(paths=paths))
    workspace: pb.Workspace = (await person.workspaces.UpdateWorkspace(request)).workspace
    return workspace


def delete_workspace(person: Person, workspace_id: str) -> Any:
    return person.workspaces.DeleteWorkspace(pb.DeleteWorkspaceRequest(workspace_id=workspace_id))


async def list_workspaces(person: Person, org_id: str) -> list[pb.Workspace]:
    return list((await person.workspaces.ListWorkspaces(pb.ListWorkspacesRequest(org_id=org_id))).workspaces)


def share(by: Person, workspace_id: str, role: int, **who: str) -> Any:
    """`who` is a user_id or a team_id."""
    value = pb.WorkspaceRole.ValueType(role)
    return by.workspaces.SetWorkspaceMember(pb.SetWorkspaceMemberRequest(workspace_id=workspace_id, role=value, **who))


def unshare(by: Person, workspace_id: str, **who: str) -> Any:
    return by.workspaces.RemoveWorkspaceMember(pb.RemoveWorkspaceMemberRequest(workspace_id=workspace_id, **who))


def set_visibility(by: Person, workspace_id: str, visibility: int) -> Any:
    value = pb.WorkspaceVisibility.ValueType(visibility)
    request = pb.SetWorkspaceVisibilityRequest(workspace_id=workspace_id, visibility=value)
    return by.workspaces.SetWorkspaceVisibility(request)


async def in_workspace(by: Person, workspace_id: str) -> dict[str, int]:
    """The role of everybody who is a member, by the id of person or team."""
    request = pb.ListWorkspaceMembersRequest(workspace_id=workspace_id, page_size=1000)
    members = (await by.workspaces.ListWorkspaceMembers(request)).members
    return {member.user_id or member.team_id: member.role for member in members}
