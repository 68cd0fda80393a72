"""aiws api-keys: API keys of service accounts."""

from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected, stop
from aiworkspace_client.types import ApiKey, ApiKeyState, InvitationState

app = typer.Typer(no_args_is_help=True, help="API keys of service accounts, which backends use.")

KeyId = Annotated[str, typer.Argument(help="Id from aiws api-keys list.")]
Days = Annotated[int, typer.Option("--days", "-d", min=0, max=36500, help="Days until it expires. 0 means never.")]


@app.command("list")
def list_api_keys(
    ctx: typer.Context,
    account: Annotated[str, typer.Option("--account", "-a", help="Only those of this service account.")] = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """List all API keys, newest first, including those that have ended."""
    with connected(ctx) as session:
        found = session.client.service_accounts.list_api_keys(session.org_id(org), user_id=account)
        if json:
            return output.as_json(found)
        columns = ("KEY", "NAME", "BEGINS WITH", "ACCOUNT", "PERMISSIONS", "STATE", "UNTIL", "LAST USE")
        output.table(columns, map(_row, found))


@app.command()
def create(
    ctx: typer.Context,
    account_id: Annotated[str, typer.Argument(help="Id from aiws service-accounts list.")],
    name: Annotated[str, typer.Argument(help="What the key is for.")],
    permissions: Annotated[
        list[str], typer.Option("--permission", "-p", help="A permission, such as chat.send. Repeat it.")
    ],
    workspaces: Annotated[
        list[str] | None, typer.Option("--workspace", "-w", help="Only for this workspace. Repeat it for more.")
    ] = None,
    days: Days = 0,
    org: Org = "",
) -> None:
    """Create an API key. It is printed alone on standard output, and never shown again."""
    with connected(ctx) as session:
        answer = session.client.service_accounts.create_api_key(
            org_id=session.org_id(org),
            user_id=account_id,
            name=name,
            permissions=permissions,
            workspace_ids=workspaces or (),
            expire_time=_in(days),
        )
        _show(answer.api_key, answer.secret)


@app.command()
def rotate(
    ctx: typer.Context,
    key_id: KeyId,
    overlap: Annotated[
        int, typer.Option("--overlap", help="Seconds for which the old key remains valid.", min=0, max=30 * 86400)
    ] = 3600,
    days: Days = 0,
    org: Org = "",
) -> None:
    """Create the successor of a key. It is printed alone on standard output, and never shown again."""
    with connected(ctx) as session:
        answer = session.client.service_accounts.rotate_api_key(
            org_id=session.org_id(org), api_key_id=key_id, overlap_seconds=overlap, expire_time=_in(days)
        )
        _show(answer.api_key, answer.secret)
        output.say(f"The old key works for another {overlap} seconds." if overlap else "The old key has ended.")


@app.command()
def revoke(
    ctx: typer.Context,
    key_id: KeyId,
    org: Org = "",
    keep_created: Annotated[
        bool, typer.Option("--keep-created", help="Keep keys and invitations that were created with it valid.")
    ] = False,
) -> None:
    """Revoke an API key, with the keys and invitations that were created with it."""
    with connected(ctx) as session:
        answer = session.client.service_accounts.revoke_api_key(
            org_id=session.org_id(org), api_key_id=key_id, keep_created=keep_created
        )
        output.say("The key is revoked.")
        for key in answer.created_api_keys:
            state = ApiKeyState.Name(key.state).removeprefix("API_KEY_STATE_").lower()
            output.say(f"Created with it: the key {key.name} ({key.api_key_id}), {state}.")
        for made in answer.created_invitations:
            state = InvitationState.Name(made.state).removeprefix("INVITATION_STATE_").lower()
            output.say(f"Created with it: the invitation of {made.email}, {state}.")
        for account in answer.created_service_accounts:
            output.say(f"Created with it: the service account {account.name} ({account.user_id}).")


def _in(days: int) -> datetime | None:
    return datetime.now(UTC) + timedelta(days=days) if days else None


def _show(key: ApiKey, secret: str) -> None:
    if not secret:  # The reply to the first attempt was lost; the server repeats it without the secret.
        stop(f"The key {key.api_key_id} was created, but its secret did not arrive. Revoke it and create another one.")
    output.say(f"Created the key {key.name} ({key.api_key_id}). It is not shown again:", "green")
    output.out.print(secret)


def _row(key: ApiKey) -> tuple[str, ...]:
    state, until = ApiKeyState.Name(key.state).removeprefix("API_KEY_STATE_").lower(), output.time(key.expire_time)
    known = key.api_key_id, key.name, key.prefix, key.user_id, " ".join(key.permissions)
    return (*known, state, until, output.time(key.last_use_time))
