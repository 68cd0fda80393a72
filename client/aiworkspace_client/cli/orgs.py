"""aiws orgs: organizations, members, invitations."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import Invitation, InvitationState, Role
from aiworkspace_client.types import Org as OrgMessage

app = typer.Typer(no_args_is_help=True, help="Organizations, their members and invitations.")

Org = Annotated[str, typer.Option("--org", "-o", help="Id of the organization. Otherwise the one that was used last.")]


RoleText = Annotated[
    str,
    typer.Option(
        "--role", "-r", metavar="ROLE", help="viewer, member, admin, owner, billing, or custom:ID from aiws roles list."
    ),
]


def read_role(text: str) -> tuple[Role.ValueType, str]:
    """Return the typed role and, for a custom role, its id."""
    name, _, custom_role_id = text.partition(":")
    if f"ROLE_{name.upper()}" not in Role.keys()[1:] or (name.lower() == "custom") != bool(custom_role_id):
        raise typer.BadParameter(f"{text!r} is not a role: viewer, member, admin, owner, billing, or custom:ID.")
    return Role.Value(f"ROLE_{name.upper()}"), custom_role_id


@app.command("list")
def list_orgs(ctx: typer.Context, json: Json = False) -> None:
    """List your organizations."""
    with connected(ctx) as session:
        found = session.client.orgs.list()
        if json:
            return output.as_json(found)
        used = session.saved.recall("org_id")
        output.table(
            ("ORGANIZATION", "NAME", "YOUR ROLE", ""),
            (_org_row(org, used) for org in found),
        )


@app.command()
def create(ctx: typer.Context, name: str, json: Json = False) -> None:
    """Create an organization and work in it from now on."""
    with connected(ctx) as session:
        org = session.client.orgs.create(name=name)
        session.choose(org_id=org.org_id)
        if json:
            return output.as_json(org)
        output.say(f"Created {org.name} ({org.org_id}).", "green")
        output.say("Next: aiws workspaces create NAME")


@app.command()
def use(ctx: typer.Context, org_id: str) -> None:
    """Work in another organization from now on."""
    with connected(ctx) as session:
        org = session.client.orgs.get(org_id)
        session.choose(org_id=org.org_id)
        output.say(f"Working in {org.name}.")


@app.command()
def invite(
    ctx: typer.Context,
    email: str,
    role: RoleText = "member",
    org: Org = "",
    json: Json = False,
) -> None:
    """Invite a person. It prints the token that this person needs for aiws orgs accept."""
    offered, custom_role_id = read_role(role)
    with connected(ctx) as session:
        answer = session.client.orgs.create_invitation(
            org_id=session.org_id(org), email=email, role=offered, custom_role_id=custom_role_id
        )
        if json:
            return output.as_json(answer)
        output.say(f"Invited {answer.invitation.email} until {output.time(answer.invitation.expire_time)}.", "green")
        output.say("It is not shown again; the invited person runs aiws orgs accept with this token:")
        output.out.print(answer.token)


@app.command()
def invitations(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the invitations, the latest first."""
    with connected(ctx) as session:
        found = session.client.orgs.list_invitations(session.org_id(org))
        if json:
            return output.as_json(found)
        output.table(("INVITATION", "EMAIL", "ROLE", "STATE", "UNTIL"), map(_invitation_row, found))


@app.command()
def revoke(ctx: typer.Context, invitation_id: str, org: Org = "") -> None:
    """Revoke an invitation."""
    with connected(ctx) as session:
        session.client.orgs.revoke_invitation(org_id=session.org_id(org), invitation_id=invitation_id)
        output.say("The invitation is revoked.")


@app.command()
def accept(
    ctx: typer.Context,
    token: Annotated[str, typer.Option("--token", prompt="Token of the invitation", help="What the inviter gave you.")],
) -> None:
    """Accept an invitation and work in its organization from now on."""
    with connected(ctx) as session:
        org = session.client.orgs.accept_invitation(token=token)
        session.choose(org_id=org.org_id)
        output.say(f"You are now {output.role(org.role)} of {org.name}.", "green")


def _org_row(org: OrgMessage, used: str) -> tuple[str, ...]:
    role = output.role(org.role, org.custom_role_id)
    return org.org_id, org.name, role, "in use" if org.org_id == used else ""


def _invitation_row(invitation: Invitation) -> tuple[str, ...]:
    state = InvitationState.Name(invitation.state).removeprefix("INVITATION_STATE_").lower()
    until = output.time(invitation.expire_time)
    role = output.role(invitation.role, invitation.custom_role_id)
    return invitation.invitation_id, invitation.email, role, state, until
