"""What the contract says about each method, read from the descriptors when the server starts."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aiworkspace.v1 import options_pb2 as options


class ContractError(Exception):
    """The contract does not say all that the server has to know. The server must not start."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the contract and what its options declare."""

    path: str  # "/aiworkspace.v1.OrgService/GetOrg"
    request: type[Message] | None  # None for methods outside of the contract
    access: options.Access
    rate_limit: int  # value of RateLimitClass
    calls_per_minute: int
    audited: bool = False
    streams: bool = False  # whether it answers with a stream

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def open_method(path: str) -> Method:
    """A method outside of the contract that anybody may call: of health and reflection."""
    return Method(path, None, options.Access(mode=options.ACCESS_MODE_PUBLIC), 0, 0)


def read_methods(services: Iterable[ServiceDescriptor], scopes: Iterable[str]) -> Mapping[str, Method]:
    """All methods by path. Raises ContractError for one whose declarations are missing or make no sense.

    `scopes` are the names of the fields from which authorization can find the organization.
    """
    known = frozenset(scopes)
    methods = {}
    for descriptor in (method for service in services for method in service.methods):
        method = _read(descriptor)
        _check(method, known)
        methods[method.path] = method
    return methods


def _read(descriptor: MethodDescriptor) -> Method:
    declared = descriptor.GetOptions().Extensions
    limit = declared[options.rate_limit]
    value = options.RateLimitClass.DESCRIPTOR.values_by_number[limit]
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request=GetMessageClass(descriptor.input_type),
        access=declared[options.access],
        rate_limit=limit,
        calls_per_minute=value.GetOptions().Extensions[options.calls_per_minute],
        audited=declared[options.audited],
        streams=descriptor.server_streaming,
    )


def _check(method: Method, scopes: frozenset[str]) -> None:
    access = method.access
    if access.mode == options.ACCESS_MODE_UNSPECIFIED:
        raise ContractError(f"{method.path} declares no access: add option (aiworkspace.v1.access).")
    if method.calls_per_minute <= 0:
        raise ContractError(f"{method.path} declares no rate limit: add option (aiworkspace.v1.rate_limit).")
    needs_permission = access.mode == options.ACCESS_MODE_PERMISSION
    if bool(access.permission) != needs_permission or bool(access.scope) != needs_permission:
        raise ContractError(f"{method.path}: permission and scope belong to ACCESS_MODE_PERMISSION, and both to it.")
    if needs_permission:
        _check_scope(method, scopes)


def _check_scope(method: Method, scopes: frozenset[str]) -> None:
    assert method.request
    path = method.access.scope
    if path.rpartition(".")[2] not in scopes:
        raise ContractError(f"{method.path}: no organization can be found by {path!r}.")
    for name in filter(None, (path, method.access.self_field)):
        if _field_at(method.request.DESCRIPTOR, name) is None:
            raise ContractError(f"{method.path}: its request has no field {name!r}.")


def _field_at(message: Any, path: str) -> FieldDescriptor | None:
    """The field at a dotted path from a message's descriptor."""
    name, _, rest = path.partition(".")
    field: FieldDescriptor | None = message.fields_by_name.get(name)
    if field is None or not rest:
        return field
    return _field_at(field.message_type, rest) if field.message_type else None


def value_at(message: Message, path: str) -> str:
    """The value of a string field by its dotted path; empty when a message on the way is not set."""
    value: object = message
    for name in path.split("."):
        value = getattr(value, name)
    return str(value)


def is_sensitive(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().Extensions[options.sensitive])


def clear_sensitive(message: Message) -> None:
    """Clear what the contract marks as sensitive, at every depth."""
    for field, value in message.ListFields():
        if is_sensitive(field):
            message.ClearField(field.name)
        for inner in _messages(field, value):
            clear_sensitive(inner)


def restore_sensitive(message: Message, request: Message) -> None:
    """Copy into empty sensitive fields, at every depth, what the request has in a sensitive field of the same name."""
    for field in message.DESCRIPTOR.fields:
        given = request.DESCRIPTOR.fields_by_name.get(field.name)
        if given and _is_sensitive_text(field) and _is_sensitive_text(given) and not getattr(message, field.name):
            setattr(message, field.name, getattr(request, field.name))
    for field, value in message.ListFields():
        for inner in _messages(field, value):
            restore_sensitive(inner, request)


def _is_sensitive_text(field: Any) -> bool:
    return is_sensitive(field) and field.type == FieldDescriptor.TYPE_STRING and not field.is_repeated


def _messages(field: FieldDescriptor, value: Any) -> Iterable[Message]:
    """The messages in a field: one, those of a list, or the values of a map."""
    if field.message_type is None:
        return ()
    if field.message_type.GetOptions().map_entry:
        return value.values() if field.message_type.fields_by_name["value"].message_type else ()
    return value if field.is_repeated else (value,)
