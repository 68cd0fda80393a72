"""aiws workspaces members, share, unshare, visibility: who is in a workspace, and who sees it."""

from enum import StrEnum
from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import connected, stop
from aiworkspace_client.types import WorkspaceMember, WorkspaceRole, WorkspaceVisibility

User = Annotated[str, typer.Option("--user", "-u", help="Id of a person or service account.")]
Team = Annotated[str, typer.Option("--team", "-t", help="Id of a team, from aiws teams list.")]


class WorkspaceRoleName(StrEnum):
    """WorkspaceRole for the command line."""

    VIEWER = "viewer"
    EDITOR = "editor"
    MANAGER = "manager"


class Seen(StrEnum):
    """WorkspaceVisibility for the command line."""

    ORG = "org"
    MEMBERS = "members"


def members(ctx: typer.Context, workspace: Workspace = "", json: Json = False) -> None:
    """List the people and teams that are members of a workspace."""
    with connected(ctx) as session:
        found = session.client.workspaces.list_members(session.workspace_id(workspace))
        if json:
            return output.as_json(found)
        output.table(("MEMBER", "KIND", "NAME", "ROLE"), map(_row, found))


def share(
    ctx: typer.Context,
    user: User = "",
    team: Team = "",
    role: Annotated[WorkspaceRoleName, typer.Option("--role", "-r", help="What they may do.")] = (
        WorkspaceRoleName.EDITOR
    ),
    workspace: Workspace = "",
) -> None:
    """Make a person or team a member of a workspace, or change their role there."""
    _check_one(user, team)
    with connected(ctx) as session:
        given = WorkspaceRole.Value(f"WORKSPACE_ROLE_{role.upper()}")
        workspace_id = session.workspace_id(workspace)
        member = session.client.workspaces.set_member(workspace_id=workspace_id, user_id=user, team_id=team, role=given)
        output.say(f"{member.display_name} is now {role} of the workspace.", "green")


def unshare(ctx: typer.Context, user: User = "", team: Team = "", workspace: Workspace = "") -> None:
    """End the membership of a person or team in a workspace."""
    _check_one(user, team)
    with connected(ctx) as session:
        session.client.workspaces.remove_member(session.workspace_id(workspace), user_id=user, team_id=team)
        output.say("Removed from the workspace.")


def visibility(
    ctx: typer.Context,
    seen_by: Annotated[Seen, typer.Argument(help="The organization, or the workspace's members only.")],
    workspace: Workspace = "",
) -> None:
    """Open a workspace to its organization, or close it to all but its members."""
    with connected(ctx) as session:
        value = WorkspaceVisibility.Value(f"WORKSPACE_VISIBILITY_{seen_by.upper()}")
        changed = session.client.workspaces.set_visibility(
            workspace_id=session.workspace_id(workspace), visibility=value
        )
        whom = "its organization" if seen_by is Seen.ORG else "its members only"
        output.say(f"{changed.name} is open to {whom}.")


def _check_one(user: str, team: str) -> None:
    if bool(user) == bool(team):
        stop("Give either --user ID or --team ID.")


def _row(member: WorkspaceMember) -> tuple[str, ...]:
    kind = "team" if member.team_id else "user"
    role = WorkspaceRole.Name(member.role).removeprefix("WORKSPACE_ROLE_").lower()
    return member.user_id or member.team_id, kind, member.display_name, role
