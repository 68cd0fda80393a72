"""aiws service-accounts: accounts of backends."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org, RoleText, read_role
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import MemberState, ServiceAccount

app = typer.Typer(no_args_is_help=True, help="Service accounts: accounts of backends, which call with API keys.")


@app.command("list")
def list_service_accounts(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the service accounts of the organization, the oldest first."""
    with connected(ctx) as session:
        found = session.client.service_accounts.list(session.org_id(org))
        if json:
            return output.as_json(found)
        output.table(("ACCOUNT", "NAME", "ROLE", "STATE"), map(_row, found))


@app.command()
def create(
    ctx: typer.Context,
    name: str,
    role: RoleText = "member",
    org: Org = "",
    json: Json = False,
) -> None:
    """Create a service account. Its id is printed alone on standard output."""
    given, custom_role_id = read_role(role)
    with connected(ctx) as session:
        account = session.client.service_accounts.create(
            org_id=session.org_id(org), name=name, role=given, custom_role_id=custom_role_id
        )
        if json:
            return output.as_json(account)
        output.say(
            f"Created the service account {account.name}. Next: aiws api-keys create ID NAME -p PERMISSION", "green"
        )
        output.out.print(account.user_id)


@app.command()
def delete(
    ctx: typer.Context,
    account_id: Annotated[str, typer.Argument(help="Id from aiws service-accounts list.")],
    org: Org = "",
    yes: Yes = False,
) -> None:
    """Delete a service account with its API keys."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Delete the service account {account_id} with its keys?", yes=yes)
        answer = session.client.service_accounts.delete(org_id=org_id, user_id=account_id)
        output.say("Deleted. Its keys no longer work.")
        output.say_keys(answer.revoked_api_key_ids, answer.kept_api_key_ids, "the account")


def _row(account: ServiceAccount) -> tuple[str, ...]:
    state = MemberState.Name(account.state).removeprefix("MEMBER_STATE_").lower()
    return account.user_id, account.name, output.role(account.role, account.custom_role_id), state
