"""aiws workspaces: where conversations live."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected

app = typer.Typer(no_args_is_help=True, help="Workspaces: where conversations live.")


@app.command("list")
def list_workspaces(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the workspaces of the organization."""
    with connected(ctx) as session:
        found = session.client.workspaces.list(session.org_id(org))
        if json:
            return output.as_json(found)
        used = session.saved.recall("workspace_id")
        output.table(
            ("WORKSPACE", "NAME", "MODEL", ""),
            (
                (each.workspace_id, each.name, each.default_model, "in use" if each.workspace_id == used else "")
                for each in found
            ),
        )


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    model: Annotated[
        str, typer.Option("--model", "-m", help="Model of its conversations; aiws models lists them.")
    ] = "",
    system_prompt: Annotated[str, typer.Option(help="Instructions for the model in all conversations.")] = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """Create a workspace and work in it from now on."""
    with connected(ctx) as session:
        workspace = session.client.workspaces.create(
            org_id=session.org_id(org), name=name, default_model=model, system_prompt=system_prompt
        )
        session.choose(org_id=workspace.org_id, workspace_id=workspace.workspace_id)
        if json:
            return output.as_json(workspace)
        output.say(f"Created {workspace.name} ({workspace.workspace_id}).", "green")
        output.say('Next: aiws chat "Hello"')


@app.command()
def use(ctx: typer.Context, workspace_id: str) -> None:
    """Work in another workspace from now on."""
    with connected(ctx) as session:
        workspace = session.client.workspaces.get(workspace_id)
        session.choose(org_id=workspace.org_id, workspace_id=workspace.workspace_id)
        output.say(f"Working in {workspace.name}.")


@app.command()
def delete(
    ctx: typer.Context,
    workspace_id: str,
    yes: Yes = False,
) -> None:
    """Delete a workspace with its conversations."""
    with connected(ctx) as session:
        workspace = session.client.workspaces.get(workspace_id)
        output.confirm(f"Delete {workspace.name} with its conversations?", yes=yes)
        session.client.workspaces.delete(workspace_id)
        if session.saved.recall("workspace_id") == workspace_id:
            session.choose(org_id=workspace.org_id)
        output.say(f"Deleted {workspace.name}.")
