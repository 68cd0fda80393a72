"""aiws chat: one message, or a conversation at the prompt."""

import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from importlib import import_module
from typing import Annotated

import typer

from aiworkspace_client import AiWorkspaceError, ChatStream
from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.session import Server, Session, connected, stop
from aiworkspace_client.types import Run, RunState


def chat(
    ctx: typer.Context,
    message: Annotated[str, typer.Argument(help="What to say. Without it, a prompt, or standard input.")] = "",
    model: Annotated[str, typer.Option("--model", "-m", help="Model that answers; aiws models lists them.")] = "",
    workspace: Workspace = "",
    conversation: Annotated[str, typer.Option("--conversation", "-c", help="Id of a conversation to go on with.")] = "",
    last: Annotated[bool, typer.Option("--last", "-l", help="Go on with the conversation that was used last.")] = False,
) -> None:
    """Talk to a model. Ctrl-C during an answer stops the answer."""
    if not message and not sys.stdin.isatty():
        message = sys.stdin.read().strip() or stop("There is nothing to send.")
    with connected(ctx) as session:
        conversation_id = _conversation_id(session, workspace, conversation, last)
        if message:
            run = _answer(session, conversation_id, message, model)
            output.say(f"Go on with: aiws chat -c {conversation_id}", "dim")
            if run.state == RunState.RUN_STATE_CANCELLED:
                raise typer.Exit(failures.INTERRUPTED)
        else:
            _prompt(session, ctx.obj, conversation_id, model)


def _conversation_id(session: Session, workspace: str, conversation: str, last: bool) -> str:
    given = conversation or (session.saved.recall("conversation_id") if last else "")
    if last and not given:
        stop("There is no last conversation.")
    if not given:
        given = session.client.chat.create_conversation(session.workspace_id(workspace)).conversation_id
    session.saved.remember(conversation_id=given)
    return given


def _prompt(session: Session, server: Server, conversation_id: str, model: str) -> None:
    """Ask and answer until the end of the input or Ctrl-C at the prompt."""
    with suppress(ImportError):
        import_module("readline")  # makes the arrow keys work
    output.say("Ctrl-C stops an answer, Ctrl-D leaves.", "dim")
    while True:
        try:
            message = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            break
        try:
            if message:
                _answer(session, conversation_id, message, model)
        except AiWorkspaceError as error:
            failures.report(error, server.target, with_key=bool(server.api_key))
    output.say(f"\nGo on with: aiws chat -c {conversation_id}", "dim")


def _answer(session: Session, conversation_id: str, message: str, model: str) -> Run:
    """Print the answer as it comes; returns the run that gave it."""
    stream = session.client.chat.send(conversation_id, message, model=model)
    try:
        with _interrupt_cancels(stream):
            model = ""
            for text in stream.text:
                if model not in ("", stream.model):
                    output.say(f"\n[{stream.model} goes on]", "dim")
                model = stream.model
                output.write(text)
    finally:
        _print_usage(stream.run or Run())
    return stream.run or Run()


@contextmanager
def _interrupt_cancels(stream: ChatStream) -> Iterator[None]:
    """The first Ctrl-C stops the run, whose end the stream then tells; the second ends the program.

    Not by KeyboardInterrupt, which may come between a piece of the answer and its being printed.
    """

    def cancel() -> None:
        with suppress(AiWorkspaceError):  # what became of the run, the stream tells
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


def _print_usage(run: Run) -> None:
    output.write("\n")
    if run.HasField("usage"):
        stopped = "stopped, " if run.state == RunState.RUN_STATE_CANCELLED else ""
        output.say(f"[{stopped}{run.model}, {output.tokens(run.usage)}, {output.money(run.cost)}]", "dim")
