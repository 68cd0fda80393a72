"""aiws orgs members, set-role, suspend, reinstate, remove: the members of an organization and their roles."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org, read_role
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import Member, MemberState

UserId = Annotated[str, typer.Argument(help="Id from aiws orgs members.")]
RevokeKeys = Annotated[bool, typer.Option("--revoke-keys", help="Also revoke the API keys that the member created.")]


def members(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the members."""
    with connected(ctx) as session:
        found = session.client.orgs.list_members(session.org_id(org))
        if json:
            return output.as_json(found)
        output.table(("USER", "EMAIL", "NAME", "ROLE", ""), map(_row, found))


def set_role(
    ctx: typer.Context,
    user_id: UserId,
    role: Annotated[
        str, typer.Argument(help="viewer, member, admin, owner, billing, or custom:ID from aiws roles list.")
    ],
    org: Org = "",
) -> None:
    """Give a member another role."""
    given, custom_role_id = read_role(role)
    with connected(ctx) as session:
        changed = session.client.orgs.update_member(
            member=Member(org_id=session.org_id(org), user_id=user_id, role=given, custom_role_id=custom_role_id),
            update_mask=["role", "custom_role_id"],
        )
        output.say(f"{changed.display_name} is now {output.role(changed.role)}.", "green")


def suspend(ctx: typer.Context, user_id: UserId, org: Org = "", revoke_keys: RevokeKeys = False) -> None:
    """Take a member's access away until aiws orgs reinstate."""
    with connected(ctx) as session:
        answer = session.client.orgs.suspend_member(
            org_id=session.org_id(org), user_id=user_id, revoke_created_keys=revoke_keys
        )
        output.say(f"{answer.member.display_name} is suspended.")
        output.say_keys(answer.revoked_api_key_ids, answer.kept_api_key_ids, "the member")


def reinstate(ctx: typer.Context, user_id: UserId, org: Org = "") -> None:
    """Give a suspended member's access back."""
    with connected(ctx) as session:
        changed = session.client.orgs.reinstate_member(org_id=session.org_id(org), user_id=user_id)
        output.say(f"{changed.display_name} is reinstated.", "green")


def remove(
    ctx: typer.Context,
    user_id: UserId,
    org: Org = "",
    yes: Yes = False,
    revoke_keys: RevokeKeys = False,
) -> None:
    """Remove a member from the organization. With your own id you leave it."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Remove {user_id} from the organization {org_id}?", yes=yes)
        answer = session.client.orgs.remove_member(org_id=org_id, user_id=user_id, revoke_created_keys=revoke_keys)
        output.say("Removed.")
        output.say_keys(answer.revoked_api_key_ids, answer.kept_api_key_ids, "the member")


def _row(member: Member) -> tuple[str, ...]:
    notes = ["suspended"] if member.state == MemberState.MEMBER_STATE_SUSPENDED else []
    if member.email and not member.email_verified:
        notes.append("address not verified")
    role = output.role(member.role, member.custom_role_id)
    return member.user_id, member.email, member.display_name, role, ", ".join(notes)
