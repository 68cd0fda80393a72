"""The aiws command line.

Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 not signed in, 4 server not reachable or too slow, 130
interrupted.
"""

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

from aiworkspace_client.cli import (
    account,
    admin,
    api_keys,
    audit,
    budgets,
    data,
    documents,
    exports,
    failures,
    members,
    models,
    orgs,
    output,
    passages,
    policies,
    reading,
    roles,
    service_accounts,
    sharing,
    teams,
    text,
    workspaces,
)
from aiworkspace_client.cli import conversations as conversation_commands
from aiworkspace_client.cli.chat import chat
from aiworkspace_client.cli.session import Server
from aiworkspace_client.cli.usage import usage
from aiworkspace_client.client import DEFAULT_TARGET

app = typer.Typer(
    name="aiws",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="Talk to an AI Workspace server.",
    epilog="Begin with: aiws register, aiws orgs create NAME, aiws workspaces create NAME, aiws chat. "
    "A backend does not sign in: AIWS_API_KEY in its environment has its key.",
)


@app.callback()
def options(
    ctx: typer.Context,
    server: Annotated[str, typer.Option(envvar="AIWS_SERVER", help="Address, host:port.")] = DEFAULT_TARGET,
    ca_file: Annotated[
        Path | None, typer.Option(envvar="AIWS_CA_FILE", help="Authorities to trust, in PEM, instead of the system's.")
    ] = None,
    plaintext: Annotated[
        bool, typer.Option("--plaintext", envvar="AIWS_PLAINTEXT", help="Do not encrypt, also beyond this machine.")
    ] = False,
) -> None:
    # Not an option: all users of a machine can read command lines.
    api_key = os.environ.get("AIWS_API_KEY", "").strip()
    if not (api_key.isascii() and api_key.isprintable()):
        raise typer.BadParameter("AIWS_API_KEY has characters that keys never have.")
    ctx.obj = Server(server, ca_file, plaintext, api_key)


for command in (account.register, account.verify, account.login, account.logout, account.whoami):
    app.command()(command)
app.command()(account.reset_password)
app.command()(chat)
app.command()(usage)
app.command()(budgets.limits)
app.command()(roles.explain)
for about_members in (members.members, members.set_role, members.suspend, members.reinstate, members.remove):
    orgs.app.command()(about_members)
models.app.add_typer(policies.app, name="policy")
app.add_typer(models.app, name="models")
app.add_typer(orgs.app, name="orgs")
app.add_typer(roles.app, name="roles")
app.add_typer(teams.app, name="teams")
for about_sharing in (sharing.members, sharing.share, sharing.unshare, sharing.visibility):
    workspaces.app.command()(about_sharing)
app.add_typer(workspaces.app, name="workspaces")
app.add_typer(conversation_commands.app, name="conversations")
for about_reading in (reading.show, reading.wait, reading.retry, reading.reindex):
    documents.app.command()(about_reading)
for about_text in (passages.search, passages.similar, passages.text):
    documents.app.command()(about_text)
app.add_typer(documents.app, name="documents")
app.add_typer(documents.collections, name="collections")
app.add_typer(account.app, name="account")
app.add_typer(account.sessions, name="sessions")
app.add_typer(service_accounts.app, name="service-accounts")
app.add_typer(api_keys.app, name="api-keys")
app.add_typer(budgets.app, name="budgets")
app.add_typer(audit.app, name="audit")
for about_exports in (exports.export, exports.exports, exports.delete_export):
    data.app.command()(about_exports)
app.add_typer(data.app, name="data")
app.add_typer(admin.app, name="admin")


def main() -> None:
    text.prepare_streams()
    for argument in (*sys.argv, *(value for name, value in os.environ.items() if name.startswith("AIWS_"))):
        try:
            argument.encode()
        except UnicodeEncodeError:
            sys.exit(f"error: {argument!r} is not UTF-8.")
    try:
        app()
    except (text.NotTextError, UnicodeError) as error:
        known = isinstance(error, text.NotTextError)
        output.say(f"error: {error if known else 'The input is not text.'}", "bold red")
        sys.exit(failures.USAGE)
    except BrokenPipeError:  # the reader of the output ended early, such as `head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(failures.REFUSED)
    except OSError as error:  # such as of standard input
        output.say(f"error: {error}", "bold red")
        sys.exit(failures.REFUSED)
