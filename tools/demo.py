"""A tour through the running product: `make demo`.

It starts its own server and databases in a temporary directory, which is removed at the end, and does what a user does.
Without OPENAI_API_KEY and ANTHROPIC_API_KEY the model is echo/echo, which is no AI: it repeats the message at the pace
of a real model.
"""

import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from rich.console import Console
from rich.markup import escape
from rich.rule import Rule

from aiworkspace_client import AiWorkspaceError, Client
from aiworkspace_client.cli import output, reading, sources
from aiworkspace_client.cli.usage import Dimension, show
from aiworkspace_client.types import (
    ChatEvent,
    Document,
    DocumentState,
    IngestionStep,
    Org,
    Place,
    Retrieval,
    Role,
    Run,
    RunState,
    UsageDimension,
    Workspace,
)
from tools.own_server import ServerFailedError, own_server

console = Console(highlight=False)

PASSWORD = "correct horse battery staple"
# Cheap models, newest first. The first one that the server offers is used, else echo/echo.
MODELS = (
    "openai/gpt-5.4-nano",
    "openai/gpt-5.4-mini",
    "openai/gpt-4.1-mini",
    "anthropic/claude-haiku-5-5",
    "anthropic/claude-haiku-4-5",
)
TURNS = (
    "My name is Ada, and I am planning a small museum of calculating machines.",
    "Name one machine that it must have, and say why in one sentence.",
    "What is my name, and what am I planning?",
)
LONG_STORY = (
    "Tell me in at least three hundred words how a visitor walks through the museum: past the abacus by the door, the "
    "brass gears of the difference engine, the punched cards of the looms, the relays that click all day, the valves "
    "that glow in the dark room, the first transistors under glass, the cabinets of the mainframe, the home computers "
    "that visitors may touch, and at last the empty room in which a voice answers every question that they ask it."
)
GUIDE = """\
# Museum guide

## Opening hours

The museum is open from ten to six, and closed on Mondays.

## Difference engine

The difference engine is cranked every Tuesday at three. Its brass gears may not be touched.
"""
QUESTION = "When is the difference engine cranked?"
READ_SECONDS = 120.0
CANCEL_AFTER = 20  # deltas of about 120 in the echo of the story


class DemoFailedError(Exception):
    """The product did not do what the demo expects."""


def main() -> None:
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        with _server() as target:
            tour(target)
    except KeyboardInterrupt:
        sys.exit(_failed("Interrupted.", code=130))
    except (AiWorkspaceError, DemoFailedError, ServerFailedError) as error:
        sys.exit(_failed(str(error), code=1))
    console.print("\n[bold green]Done.[/] The server and everything it stored are gone.")
    console.print("Next: [bold]make run[/] starts a server that stays, [bold]aiws --help[/] shows the command line.")


def tour(target: str) -> None:
    """Do everything that a user does, in order."""
    with Client(target) as ada, Client(target) as grace:
        org, workspace = _set_up(ada)
        _invite(ada, grace, org)
        _share(ada, grace, workspace)
        guide = _read(ada, grace, workspace)
        model = _model(ada)
        cited = _ask(ada, workspace, guide, model)
        conversation = ada.chat.create_conversation(workspace.workspace_id, model=model)
        runs = _talk(ada, conversation.conversation_id, model)
        events = _cancel(ada, conversation.conversation_id)
        _resume(ada, events)
        _show_usage(ada, org, model, [cited, *runs, events[-1].run_cancelled.run])


@contextmanager
def _server() -> Iterator[str]:
    start = time.monotonic()
    with console.status("") as status:

        def waiting() -> None:
            status.update(f"Starting a server with its own PostgreSQL and MongoDB, {time.monotonic() - start:.0f} s")

        with own_server(waiting) as target:
            status.stop()
            _done(f"A server is ready at {target} after {time.monotonic() - start:.1f} s")
            yield target
            status.start()
            status.update("Stopping the server")


