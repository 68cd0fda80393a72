"""aiws teams: groups of members."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected

app = typer.Typer(no_args_is_help=True, help="Teams: groups of members, with which workspaces can be shared.")

TeamId = Annotated[str, typer.Argument(help="Id from aiws teams list.")]
UserId = Annotated[str, typer.Argument(help="Id from aiws orgs members.")]


@app.command("list")
def list_teams(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the teams of the organization, the oldest first."""
    with connected(ctx) as session:
        found = session.client.teams.list(session.org_id(org))
        if json:
            return output.as_json(found)
        rows = ((team.team_id, team.name, str(team.member_count)) for team in found)
        output.table(("TEAM", "NAME", "MEMBERS"), rows, right=("MEMBERS",))


@app.command()
def create(ctx: typer.Context, name: str, org: Org = "", json: Json = False) -> None:
    """Create an empty team. Its id is printed alone on standard output."""
    with connected(ctx) as session:
        team = session.client.teams.create(org_id=session.org_id(org), name=name)
        if json:
            return output.as_json(team)
        output.say(f"Created the team {team.name}. Next: aiws teams add ID USER", "green")
        output.out.print(team.team_id)


@app.command()
def add(ctx: typer.Context, team_id: TeamId, user_id: UserId, org: Org = "") -> None:
    """Add a member of the organization to a team."""
    with connected(ctx) as session:
        member = session.client.teams.add_member(org_id=session.org_id(org), team_id=team_id, user_id=user_id)
        output.say(f"{member.display_name} is in the team.", "green")


@app.command()
def remove(ctx: typer.Context, team_id: TeamId, user_id: UserId, org: Org = "") -> None:
    """Remove a member from a team."""
    with connected(ctx) as session:
        session.client.teams.remove_member(org_id=session.org_id(org), team_id=team_id, user_id=user_id)
        output.say("Removed from the team.")


@app.command()
def members(ctx: typer.Context, team_id: TeamId, org: Org = "", json: Json = False) -> None:
    """List the members of a team."""
    with connected(ctx) as session:
        found = session.client.teams.list_members(org_id=session.org_id(org), team_id=team_id)
        if json:
            return output.as_json(found)
        rows = ((each.user_id, each.display_name, output.time(each.create_time)) for each in found)
        output.table(("USER", "NAME", "SINCE"), rows)


@app.command()
def delete(
    ctx: typer.Context,
    team_id: TeamId,
    org: Org = "",
    yes: Yes = False,
) -> None:
    """Delete a team. Its members lose the access that it gave them."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Delete the team {team_id}?", yes=yes)
        session.client.teams.delete(org_id=org_id, team_id=team_id)
        output.say("Deleted.")
