"""aiws conversations: list, show and delete conversations."""

from typing import Annotated

import typer

from aiworkspace_client.cli import output, sources
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.session import connected
from aiworkspace_client.types import ContentKind, Message, MessageRole, MessageState

app = typer.Typer(no_args_is_help=True, help="Conversations with models.")

Workspace = Annotated[
    str, typer.Option("--workspace", "-w", help="Id of the workspace. Otherwise the one that was used last.")
]


@app.command("list")
def list_conversations(ctx: typer.Context, workspace: Workspace = "", json: Json = False) -> None:
    """List your conversations in the workspace, the latest first."""
    with connected(ctx) as session:
        found = session.client.chat.list_conversations(session.workspace_id(workspace))
        if json:
            return output.as_json(found)
        output.table(
            ("CONVERSATION", "LAST CHANGE", "TITLE"),
            ((each.conversation_id, output.time(each.update_time), each.title) for each in found),
        )


@app.command()
def show(ctx: typer.Context, conversation_id: str, json: Json = False) -> None:
    """Show the messages of a conversation, oldest first."""
    with connected(ctx) as session:
        found = session.client.chat.list_messages(conversation_id)
        if json:
            return output.as_json(found)
        for message in found:
            output.out.print(_speaker(message), style="bold", markup=False)
            output.write(f"{text_of(message)}\n")
            sources.show(message)
            output.write("\n")


@app.command()
def delete(ctx: typer.Context, conversation_id: str) -> None:
    """Delete a conversation with its messages."""
    with connected(ctx) as session:
        session.client.chat.delete_conversation(conversation_id)
        output.say("The conversation is deleted.")


def text_of(message: Message) -> str:
    """Return the text of a message, without thinking."""
    return "".join(each.text for each in message.contents if each.kind == ContentKind.CONTENT_KIND_TEXT)


def _speaker(message: Message) -> str:
    speaker = "you" if message.role == MessageRole.MESSAGE_ROLE_USER else message.model
    partial = " (partial)" if message.state == MessageState.MESSAGE_STATE_PARTIAL else ""
    return f"{speaker}, {output.time(message.create_time)}{partial}"
