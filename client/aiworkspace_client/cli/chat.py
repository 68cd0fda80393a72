"""aiws chat: one message, or a conversation at the prompt."""

import signal
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Annotated

import typer

from aiworkspace_client import AiWorkspaceError, ChatStream, errors
from aiworkspace_client.cli import failures, output, sources, text
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import Server, Session, connected, stop
from aiworkspace_client.types import (
    ChatEvent,
    ContentKind,
    Conversation,
    FinishReason,
    Message,
    Retrieval,
    Run,
    RunState,
)

# Errors after which no run exists.
_REFUSALS = (
    errors.InvalidArgumentError,
    errors.FailedPreconditionError,
    errors.NotFoundError,
    errors.PermissionDeniedError,
    errors.ResourceExhaustedError,
)


def chat(
    ctx: typer.Context,
    message: Annotated[str, typer.Argument(help="The message. Without it, a prompt, or standard input.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="Model that answers; aiws models lists them.")] = "",
    workspace: Workspace = "",
    conversation: Annotated[str, typer.Option("--conversation", "-c", help="Id of a conversation to continue.")] = "",
    last: Annotated[bool, typer.Option("--last", "-l", help="Continue the conversation that was used last.")] = False,
    documents: Annotated[
        bool | None,
        typer.Option(
            "--documents/--no-documents",
            help="Base the answers of the conversation on all documents of the workspace, or on none.",
            show_default="as the workspace says",
        ),
    ] = None,
    collection: Annotated[
        list[str] | None, typer.Option("--collection", help="Base them on this collection; may be repeated.")
    ] = None,
) -> None:
    """Talk to a model. Ctrl-C during an answer cancels it."""
    retrieval = _retrieval(documents, collection)
    if not message and not sys.stdin.isatty():
        message = text.read_all().strip() or stop("There is nothing to send.")
    with connected(ctx) as session:
        given = conversation or (_last(session) if last else "")
        conversation_id = given or _new_conversation(session, workspace, retrieval)
        if given and retrieval is not None:
            changed = Conversation(conversation_id=given, retrieval=retrieval)
            session.client.chat.update_conversation(conversation=changed, update_mask=["retrieval"])
        if message:
            with _without_refused(session, conversation_id, keep=bool(given)):
                run = _answer(session, conversation_id, message, model)
            output.say(f"Continue with: aiws chat -c {conversation_id}", "dim")
            if run.state == RunState.RUN_STATE_CANCELLED:
                raise typer.Exit(failures.INTERRUPTED)
        else:
            _prompt(session, ctx.obj, conversation_id, model)


def _last(session: Session) -> str:
    return session.saved.recall("conversation_id") or stop("There is no last conversation.")


def _retrieval(documents: bool | None, collections: Sequence[str] | None) -> Retrieval | None:
    """Return which documents answers are based on, None for those of the workspace."""
    if collections:
        if documents is not None:
            raise typer.BadParameter("Either --collection or --documents.")
        return Retrieval(collection_ids=collections)
    return None if documents is None else Retrieval(all_documents=documents)


def _new_conversation(session: Session, workspace: str, retrieval: Retrieval | None) -> str:
    workspace_id = session.workspace_id(workspace)
    return session.client.chat.create_conversation(workspace_id, retrieval=retrieval).conversation_id


@contextmanager
def _without_refused(session: Session, conversation_id: str, *, keep: bool) -> Iterator[None]:
    """Delete a new conversation again if the server refuses its first message."""
    try:
        yield
    except _REFUSALS:
        if not keep:
            session.client.chat.delete_conversation(conversation_id)
        raise


def _prompt(session: Session, server: Server, conversation_id: str, model: str) -> None:
    """Read messages and print answers until the end of the input or Ctrl-C at the prompt."""
    with suppress(ImportError):
        import_module("readline")  # makes the arrow keys work
    output.say("Ctrl-C cancels an answer, Ctrl-D quits.", "dim")
    while True:
        try:
            message = text.typed(input("> ")).strip()
        except (EOFError, KeyboardInterrupt):
            break
        except text.NotTextError as error:
            output.say(f"error: {error}", "bold red")
            continue
        try:
            if message:
                _answer(session, conversation_id, message, model)
        except AiWorkspaceError as error:
            failures.report(error, server.target, with_key=bool(server.api_key))
    output.say(f"\nContinue with: aiws chat -c {conversation_id}", "dim")


def _answer(session: Session, conversation_id: str, message: str, model: str) -> Run:
    """Send a message and print the answer as it arrives. Return its run."""
    stream, answer = session.client.chat.send(conversation_id, message, model=model), Message()
    try:
        with _interrupt_cancels(stream):
            said = False
            for event in stream:
                said |= _print_event(event, said=said)
            answer = stream.final_message()
            if answer.citations or answer.retrieval_omissions:
                output.write("\n\n")
                sources.show(answer)
    finally:
        if stream.run:
            session.saved.remember(conversation_id=conversation_id)
            _print_usage(stream.run, answer.model or stream.model)
    if not answer.contents:
        output.say("[no answer]", "dim")
    return stream.run or Run()


def _print_event(event: ChatEvent, *, said: bool) -> bool:
    """Print an event. Return whether it was a piece of the answer."""
    match event.WhichOneof("event"):
        case "content_delta" if event.content_delta.kind != ContentKind.CONTENT_KIND_THINKING:
            output.write(event.content_delta.text)
            return True
        case "attempt_started" if event.attempt_started.attempt > 1:
            again = "continues" if event.attempt_started.continues else "is tried"
            output.say(_on_its_own_line(f"[{event.attempt_started.model} {again}]", said), "dim")
        case "attempt_failed" if event.attempt_failed.HasField("failure"):
            failed = event.attempt_failed
            output.say(_on_its_own_line(f"[{failed.model}: {failed.failure.message}]", said), "dim")
    return False


def _on_its_own_line(note: str, said: bool) -> str:
    return f"\n{note}" if said else note


@contextmanager
def _interrupt_cancels(stream: ChatStream) -> Iterator[None]:
    """Cancel the run on the first Ctrl-C and let the stream end; end the program on the second.

    No KeyboardInterrupt is used, because it could lose a piece of the answer before it is printed.
    """

    def cancel() -> None:
        with suppress(AiWorkspaceError):  # the stream reports how the run ended
            stream.cancel()

    def interrupted(number: int, frame: object) -> None:
        signal.signal(signal.SIGINT, signal.default_int_handler)
        cancelling.start()

    cancelling = threading.Thread(target=cancel, daemon=True)
    previous = signal.signal(signal.SIGINT, interrupted)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, previous)
        if cancelling.is_alive():
            cancelling.join()


_CUT_SHORT = {
    FinishReason.FINISH_REASON_LENGTH: "cut off at the maximum number of tokens",
    FinishReason.FINISH_REASON_CONTENT_FILTER: "ended by the provider's content filter",
}


def _print_usage(run: Run, model: str) -> None:
    output.write("\n")
    if run.HasField("usage"):
        how = "stopped" if run.state == RunState.RUN_STATE_CANCELLED else _CUT_SHORT.get(run.finish_reason, "")
        used = f"{output.tokens(run.usage)}{', estimated' if run.usage_estimated else ''}"
        output.say(f"[{', '.join(filter(None, (how, model or run.model, used, output.money(run.cost))))}]", "dim")
