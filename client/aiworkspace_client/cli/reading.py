"""aiws documents show, wait, retry and reindex: how far documents are read, and what to do when one cannot be."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Annotated

import typer
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn

from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.account import Json, Yes
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import Session, connected
from aiworkspace_client.types import Document, DocumentState, FailureReason, IngestionStep, StepProgress

# As the contract says it.
WHAT_TO_DO = {
    FailureReason.FAILURE_REASON_UNSUPPORTED: "The file is of a kind that the server cannot read. "
    "Upload it in another format.",
    FailureReason.FAILURE_REASON_ENCRYPTED: "The file needs a password. Remove the password and replace the document.",
    FailureReason.FAILURE_REASON_NO_TEXT: "The file has no text: it may consist of pictures. "
    "Upload a version with text.",
    FailureReason.FAILURE_REASON_EXPANDS_TOO_FAR: "The file is compressed and grows beyond the server's limits. "
    "Split it, or upload it in another format.",
    FailureReason.FAILURE_REASON_TOO_MUCH_TEXT: "The file has more than 10,000,000 characters or 5,000 pages, "
    "or too many sections. Split it and upload its parts.",
    FailureReason.FAILURE_REASON_PARSER_TIMEOUT: "Reading the file took too long. "
    "Split it, or upload it in another format.",
    FailureReason.FAILURE_REASON_PARSER_MEMORY: "Reading the file took too much memory. "
    "Split it, or upload it in another format.",
    FailureReason.FAILURE_REASON_MALFORMED: "The file is damaged. Repair it and replace the document.",
    FailureReason.FAILURE_REASON_PARSER_CRASHED: "The program that reads such files crashed. "
    "Upload the file in another format.",
    FailureReason.FAILURE_REASON_INFECTED: "The virus scanner found something. Delete the document.",
    FailureReason.FAILURE_REASON_SCANNER_UNAVAILABLE: "The virus scanner does not answer. Retry later.",
    FailureReason.FAILURE_REASON_EMBEDDING_UNAVAILABLE: "The embedding model does not answer. Retry later.",
    FailureReason.FAILURE_REASON_EMBEDDING_REFUSED: "The embedding model does not accept the text or the server's key. "
    "Ask the server's operator.",
    FailureReason.FAILURE_REASON_BUDGET_EXHAUSTED: "A budget does not have enough left for embedding. "
    "Raise it, or wait for its next window, and retry.",
    FailureReason.FAILURE_REASON_INTERNAL: "The server failed. Retry; if it fails again, tell the server's operator.",
    FailureReason.FAILURE_REASON_TOO_LARGE_TO_SCAN: "The file is larger than the virus scanner takes. "
    "Split it, or ask the server's operator.",
}
_RETRIED = {
    FailureReason.FAILURE_REASON_SCANNER_UNAVAILABLE,
    FailureReason.FAILURE_REASON_EMBEDDING_UNAVAILABLE,
    FailureReason.FAILURE_REASON_EMBEDDING_REFUSED,
    FailureReason.FAILURE_REASON_BUDGET_EXHAUSTED,
    FailureReason.FAILURE_REASON_INTERNAL,
}


def show(ctx: typer.Context, document_id: str, json: Json = False) -> None:
    """Show a document, and how far it has been read."""
    with connected(ctx) as session:
        document = session.client.documents.get(document_id)
        if json:
            return output.as_json(document)
        output.say(f"{document.name} ({document.document_id}), version {document.version}: {state(document)}")
        if document.chunk_count:
            output.say(_content(document))
        if document.ready_version not in (0, document.version):
            output.say(f"Version {document.ready_version} answers searches.")
        output.table(
            ("STEP", "DONE", "ATTEMPTS", "BEGAN", "ENDED", "REASON"),
            map(_row, document.steps),
            right=["DONE", "ATTEMPTS"],
        )
        _advise(document)


def wait(ctx: typer.Context, document_id: str, json: Json = False) -> None:
    """Wait until a document is read. Exit code 1 if it cannot be."""
    with connected(ctx) as session:
        if not read(session, session.client.documents.get(document_id), json=json):
            raise typer.Exit(failures.REFUSED)


def retry(ctx: typer.Context, document_id: str, json: Json = False) -> None:
    """Resume a document whose reading has failed, at the step that failed."""
    with connected(ctx) as session:
        document = session.client.documents.retry(document_id)
        if json:
            return output.as_json(document)
        output.say(f"Reading {document.name} again.")


def reindex(
    ctx: typer.Context,
    document_ids: Annotated[list[str] | None, typer.Argument(help="The documents. By default, all.")] = None,
    workspace: Workspace = "",
    yes: Yes = False,
) -> None:
    """Read documents of the workspace again, for example after the server has learned to read more of them."""
    with connected(ctx) as session:
        workspace_id = session.workspace_id(workspace)
        if not document_ids:
            output.confirm("Read all documents of the workspace again?", yes=yes)
        count = session.client.documents.reindex(workspace_id, document_ids=document_ids or []).document_count
        output.say(f"Reading {count:,} {'document' if count == 1 else 'documents'} again.")


def read(session: Session, document: Document, *, json: bool) -> bool:
    """Wait until a document is read and report that. Return False if it could not be read."""
    with _progress(document.name) as progress:
        for each in session.client.documents.watch(document.document_id):
            progress(document := each)
    ready = document.state == DocumentState.DOCUMENT_STATE_READY
    if json:
        output.as_json(document)
    else:
        text = f"{document.name} ({document.document_id}): {state(document)}"
        output.say(text, "green" if ready else "bold red")
        _advise(document)
    return ready


def state(document: Document) -> str:
    """Return the state of a document's latest version and, if it failed, why."""
    words = output.word(DocumentState.Name, document.state)
    return f"{words} ({_reason(document.failure_reason)})" if document.failure_reason else words


