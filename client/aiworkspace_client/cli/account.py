"""aiws register, verify, login, logout, whoami, reset-password, account, sessions."""

import socket
import sys
from typing import Annotated

import typer

from aiworkspace_client.cli import output, text
from aiworkspace_client.cli.session import Session, connected, stop
from aiworkspace_client.types import Session as UserSession
from aiworkspace_client.types import User

Email = Annotated[str, typer.Option("--email", "-e", prompt="Email address", help="Email address of the account.")]
PasswordStdin = Annotated[bool, typer.Option("--password-stdin", help="Read the password from standard input.")]
MailedToken = Annotated[str, typer.Option("--token", prompt="Token from the mail", help="Token from the mail.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")]

app = typer.Typer(no_args_is_help=True, help="Change the address of your account, or delete the account.")
sessions = typer.Typer(no_args_is_help=True, help="Sign-ins of your account, one for each device.")


def register(
    ctx: typer.Context,
    email: Email,
    name: Annotated[str, typer.Option("--name", "-n", prompt="Your name", help="Name that other people see.")],
    password_stdin: PasswordStdin = False,
) -> None:
    """Create an account and sign in."""
    _refuse_key(ctx)
    with connected(ctx) as session:
        password = _password(password_stdin, confirm=True)
        answer = session.client.auth.register(
            email=email, password=password, display_name=name, device_name=_device_name()
        )
        _signed_in(session, email, answer.user, answer.device_token)


def verify(ctx: typer.Context, token: MailedToken) -> None:
    """Confirm that your email address is yours."""
    with connected(ctx) as session:
        session.client.account.verify_email(token=token)
        output.say("The address is confirmed.", "green")


def reset_password(
    ctx: typer.Context,
    email: Annotated[str, typer.Option("--email", "-e", help="Have a token mailed to this address first.")] = "",
    token: Annotated[str, typer.Option("--token", help="Token from the mail. Without it you are asked for it.")] = "",
    password_stdin: PasswordStdin = False,
) -> None:
    """Set a new password with a token from a mail. All sessions end."""
    with connected(ctx) as session:
        if email:
            session.client.account.request_password_reset(email=email)
            output.say(f"If {email} has an account, it gets a mail with a token.")
        token = token or typer.prompt("Token from the mail", err=True)
        password = _password(password_stdin, confirm=True)
        session.client.account.reset_password(token=token, new_password=password)
        output.say("The password is set. Next: aiws login", "green")


def login(ctx: typer.Context, email: Email, password_stdin: PasswordStdin = False) -> None:
    """Sign in."""
    _refuse_key(ctx)
    with connected(ctx) as session:
        password = _password(password_stdin, confirm=False)
        known = session.saved.device_token(email)
        answer = session.client.auth.login(
            email=email, password=password, device_name=_device_name(), device_token=known
        )
        _signed_in(session, email, answer.user, answer.device_token)


def logout(ctx: typer.Context) -> None:
    """End the session and remove its tokens from this machine."""
    _refuse_key(ctx)
    with connected(ctx) as session:
        try:
            if session.client.tokens:
                session.client.auth.logout()
        finally:
            session.saved.forget()
        output.say("Signed out.")


def whoami(ctx: typer.Context, json: Json = False) -> None:
    """Show who is signed in, and the organization and workspace that commands use."""
    with connected(ctx) as session:
        user = session.client.auth.get_me()
        if json:
            return output.as_json(user)
        rows = [["name", user.display_name], ["email", user.email], ["user", user.user_id], ["server", ctx.obj.target]]
        rows += [[name, session.saved.recall(f"{name}_id")] for name in ("org", "workspace", "conversation")]
        output.table(("", ""), [row for row in rows if row[1]])


@app.command("email")
def change_email(
    ctx: typer.Context,
    new_email: Annotated[str, typer.Argument(help="The new email address.")],
    password_stdin: PasswordStdin = False,
) -> None:
    """Change the email address. The change takes effect when you run aiws verify with the token mailed to it."""
    _refuse_key(ctx)
    with connected(ctx) as session:
        password = _password(password_stdin, confirm=False)
        session.client.account.change_email(new_email=new_email, password=password)
        output.say(f"If {new_email} has no account, it gets a mail with a token. Next: aiws verify")


@app.command()
def delete(
    ctx: typer.Context,
    password_stdin: PasswordStdin = False,
    yes: Yes = False,
) -> None:
    """Delete your account for good, with your conversations in all organizations."""
    _refuse_key(ctx)
    with connected(ctx) as session:
        user = session.client.auth.get_me()
        output.confirm(f"Delete the account {user.email} and all of its conversations, for good?", yes=yes)
        password = _password(password_stdin, confirm=False)
        session.client.account.delete(password=password)
        session.saved.forget()
        output.say(f"The account {user.email} is deleted.")


@sessions.command("list")
def list_sessions(ctx: typer.Context, json: Json = False) -> None:
    """List your sessions, the latest first."""
    with connected(ctx) as session:
        found = session.client.auth.list_sessions()
        if json:
            return output.as_json(found)
        output.table(("SESSION", "DEVICE", "ADDRESS", "LAST USE", ""), map(_row, found))


@sessions.command()
def revoke(ctx: typer.Context, session_id: Annotated[str, typer.Argument(help="Id from aiws sessions list.")]) -> None:
    """End a session. Its tokens no longer work."""
    with connected(ctx) as session:
        session.client.auth.revoke_session(session_id)
        output.say("The session is over.")


def _refuse_key(ctx: typer.Context) -> None:
    """Stop if commands use an API key: signing in or out would have no effect on them."""
    if ctx.obj.api_key:
        stop("Commands use the key in AIWS_API_KEY. Unset it first.")


def _row(session: UserSession) -> tuple[str, ...]:
    last_use, current = output.time(session.last_use_time), "this one" if session.current else ""
    return session.session_id, session.device_name, session.address, last_use, current


def _signed_in(session: Session, email: str, user: User, device_token: str) -> None:
    for address in {email, user.email}:  # as typed, and in the server's normal form
        session.saved.remember_device(address, device_token)
    if user.email != session.saved.recall("email"):
        session.saved.remember(org_id="", workspace_id="", conversation_id="")
    session.saved.remember(email=user.email)
    output.say(f"Signed in as {user.display_name} <{user.email}>.", "green")
    if not session.client.orgs.list(page_size=1).first_page().orgs:
        output.say("Next: aiws orgs create NAME")


def _password(from_stdin: bool, *, confirm: bool) -> str:
    if from_stdin:
        return text.read_line()
    if not sys.stdin.isatty():
        stop("There is no terminal to ask for the password on. Use --password-stdin.")
    password: str = typer.prompt("Password", hide_input=True, confirmation_prompt=confirm, err=True)
    return password


def _device_name() -> str:
    return "".join(filter(str.isprintable, f"aiws on {socket.gethostname()}"))[:100]
