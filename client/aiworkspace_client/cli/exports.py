"""aiws data export, exports and delete-export: everything that an organization has, as one ZIP file."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.progress import Progress, SpinnerColumn, TextColumn

from aiworkspace_client import errors
from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.documents import transfer
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import Session, connected
from aiworkspace_client.types import Export, ExportFailureReason, ExportState

To = Annotated[Path, typer.Option("--to", dir_okay=False, help="The file to write.")]
Earlier = Annotated[str, typer.Option("--export", help="An export that was begun before, instead of a new one.")]
_WHY = {
    ExportFailureReason.EXPORT_FAILURE_REASON_STORE_UNAVAILABLE: "a database or the document store did not answer",
}


def export(ctx: typer.Context, to: To, earlier: Earlier = "", org: Org = "") -> None:
    """Export everything that the organization has, and download it when it is ready. Owners may."""
    with connected(ctx) as session:
        org_id = session.org_id(org)
        if to.exists():
            raise typer.BadParameter(f"{to} exists; say where to write to.")
        found = _wait(session, org_id, earlier or _begin(session, org_id))
        if found.state != ExportState.EXPORT_STATE_READY:
            why = _WHY.get(found.failure_reason, "the server failed again and again")
            output.say(f"error: The export failed: {why}.", "bold red")
            raise typer.Exit(failures.REFUSED)
        with transfer(to.name) as progress:
            session.client.data.download_export(to, org_id=org_id, export_id=found.export_id, progress=progress)
        kept = f"The server keeps it until {output.time(found.expire_time)}."
        output.say(f"Wrote {to}: {_counts(found)}. {kept}", "green")


def exports(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the exports that the server keeps, the latest first."""
    with connected(ctx) as session:
        found = session.client.data.list_exports(session.org_id(org))
        if json:
            return output.as_json(found)
        output.table(
            ("EXPORT", "BEGUN", "STATE", "ROWS", "FILES", "BYTES", "UNTIL"),
            (
                (
                    each.export_id,
                    output.time(each.create_time),
                    output.word(ExportState.Name, each.state),
                    *(f"{count:,}" for count in (each.row_count, each.file_count, each.size_bytes)),
                    output.time(each.expire_time),
                )
                for each in found
            ),
            right=["ROWS", "FILES", "BYTES"],
        )


def delete_export(ctx: typer.Context, export_id: str, org: Org = "", yes: Yes = False) -> None:
    """Delete an export, or end one that is in progress."""
    with connected(ctx) as session:
        output.confirm(f"Delete the export {export_id}?", yes=yes)
        session.client.data.delete_export(org_id=session.org_id(org), export_id=export_id)
        output.say(f"Deleted {export_id}.")


def _begin(session: Session, org_id: str) -> str:
    """Begin an export, or go on with the one that is in progress. Return its id."""
    try:
        export_id = session.client.data.export_org(org_id=org_id).export_id
        output.say(f"Began the export {export_id}.")
    except errors.FailedPreconditionError as error:
        if error.reason != "EXPORT_IN_PROGRESS" or not (export_id := error.metadata.get("export_id", "")):
            raise
        caution = "it may lack what was changed since it began."
        output.say(f"The export {export_id} is in progress already; {caution}", "yellow")
    return export_id


def _wait(session: Session, org_id: str, export_id: str) -> Export:
    with _counting() as seen:
        return session.client.data.wait_for_export(org_id=org_id, export_id=export_id, seen=seen)


@contextmanager
def _counting() -> Iterator[Callable[[Export], None]]:
    """Show on stderr how far an export is, if that is a terminal."""
    columns = SpinnerColumn(), TextColumn("{task.description}")
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bar:
        task = bar.add_task("waiting", total=None)
        yield lambda export: bar.update(task, description=_counts(export))


def _counts(export: Export) -> str:
    return f"{export.row_count:,} rows, {export.file_count:,} files, {export.size_bytes:,} bytes"