def _set_up(ada: Client) -> tuple[Org, Workspace]:
    _chapter("Accounts, organizations, workspaces")
    ada.auth.register(email="ada@example.com", password=PASSWORD, display_name="Ada", device_name="demo")
    _done("Registered ada@example.com")
    answer = ada.auth.login(email="ada@example.com", password=PASSWORD, device_name="demo, second device")
    sessions = list(ada.auth.list_sessions())
    _done(f"Signed in as {answer.user.display_name}, who now has {len(sessions)} sessions")
    org = ada.orgs.create(name="Museum of Machines")
    _done(f"Created the organization {org.name}")
    workspace = ada.workspaces.create(org_id=org.org_id, name="Exhibition")
    _done(f"Created the workspace {workspace.name}")
    return org, workspace


def _invite(ada: Client, grace: Client, org: Org) -> None:
    invitation = ada.orgs.create_invitation(org_id=org.org_id, email="grace@example.com", role=Role.ROLE_MEMBER)
    _done("Invited grace@example.com as a member")
    grace.auth.register(email="grace@example.com", password=PASSWORD, display_name="Grace")
    grace.orgs.accept_invitation(token=invitation.token)
    members = [f"{member.display_name} ({output.role(member.role)})" for member in ada.orgs.list_members(org.org_id)]
    _done(f"Grace registered and accepted. The members are {' and '.join(members)}")


def _share(ada: Client, grace: Client, workspace: Workspace) -> None:
    _chapter("A document")
    catalogue = b"".join(b"%06d a calculating machine\n" % number for number in range(50_000))
    document = ada.documents.upload(workspace.workspace_id, catalogue, name="catalogue.txt")
    _done(f"Uploaded {document.name}, {document.size_bytes:,} bytes")
    line = grace.documents.read(document.document_id, offset=29 * 1000, length=28)
    _done(f"Grace reads one line of it: {line.decode()}")
    if grace.documents.read(document.document_id) != catalogue:
        raise DemoFailedError("the document is not what was uploaded")
    _done("And all of it, byte for byte")
    ada.documents.delete(document.document_id)
    _done("Deleted it")


def _read(ada: Client, grace: Client, workspace: Workspace) -> Document:
    """Upload a document, wait until the server has read it, and search it."""
    _chapter("A document that the AI can read")
    document = ada.documents.upload(workspace.workspace_id, GUIDE.encode(), name="guide.md")
    _done(f"Uploaded {document.name}, {document.size_bytes:,} bytes")
    document = ada.documents.wait(document.document_id, timeout=READ_SECONDS)
    _expect(document.state == DocumentState.DOCUMENT_STATE_READY, f"guide.md is not ready: {reading.state(document)}.")
    steps = ", ".join(output.word(IngestionStep.Name, step.step) for step in document.steps)
    _done(f"It is ready: {steps}")
    found = grace.documents.search(workspace_id=workspace.workspace_id, query=QUESTION, limit=1)
    _expect(len(found.passages) == 1, "The search found nothing.")
    passage = found.passages[0]
    _done(f"Grace searches, and finds {_quoted(passage.document_name, passage.place, passage.text)}")
    return document


def _ask(ada: Client, workspace: Workspace, guide: Document, model: str) -> Run:
    """Ask a question that the document answers, and print the answer with its citation. Return its run."""
    retrieval = Retrieval(all_documents=True, max_passages=1)
    conversation = ada.chat.create_conversation(workspace.workspace_id, model=model, retrieval=retrieval)
    console.print(f"[bold cyan]Ada:[/] {QUESTION}")
    with ada.chat.send(conversation.conversation_id, QUESTION) as stream:
        for text in stream.text:
            _token(text)
        citations = stream.final_message().citations
        run = stream.run or Run()
    console.print()
    _expect(len(citations) > 0, "The answer cites no document.")
    for number, citation in enumerate(citations, 1):
        console.print(f"\\[{number}] {escape(_quoted(citation.document_name, citation.place, citation.quote))}")
        quote = ada.documents.get_text(
            citation.document_id, offset=citation.quote_start, length=citation.quote_end - citation.quote_start
        )
        _expect(citation.document_id == guide.document_id, "The answer cites another document.")
        _expect(quote.text == citation.quote, "A citation is not in the document.")
    _done("Every quote is in the document, where its citation says")
    return run


def _quoted(name: str, place: Place, text: str) -> str:
    where = sources.describe(place)
    return output.one_line(f'{name}{f", {where}" if where else ""}: "{text}"')


