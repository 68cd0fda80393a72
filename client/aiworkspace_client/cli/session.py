"""The context of a command: server, client, and the organization and workspace that were used last."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

import typer

from aiworkspace_client import AiWorkspaceError, Client
from aiworkspace_client.cli import failures, output
from aiworkspace_client.cli.credentials import CredentialFile, CredentialFileError, default_path, file_for_key

# Short, because a person waits for every call.
_SECONDS = 5.0
# The part of an API key that lists show.
_VISIBLE = 13


@dataclass(frozen=True)
class Server:
    """The global options."""

    target: str
    root_certificates: Path | None
    plaintext: bool
    api_key: str

    @property
    def entry(self) -> str:
        """Return the name under which values are remembered. A key has its own; only its visible part is used."""
        return f"{self.target} {self.api_key[:_VISIBLE]}" if self.api_key else self.target


@dataclass(frozen=True)
class Session:
    """A client, and the organization and workspace that were used last."""

    client: Client
    saved: CredentialFile

    def org_id(self, given: str) -> str:
        """Return the given organization, else the one of the last command, else the only one."""
        if org_id := given or self.saved.recall("org_id"):
            return org_id
        orgs = self.client.orgs.list(page_size=2).first_page().orgs
        if not orgs:
            stop("You are not in any organization. Create one with: aiws orgs create NAME")
        if len(orgs) > 1:
            stop("You are in several organizations. Choose one with: aiws orgs list, aiws orgs use ID")
        self.choose(org_id=orgs[0].org_id)
        return orgs[0].org_id

    def workspace_id(self, given: str) -> str:
        """Return the given workspace, else the one of the last command, else the only one."""
        if workspace_id := given or self.saved.recall("workspace_id"):
            return workspace_id
        workspaces = self.client.workspaces.list(self.org_id(""), page_size=2).first_page().workspaces
        if not workspaces:
            stop("The organization has no workspace. Create one with: aiws workspaces create NAME")
        if len(workspaces) > 1:
            stop("There are several workspaces. Choose one with: aiws workspaces list, aiws workspaces use ID")
        self.choose(org_id=workspaces[0].org_id, workspace_id=workspaces[0].workspace_id)
        return workspaces[0].workspace_id

    def choose(self, *, org_id: str, workspace_id: str = "") -> None:
        """Use these in later commands."""
        if (org_id, workspace_id) != (self.saved.recall("org_id"), self.saved.recall("workspace_id")):
            self.saved.remember(org_id=org_id, workspace_id=workspace_id, conversation_id="")


@contextmanager
def connected(ctx: typer.Context) -> Iterator[Session]:
    """Open a session. Errors are explained and end the program with their exit code."""
    server: Server = ctx.obj
    try:
        saved = file_for_key(server.entry) if server.api_key else CredentialFile(default_path(), server.entry)
        certificates = server.root_certificates.read_bytes() if server.root_certificates else None
        with Client(
            server.target,
            api_key=server.api_key,
            token_store=None if server.api_key else saved,
            tls=False if server.plaintext else None,
            root_certificates=certificates,
            timeout=_SECONDS,
        ) as client:
            yield Session(client, saved)
    except AiWorkspaceError as error:
        raise typer.Exit(failures.report(error, server.target, with_key=bool(server.api_key))) from None
    except BrokenPipeError:  # of the output: main ends the program silently
        raise
    except (CredentialFileError, OSError) as error:
        output.say(f"error: {error}", "bold red")
        raise typer.Exit(failures.REFUSED) from None


def stop(message: str) -> NoReturn:
    """End the program because something is missing."""
    output.say(message)
    raise typer.Exit(failures.USAGE)
