"""aiws documents and aiws collections: the files of a workspace."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from aiworkspace.v1 import document_pb2 as pb
from aiworkspace_client.cli import failures, output, reading
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import Session, connected

app = typer.Typer(no_args_is_help=True, help="Documents: the files of a workspace.")
collections = typer.Typer(no_args_is_help=True, help="Collections: groups of documents.")

Wait = Annotated[bool, typer.Option("--wait", help="Wait until it is read.")]
Collections = Annotated[
    list[str] | None, typer.Option("--collection", "-c", help="Collection to put it into; may be repeated.")
]


@app.command()
def upload(
    ctx: typer.Context,
    paths: Annotated[list[Path], typer.Argument(exists=True, dir_okay=False, help="The files.")],
    collection: Collections = None,
    wait: Wait = False,
    workspace: Workspace = "",
    json: Json = False,
) -> None:
    """Upload files."""
    with connected(ctx) as session:
        workspace_id, ready = session.workspace_id(workspace), True
        for path in paths:
            with transfer(path.name) as progress:
                document = session.client.documents.upload(
                    workspace_id, path, collection_ids=collection or [], progress=progress
                )
            ready = _uploaded(session, document, wait=wait, json=json) and ready
        if not ready:
            raise typer.Exit(failures.REFUSED)


@app.command()
def replace(
    ctx: typer.Context,
    document_id: str,
    path: Annotated[Path, typer.Argument(exists=True, dir_okay=False, help="The file.")],
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Upload a new version of a document. The old one answers searches until the new one is read."""
    with connected(ctx) as session:
        with transfer(path.name) as progress:
            document = session.client.documents.upload_version(document_id, path, progress=progress)
        if not _uploaded(session, document, wait=wait, json=json):
            raise typer.Exit(failures.REFUSED)


@app.command("list")
def list_documents(
    ctx: typer.Context,
    collection: Annotated[str, typer.Option("--collection", "-c", help="Only documents of this collection.")] = "",
    workspace: Workspace = "",
    json: Json = False,
) -> None:
    """List the documents of the workspace, the latest first."""
    with connected(ctx) as session:
        found = session.client.documents.list(session.workspace_id(workspace), collection_id=collection)
        if json:
            return output.as_json(found)
        output.table(
            ("DOCUMENT", "NAME", "BYTES", "UPLOADED", "STATE"),
            (
                (
                    each.document_id,
                    each.name,
                    f"{each.size_bytes:,}",
                    output.time(each.create_time),
                    reading.state(each),
                )
                for each in found
            ),
            right=["BYTES"],
        )


@app.command()
def download(
    ctx: typer.Context,
    document_id: str,
    path: Annotated[Path | None, typer.Argument(help="The file to write. By default, its name.")] = None,
) -> None:
    """Download a document."""
    with connected(ctx) as session:
        document = session.client.documents.get(document_id)
        target = path or Path(Path(document.name.replace("\\", "/")).name or document_id)
        if path is None and target.exists():
            raise typer.BadParameter(f"{target} exists; say where to write to.")
        with transfer(target.name) as progress:
            session.client.documents.download(document_id, target, progress=progress)
        output.say(f"Wrote {target}.", "green")


@app.command()
def delete(ctx: typer.Context, document_id: str, yes: Yes = False) -> None:
    """Delete a document."""
    with connected(ctx) as session:
        document = session.client.documents.get(document_id)
        output.confirm(f"Delete {document.name}?", yes=yes)
        session.client.documents.delete(document_id)
        output.say(f"Deleted {document.name}.")


@collections.command("list")
def list_collections(ctx: typer.Context, workspace: Workspace = "", json: Json = False) -> None:
    """List the collections of the workspace."""
    with connected(ctx) as session:
        found = session.client.documents.list_collections(session.workspace_id(workspace))
        if json:
            return output.as_json(found)
        output.table(
            ("COLLECTION", "NAME", "DESCRIPTION"), ((each.collection_id, each.name, each.description) for each in found)
        )


@collections.command()
def create(
    ctx: typer.Context,
    name: str,
    description: Annotated[str, typer.Option(help="What it is for.")] = "",
    workspace: Workspace = "",
    json: Json = False,
) -> None:
    """Create a collection."""
    with connected(ctx) as session:
        collection = session.client.documents.create_collection(
            workspace_id=session.workspace_id(workspace), name=name, description=description
        )
        if json:
            return output.as_json(collection)
        output.say(f"Created {collection.name} ({collection.collection_id}).", "green")


@collections.command("delete")
def delete_collection(ctx: typer.Context, collection_id: str, yes: Yes = False) -> None:
    """Delete a collection. Its documents stay."""
    with connected(ctx) as session:
        collection = session.client.documents.get_collection(collection_id)
        output.confirm(f"Delete {collection.name}? Its documents stay.", yes=yes)
        session.client.documents.delete_collection(collection_id)
        output.say(f"Deleted {collection.name}.")


def _uploaded(session: Session, document: pb.Document, *, wait: bool, json: bool) -> bool:
    """Report an upload, once the document is read if `wait`. Return False if it could not be read."""
    if wait:
        return reading.read(session, document, json=json)
    if json:
        output.as_json(document)
    else:
        output.say(f"Uploaded {document.name} ({document.document_id}).", "green")
    return True


@contextmanager
def transfer(name: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a transfer on stderr, if that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn(), DownloadColumn(), TimeRemainingColumn()
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bar:
        task = bar.add_task(escape(output.clean(name)), total=None)
        yield lambda done, size: bar.update(task, completed=done, total=size)
