"""aiws audit: who did what in an organization, and whether the log is complete and unchanged."""

import re
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated

import typer

from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import AuditEvent

app = typer.Typer(no_args_is_help=True, help="The audit log: who did what in an organization.")

# A log of a million entries takes about half a minute.
_VERIFY_SECONDS = 600.0


@app.command("list")
def list_events(
    ctx: typer.Context,
    method: Annotated[str, typer.Option("--method", help="Only calls of it, such as OrgService/UpdateMember.")] = "",
    user: Annotated[str, typer.Option("--user", help="Only calls of this person or service account.")] = "",
    about: Annotated[str, typer.Option("--about", help="Only calls about this id, whatever it names.")] = "",
    code: Annotated[str, typer.Option("--code", help="Only calls that ended so: OK, PERMISSION_DENIED, ….")] = "",
    days: Annotated[int, typer.Option(min=0, max=36_500, help="Only the last so many days. 0 means all.")] = 30,
    count: Annotated[int, typer.Option("--count", "-n", min=1, help="Most entries to show.")] = 50,
    org: Org = "",
    json: Json = False,
) -> None:
    """List calls that changed something or were refused, the latest first. Owners and admins may."""
    with connected(ctx) as session:
        pager = session.client.audit.list_events(
            session.org_id(org),
            method=method,
            user_id=user,
            resource_id=about,
            code=code,
            start_time=datetime.now(UTC) - timedelta(days=days) if days else None,
            page_size=min(count, 1000),
        )
        found = list(islice(pager, count))
        if json:
            return output.as_json(found)
        output.table(
            ("NUMBER", "TIME", "WHO", "AS", "METHOD", "OUTCOME"),
            (
                (
                    str(each.sequence),
                    output.time(each.create_time),
                    each.user_id,
                    each.role,
                    each.method,
                    _outcome(each),
                )
                for each in found
            ),
            right=("NUMBER",),
        )


@app.command()
def verify(
    ctx: typer.Context,
    sequence: Annotated[
        int, typer.Option("--sequence", min=0, max=2**63 - 1, help="Number of an entry that you noted earlier.")
    ] = 0,
    known_hash: Annotated[str, typer.Option("--hash", help="Hash that you noted with it.")] = "",
    org: Org = "",
    json: Json = False,
) -> None:
    """Check that no entry was changed or removed. The exit code is 1 if one was.

    Store the number and hash of the last entry elsewhere and pass them next time. This proves that the log was not
    rewritten meanwhile.
    """
    if known_hash and not re.fullmatch("[0-9a-f]{64}", known_hash):
        raise typer.BadParameter("--hash must be as aiws audit verify prints it: 64 hexadecimal digits")
    with connected(ctx) as session:
        verified = session.client.audit.verify_chain(
            session.org_id(org), known_sequence=sequence, known_hash=known_hash, timeout=_VERIFY_SECONDS
        )
        if json:
            output.as_json(verified)
        else:
            output.table(("NUMBER", "HASH"), [(str(verified.sequence), verified.hash)], right=("NUMBER",))
        if not verified.valid:
            output.say(f"Entry {verified.broken_sequence} is invalid. {verified.problem}", "bold red")
            raise typer.Exit(failures.REFUSED)
        output.say("All entries are unchanged.", "green")


def _outcome(event: AuditEvent) -> str:
    return f"{event.code} {event.reason}".strip()
