"""The content of an audit event: who called, in which role, from where, about which ids. Never what people wrote."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..kit.context import Call
from ..kit.contract import is_sensitive

PACKAGE = "aiworkspace.v1."


@dataclass(frozen=True, slots=True)
class Actor:
    """The caller's API key, and the caller's role: its name, or the id of a custom one."""

    api_key_id: UUID | None = None
    role: str = ""


# Returns the caller as a member of the organization; the role is empty in one that the call itself creates or joins.
ActorOf = Callable[[Call, UUID | None], Actor]


def describe(call: Call, actor: Actor, request: Message | None, answer: Message | None) -> dict[str, Any]:
    """Return the columns of an entry that do not depend on the outcome of the call."""
    return {
        "method": call.method.path.removeprefix(f"/{PACKAGE}"),
        "user_id": call.user_id,
        "session_id": call.session_id,
        "api_key_id": actor.api_key_id,
        "role": actor.role,
        "user_agent": call.user_agent,
        "request_id": call.request_id,
        "address": call.address,
        "resources": resources(request, answer),
    }


def resources(*messages: Any) -> dict[str, str]:
    """Return the ids in messages by field name; by the whole path where the name is taken by another id."""
    found: dict[str, str] = {}
    for message in messages:
        for path, value in _ids(message) if isinstance(message, Message) else ():
            name = path.rpartition(".")[2]
            found[name if found.get(name, value) == value else path] = value
    return found


def _ids(message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
    for field, value in message.ListFields():
        if field.is_repeated or is_sensitive(field):
            continue
        if field.message_type and field.message_type.full_name.startswith(PACKAGE):
            yield from _ids(value, f"{prefix}{field.name}.")
        elif field.type == FieldDescriptor.TYPE_STRING and field.name.endswith("_id") and field.name != "request_id":
            try:
                yield prefix + field.name, str(UUID(value))
            except ValueError:
                continue  # not a UUID: the request was refused for it