def _reason(reason: FailureReason.ValueType) -> str:
    return output.word(FailureReason.Name, reason)


def _advise(document: Document) -> None:
    """Print what to do about a document that failed."""
    if document.state != DocumentState.DOCUMENT_STATE_FAILED:
        return
    if text := WHAT_TO_DO.get(document.failure_reason):
        output.say(text)
    if document.failure_reason in _RETRIED:
        command = f"retry {document.document_id}"
    elif document.failure_reason == FailureReason.FAILURE_REASON_INFECTED:
        command = f"delete {document.document_id}"
    else:
        command = f"replace {document.document_id} PATH"
    output.say(f"Next: aiws documents {command}")


def _content(document: Document) -> str:
    """Return what was found in a document."""
    pages = f"{document.page_count:,} pages, " if document.page_count else ""
    text = f"{document.media_type}, {pages}{document.text_length:,} characters in {document.chunk_count:,} chunks."
    unread = ", ".join(map(str, document.unread_pages))
    return f"{text} No text was found on pages {unread}." if unread else text


def _row(step: StepProgress) -> tuple[str, ...]:
    return (
        output.word(IngestionStep.Name, step.step),
        f"{step.fraction:.0%}",
        str(step.attempt_count),
        output.time(step.start_time),
        output.time(step.end_time),
        _reason(step.failure_reason) if step.failure_reason else "",
    )


@contextmanager
def _progress(name: str) -> Iterator[Callable[[Document], None]]:
    """Show how far a document is read, on stderr if that is a terminal."""
    columns = TextColumn("{task.description}"), BarColumn()
    with Progress(*columns, console=output.err, transient=True, disable=not output.err.is_terminal) as bar:
        task = bar.add_task(escape(output.clean(name)), total=len(IngestionStep.keys()) - 1)
        yield lambda document: bar.update(task, completed=sum(each.fraction for each in document.steps))
