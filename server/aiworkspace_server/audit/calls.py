"""What the log says of a call: who, as what, from where, about what. Ids alone, never what somebody wrote."""

from collections.abc import Iterator
from typing import Any
from uuid import UUID

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from ..kit.context import Call
from ..kit.contract import is_sensitive

PACKAGE = "aiworkspace.v1."


def describe(call: Call, org_id: UUID | None, request: Any) -> dict[str, Any]:
    """Columns of an entry in the log of the organization, or of an account when there is none: those that are known of
    a call also when it has ended."""
    key = call.principal.key if call.principal else None
    return {
        "method": call.method.path.removeprefix(f"/{PACKAGE}"),
        "user_id": call.user_id,
        "session_id": call.session_id,
        "api_key_id": key.api_key_id if key else None,
        "role": _role(call, org_id),
        "user_agent": call.user_agent,
        "request_id": call.request_id,
        "resources": resources(request, call.answer),
    }


def _role(call: Call, org_id: UUID | None) -> str:
    """By its name or, of a custom one, its id. Nobody has one yet in an organization that the call made or joined."""
    membership = call.principal.memberships.get(org_id) if call.principal else None
    return str(membership.custom_role_id or membership.role) if membership else ""


def resources(*messages: Any) -> dict[str, str]:
    """The ids in messages by the names of their fields; an id that has the name of another one by its whole path."""
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
                continue  # a request that was refused for it, or its author's own text
