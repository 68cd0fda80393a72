"""Output of the command line: answers and tables go to stdout, everything else to stderr."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC
from typing import Any

import typer
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aiworkspace_client.cli.text import shows_everything
from aiworkspace_client.types import Money, Role, TokenUsage

NANOS = 1_000_000_000

# The terminal wraps long lines; ids must not be cut.
_WIDEST = 2000

out = Console(highlight=False, soft_wrap=True, width=_WIDEST)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Control characters, with which a text could control the terminal; new lines and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """Return the text without control characters."""
    return _CONTROL.sub("", text)


def one_line(text: str) -> str:
    """Return the text without control characters and line ends, for a line of its own."""
    return " ".join(clean(text).split())


def write(text: str) -> None:
    """Write a part of an answer. Not with rich, which repeats a text that was interrupted by Ctrl-C."""
    print(clean(text), end="", flush=True)


def say(text: str, style: str = "") -> None:
    """Print a line about what happened."""
    err.print(Text(clean(text), style))


def confirm(question: str, *, yes: bool) -> None:
    """Ask the question on stderr unless `yes` answers it already. Every other answer ends the program."""
    if not yes:
        typer.confirm(question, abort=True, err=True)


def money(amount: Money) -> str:
    """Return the exact amount, with two to nine decimal places."""
    whole, nanos = divmod(abs(amount.nanos), NANOS)
    fraction = f"{nanos:09d}".rstrip("0").ljust(2, "0")
    sign = "-" if amount.nanos < 0 else ""
    return f"{sign}{whole:,}.{fraction} {amount.currency_code or 'USD'}"


def tokens(usage: TokenUsage) -> str:
    return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"


def time(stamp: Timestamp) -> str:
    """Return the time to the minute, empty if it is not set. In UTC, in which days and budgets are counted."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%MZ")


def say_keys(revoked: Iterable[str], kept: Iterable[str], maker: str) -> None:
    """Print which API keys were revoked and which remain valid, after their creator lost access."""
    for api_key_id in revoked:
        say(f"The key {api_key_id}, which {maker} created, was revoked.")
    for api_key_id in kept:
        say(f"The key {api_key_id}, which {maker} created, remains valid.", "yellow")


def role(value: Role.ValueType, custom_role_id: str = "") -> str:
    """Return the role as it is typed on the command line."""
    name = Role.Name(value).removeprefix("ROLE_").lower()
    return f"{name}:{custom_role_id}" if custom_role_id else name


def word(name: Callable[[Any], str], value: int) -> str:
    """Return the name of an enum's value without the enum's own, in small letters. `name` is the enum's Name.

    Values that only a newer server knows are numbers.
    """
    try:
        found = name(value)
    except ValueError:
        return str(value)
    return found.removeprefix(name(0).removesuffix("UNSPECIFIED")).lower().replace("_", " ")


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """Print a table without frames. Cells are never cut, so that ids can be copied."""
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        grid.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(clean(cell)) for cell in row))
    out.print(grid)


def as_json(messages: Message | Iterable[Message]) -> None:
    """Print the messages as the contract's JSON, in which 64-bit numbers are strings."""
    if isinstance(messages, Message):
        content: object = _plain(messages)
    else:
        content = [_plain(message) for message in messages]
    out.print(Text(json.dumps(content, indent=2, ensure_ascii=not shows_everything())))


def _plain(message: Message) -> dict[str, object]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
