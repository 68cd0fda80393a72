"""aiws data: how long an organization keeps its data, what must not be deleted, and what is erased for good.

Commands of exports are in exports.
"""

from collections.abc import Iterable
from typing import Annotated

import typer

from aiworkspace_client.cli import output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import DataPolicy, ErasureState, Retention
from aiworkspace_client.types import Erasure as ErasureMessage

app = typer.Typer(no_args_is_help=True, help="Retention, legal holds, exports and erasures of an organization.")

Erasure = Annotated[str, typer.Argument(help="Id of the erasure.")]

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


@app.command()
def erase(
    ctx: typer.Context,
    yes: Yes = False,
    org: Org = "",
    json: Json = False,
) -> None:
    """Erase the whole organization in seven days. Until then, aiws data keep keeps it. Owners may."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        output.confirm(f"Erase everything of the organization {org_id} in seven days?", yes=yes)
        _show_erasures([session.client.data.erase_org(org_id=org_id)], json=json)


@app.command()
def keep(ctx: typer.Context, erasure_id: Erasure, org: Org = "", json: Json = False) -> None:
    """Cancel the erasure of an organization."""
    with connected(ctx) as session:
        kept = session.client.data.cancel_erasure(org_id=session.org_id(org), erasure_id=erasure_id)
        _show_erasures([kept], json=json)


@app.command("erase-user")
def erase_user(
    ctx: typer.Context,
    user_id: Annotated[str, typer.Argument(help="Id of the former member.")],
    org: Org = "",
    json: Json = False,
) -> None:
    """Erase what a former member has left in the organization. It begins at once."""
    with connected(ctx) as session:
        begun = session.client.data.erase_user(org_id=session.org_id(org), user_id=user_id)
        _show_erasures([begun], json=json)


@app.command()
def erasures(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the erasures that were asked for."""
    with connected(ctx) as session:
        _show_erasures(session.client.data.list_erasures(org_id=session.org_id(org)), json=json)


@app.command()
def receipt(ctx: typer.Context, erasure_id: Erasure, json: Json = False) -> None:
    """Show what an erasure has erased, and what it has kept and why."""
    with connected(ctx) as session:
        found = session.client.data.get_erasure_receipt(erasure_id=erasure_id)
    if json:
        return output.as_json(found)
    if not found.lines:
        return _show_erasures([found.erasure], json=False)
    lines = [(line.store, line.name, str(line.erased_count), str(line.kept_count), line.reason) for line in found.lines]
    output.table(("DATABASE", "NAME", "ERASED", "KEPT", "WHY"), lines)


def _show_erasures(found: Iterable[ErasureMessage], *, json: bool) -> None:
    if json:
        for erasure in found:
            output.as_json(erasure)
        return
    rows = [
        (
            erasure.erasure_id,
            erasure.user_id or "organization",
            output.word(ErasureState.Name, erasure.state),
            output.time(erasure.due_time),
        )
        for erasure in found
    ]
    output.table(("ID", "OF", "STATE", "DUE"), rows)


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
