"""aiws data: how long an organization keeps its data, and what must not be deleted. See exports for the rest."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import DataPolicy, Retention

app = typer.Typer(no_args_is_help=True, help="Retention, legal holds and exports of an organization.")

Workspace = Annotated[
    str, typer.Option("--workspace", "-w", help="Id of a workspace. Otherwise it is about the organization.")
]


_OTHERWISE = "0: without end, or for a workspace as in the organization."

Conversations = Annotated[
    int, typer.Option("--conversations", min=0, max=36500, help=f"Days without a new message. {_OTHERWISE}")
]
Documents = Annotated[int, typer.Option("--documents", min=0, max=36500, help=f"Days without a change. {_OTHERWISE}")]
Attempts = Annotated[int, typer.Option("--attempts", min=0, max=36500, help=f"Days since the run. {_OTHERWISE}")]


@app.command()
def show(ctx: typer.Context, workspace: Workspace = "", org: Org = "", json: Json = False) -> None:
    """Show the retention and the legal hold. Owners may."""
    with connected(ctx) as session:
        _show(session.client.data.get_policy(org_id=session.org_id(org), workspace_id=workspace), json=json)


@app.command()
def retention(
    ctx: typer.Context,
    conversations: Conversations = 0,
    documents: Documents = 0,
    attempts: Attempts = 0,
    workspace: Workspace = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """Set how long data is kept. What is older is deleted within the hour."""
    days = Retention(conversation_days=conversations, document_days=documents, attempt_days=attempts)
    with connected(ctx) as session:
        policy = session.client.data.set_retention(org_id=session.org_id(org), workspace_id=workspace, retention=days)
        _show(policy, json=json)


@app.command()
def hold(
    ctx: typer.Context,
    reason: Annotated[str, typer.Option("--reason", prompt="Reason", help="Why.")],
    workspace: Workspace = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """Begin a legal hold: nothing there can be deleted until aiws data release."""
    with connected(ctx) as session:
        policy = session.client.data.set_legal_hold(
            org_id=session.org_id(org), workspace_id=workspace, held=True, reason=reason
        )
        _show(policy, json=json)


@app.command()
def release(ctx: typer.Context, workspace: Workspace = "", org: Org = "", json: Json = False) -> None:
    """End a legal hold."""
    with connected(ctx) as session:
        policy = session.client.data.set_legal_hold(org_id=session.org_id(org), workspace_id=workspace, held=False)
        _show(policy, json=json)


def _show(policy: DataPolicy, *, json: bool) -> None:
    if json:
        return output.as_json(policy)
    kept = policy.retention
    rows = (
        ("conversations", _length(kept.conversation_days)),
        ("documents", _length(kept.document_days)),
        ("attempts", _length(kept.attempt_days)),
        ("legal hold", f"since {output.time(policy.hold_time)}: {policy.hold_reason}" if policy.held else "none"),
    )
    output.table(("", ""), rows)


def _length(days: int) -> str:
    return f"{days} days" if days else "no limit of its own"
