"""aiws models: which models are available, and with which keys."""

import os
import sys
from enum import StrEnum
from typing import Any

import typer

from aiworkspace_client.cli import output, text
from aiworkspace_client.cli.account import Json
from aiworkspace_client.cli.conversations import Workspace
from aiworkspace_client.cli.orgs import Org
from aiworkspace_client.cli.session import connected, stop
from aiworkspace_client.pager import Pager
from aiworkspace_client.types import Model, ProviderKey

_TRYING_SECONDS = 30.0  # the server tries the key at the provider

app = typer.Typer(help="Models, model policies and provider keys.")
keys = typer.Typer(no_args_is_help=True, help="Keys of the organization at providers, in place of the server's.")
app.add_typer(keys, name="keys")


class Provider(StrEnum):
    """The hosted providers."""

    OPENAI = "openai"
    ANTHROPIC = "anthropic"
    DEEPSEEK = "deepseek"


@app.callback(invoke_without_command=True)
def models(ctx: typer.Context, json: Json = False) -> None:
    """List the models that the server can use with its own keys; aiws models list shows those of a workspace."""
    if ctx.invoked_subcommand:
        return
    with connected(ctx) as session:
        _print(session.client.chat.list_models(), json)


@app.command("list")
def list_models(ctx: typer.Context, workspace: Workspace = "", json: Json = False) -> None:
    """List the models that may be used in the workspace."""
    with connected(ctx) as session:
        _print(session.client.models.list_workspace_models(session.workspace_id(workspace)), json)


@keys.command("set")
def set_key(ctx: typer.Context, provider: Provider, org: Org = "") -> None:
    """Use the organization's own key from now on. The key is prompted for, or read from standard input or from
    AIWS_PROVIDER_KEY: all users of this machine can read command lines."""
    with connected(ctx) as session:
        org_id, secret = session.org_id(org), _secret()
        key = session.client.models.set_provider_key(
            org_id=org_id, provider=provider, secret=secret, timeout=_TRYING_SECONDS
        )
        output.say(f"Models of {key.provider} use the key that ends in {key.hint}.", "green")


@keys.command("list")
def list_keys(ctx: typer.Context, org: Org = "", json: Json = False) -> None:
    """List the organization's own provider keys."""
    with connected(ctx) as session:
        found = session.client.models.list_provider_keys(session.org_id(org))
        if json:
            return output.as_json(found)
        output.table(("PROVIDER", "ENDS IN", "SET", "BY"), map(_row, found))


@keys.command("delete")
def delete_key(ctx: typer.Context, provider: Provider, org: Org = "") -> None:
    """Use the server's key again, if it has one."""
    with connected(ctx) as session:
        session.client.models.delete_provider_key(org_id=session.org_id(org), provider=provider)
        output.say("The key is deleted.")


def _secret() -> str:
    if secret := os.environ.get("AIWS_PROVIDER_KEY", "").strip():
        return secret
    if sys.stdin.isatty():
        return str(typer.prompt("Key", hide_input=True, err=True)).strip()
    return text.read_line().strip() or stop("There is no key on standard input.")


def _row(key: ProviderKey) -> tuple[str, ...]:
    return key.provider, f"…{key.hint}", output.time(key.create_time), key.creator_id


def _print(pager: Pager[Model, Any], json: bool) -> None:
    pages = list(pager.pages())
    found = [model for page in pages for model in page.models]
    away = {name for page in pages for name in page.unreachable_providers}
    if away:
        output.say(f"Not reachable; their models may be outdated: {', '.join(sorted(away))}.", "yellow")
    if json:
        return output.as_json(found)
    output.table(
        ("MODEL", "NAME", "CONTEXT", "INPUT / MILLION", "OUTPUT / MILLION"),
        ((each.model, each.display_name, _context(each), *_prices(each)) for each in found),
        right=("CONTEXT", "INPUT / MILLION", "OUTPUT / MILLION"),
    )


def _context(model: Model) -> str:
    return f"{model.context_tokens:,}" if model.context_tokens else ""


def _prices(model: Model) -> tuple[str, str]:
    return (
        output.money(model.input_price) if model.HasField("input_price") else "",
        output.money(model.output_price) if model.HasField("output_price") else "",
    )
