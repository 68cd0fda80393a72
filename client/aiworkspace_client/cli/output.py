"""What the command line writes: answers and tables to stdout, everything about them to stderr."""

import json
import re
from collections.abc import Iterable, Sequence
from datetime import UTC

from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp
from rich.console import Console
from rich.table import Table
from rich.text import Text

from aiworkspace_client.cli.text import shows_everything
from aiworkspace_client.types import Money, Role, TokenUsage

NANOS = 1_000_000_000

# The terminal wraps what is too long for it; ids have to stay whole.
_WIDEST = 2000

out = Console(highlight=False, soft_wrap=True, width=_WIDEST)
err = Console(stderr=True, highlight=False, soft_wrap=True)

# Everything with which a text could talk to the terminal instead of to its reader; new lines and tabs stay.
_CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def clean(text: str) -> str:
    """The text without control characters."""
    return _CONTROL.sub("", text)


def write(text: str) -> None:
    """Part of an answer, as it comes. Not by rich, which writes a text again that was interrupted by Ctrl-C."""
    print(clean(text), end="", flush=True)


def say(text: str, style: str = "") -> None:
    """A line about what happened."""
    err.print(Text(clean(text), style))


def money(amount: Money) -> str:
    """The exact amount: at least two decimal places, at most nine."""
    whole, nanos = divmod(abs(amount.nanos), NANOS)
    fraction = f"{nanos:09d}".rstrip("0").ljust(2, "0")
    sign = "-" if amount.nanos < 0 else ""
    return f"{sign}{whole:,}.{fraction} {amount.currency_code or 'USD'}"


def tokens(usage: TokenUsage) -> str:
    return f"{usage.input_tokens:,} tokens in, {usage.output_tokens:,} out"


def time(stamp: Timestamp) -> str:
    """The time to the minute, empty when it is not set. In UTC, in which days, months and budgets are counted."""
    if not stamp.seconds:
        return ""
    return stamp.ToDatetime(UTC).strftime("%Y-%m-%d %H:%MZ")


def say_keys(revoked: Iterable[str], kept: Iterable[str], maker: str) -> None:
    """What became of the API keys that somebody made who lost access."""
    for api_key_id in revoked:
        say(f"The key {api_key_id}, which {maker} made, has ended.")
    for api_key_id in kept:
        say(f"The key {api_key_id}, which {maker} made, goes on working.", "yellow")


def role(value: Role.ValueType, custom_role_id: str = "") -> str:
    """The role as it is typed on the command line."""
    name = Role.Name(value).removeprefix("ROLE_").lower()
    return f"{name}:{custom_role_id}" if custom_role_id else name


def table(columns: Sequence[str], rows: Iterable[Sequence[str]], *, right: Sequence[str] = ()) -> None:
    """A table without frames, whose cells are never cut: ids are there to be copied."""
    grid = Table(box=None, pad_edge=False, header_style="bold", show_header=any(columns))
    for name in columns:
        grid.add_column(name, justify="right" if name in right else "left", no_wrap=True)
    for row in rows:
        grid.add_row(*(Text(clean(cell)) for cell in row))
    out.print(grid)


def as_json(messages: Message | Iterable[Message]) -> None:
    """The messages as the contract's JSON: 64-bit numbers are strings."""
    if isinstance(messages, Message):
        content: object = _plain(messages)
    else:
        content = [_plain(message) for message in messages]
    out.print(Text(json.dumps(content, indent=2, ensure_ascii=not shows_everything())))


def _plain(message: Message) -> dict[str, object]:
    return MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
