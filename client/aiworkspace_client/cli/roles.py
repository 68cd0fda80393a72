"""aiws roles: custom roles. aiws explain: why a call is allowed or refused."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import CustomRole, Grant, GrantSource

app = typer.Typer(no_args_is_help=True, help="Custom roles of the organization, made of permissions.")

RoleId = Annotated[str, typer.Argument(help="Id from aiws roles list.")]
_PERMISSION = typer.Option("--permission", "-p", help="A permission, such as workspace.read. Repeat it.")


@app.command("list")
def list_roles(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the custom roles, oldest first."""
    with connected(ctx) as session:
        found = session.client.access.list_custom_roles(session.org_id(org))
        if json:
            return output.as_json(found)
        rows = ((role.custom_role_id, role.name, " ".join(role.permissions)) for role in found)
        output.table(("ROLE", "NAME", "PERMISSIONS"), rows)


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    permissions: Annotated[list[str], _PERMISSION],
    org: Org = "",
    json: Json = False,
) -> None:
    """Create a role. Its id is printed alone on standard output."""
    with connected(ctx) as session:
        role = session.client.access.create_custom_role(org_id=session.org_id(org), name=name, permissions=permissions)
        if json:
            return output.as_json(role)
        output.say(f"Created the role {role.name}. Next: aiws orgs set-role USER custom:ID", "green")
        output.out.print(role.custom_role_id)


@app.command()
def update(
    ctx: typer.Context,
    role_id: RoleId,
    name: Annotated[str, typer.Option("--name", "-n", help="The new name.")] = "",
    permissions: Annotated[list[str] | None, _PERMISSION] = None,
    org: Org = "",
) -> None:
    """Change a role for all who have it: its name, or all of its permissions."""
    if not (name or permissions):
        raise typer.BadParameter("Say what to change: --name or --permission.")
    with connected(ctx) as session:
        new = CustomRole(org_id=session.org_id(org), custom_role_id=role_id, name=name, permissions=permissions or ())
        role = session.client.access.update_custom_role(role=new)
        output.say(f"The role {role.name} allows {' '.join(role.permissions)}.", "green")


@app.command()
def delete(
    ctx: typer.Context,
    role_id: RoleId,
    org: Org = "",
    yes: Yes = False,
) -> None:
    """Delete a role that nobody has."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Delete the role {role_id}?", yes=yes)
        session.client.access.delete_custom_role(org_id=org_id, custom_role_id=role_id)
        output.say("Deleted.")


def explain(
    ctx: typer.Context,
    method: Annotated[str, typer.Argument(help="Such as WorkspaceService/UpdateWorkspace.")],
    resource_id: Annotated[
        str, typer.Argument(metavar="[ID]", help="The organization, workspace, conversation or run that it is about.")
    ] = "",
    json: Json = False,
) -> None:
    """Say whether you may call a method, and why."""
    with connected(ctx) as session:
        found = session.client.access.explain(method=method, resource_id=resource_id)
        if json:
            return output.as_json(found)
        rows = [["allowed", "yes" if found.allowed else "no"], ["needs", found.permission or "no permission"]]
        rows += [["given by", _source(grant)] for grant in found.grants if grant.role]
        output.table(("", ""), [*rows, *([["why not", found.refusal]] if found.refusal else [])])


def _source(grant: Grant) -> str:
    match grant.source:
        case GrantSource.GRANT_SOURCE_TEAM:
            return f"{grant.role} of the workspace, through the team {grant.team_id}"
        case GrantSource.GRANT_SOURCE_WORKSPACE_MEMBER:
            return f"{grant.role} of the workspace"
    return f"{grant.role} of the organization"