def _model(ada: Client) -> str:
    offered = {model.model for model in ada.chat.list_models(page_size=1000)}
    return next((model for model in MODELS if model in offered), "echo/echo")


def _talk(ada: Client, conversation_id: str, model: str) -> list[Run]:
    """Hold a conversation of three turns and print the answers token by token. Return its runs."""
    _chapter(f"A conversation with {model}")
    runs = []
    for turn in TURNS:
        console.print(f"[bold cyan]Ada:[/] {escape(turn)}")
        with ada.chat.send(conversation_id, turn) as stream:
            for text in stream.text:
                _token(text)
            said = "".join(content.text for content in stream.final_message().contents)
            run = stream.run or Run()
        _expect(bool(said) and run.state == RunState.RUN_STATE_COMPLETED, "An answer is empty.")
        console.print(f"\n[dim]{output.tokens(run.usage)}, {output.money(run.cost)}[/]\n")
        runs.append(run)
    return runs


def _cancel(ada: Client, conversation_id: str) -> list[ChatEvent]:
    """Cancel a fourth run halfway. Return all of its events."""
    _chapter("Cancelling a run")
    console.print(f"[bold cyan]Ada:[/] {escape(LONG_STORY)}")
    events: list[ChatEvent] = []
    deltas = 0
    with ada.chat.send(conversation_id, LONG_STORY) as stream:
        for event in stream:
            events.append(event)
            if event.HasField("content_delta"):
                deltas += 1
                _token(event.content_delta.text)
                if deltas == CANCEL_AFTER:
                    stream.cancel()
    console.print()
    _expect(events[-1].HasField("run_cancelled"), "The answer ended before it could be cancelled.")
    run = events[-1].run_cancelled.run
    _done(f"Cancelled after {deltas} deltas. The partial answer is charged: {output.money(run.cost)}")
    return events


def _resume(ada: Client, events: list[ChatEvent]) -> None:
    """Stream the cancelled run again from its middle, as a client does after a broken connection."""
    middle = events[len(events) // 2].sequence
    _chapter(f"Resuming the stream: StreamRun after sequence {middle}")
    with ada.chat.stream_run(events[0].run_id, after_sequence=middle) as stream:
        again = list(stream)
    for event in again:
        console.print(f"[dim]{event.sequence:>4}[/] {_in_short(event)}")
    expected = [event for event in events if event.sequence > middle]
    _expect(again == expected, "The events differ from those received the first time.")
    _done(f"The same {len(again)} events again, up to run_cancelled: none lost, none repeated")


def _in_short(event: ChatEvent) -> str:
    kind = str(event.WhichOneof("event"))
    return f"{kind} {escape(repr(event.content_delta.text))}" if kind == "content_delta" else f"[bold]{kind}[/]"


def _show_usage(ada: Client, org: Org, model: str, runs: list[Run]) -> None:
    _chapter("What it cost")
    page = ada.usage.get(
        org.org_id, group_by=[UsageDimension.USAGE_DIMENSION_MODEL, UsageDimension.USAGE_DIMENSION_DAY]
    ).first_page()
    show([Dimension.MODEL, Dimension.DAY], list(page.rows), page.total)
    rows = [row for row in page.rows if row.model == model]  # the others are of the embedding model
    _expect(sum(row.total.request_count for row in rows) == len(runs), "The ledger does not have every run.")
    cost = sum(row.total.cost.nanos for row in rows)
    _expect(cost == sum(run.cost.nanos for run in runs), "The ledger does not add up.")
    _done("The ledger has every run once, and its sum is exact to the nano")


def _chapter(title: str) -> None:
    console.print()
    console.print(Rule(f"[bold]{escape(title)}[/]", align="left", style="dim"))


def _done(text: str) -> None:
    console.print(f"[green]✓[/] {escape(text)}")


def _token(text: str) -> None:
    console.print(escape(output.clean(text)), end="", soft_wrap=True)


def _expect(condition: bool, otherwise: str) -> None:
    if not condition:
        raise DemoFailedError(otherwise)


def _failed(text: str, *, code: int) -> int:
    console.print(f"\n[bold red]✗[/] {escape(text)}")
    return code


def _interrupt(number: int, frame: object) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    main()
