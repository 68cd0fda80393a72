"""The declarations of the contract for each method, read from the descriptors when the server starts."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from operator import attrgetter
from typing import Any

from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor, ServiceDescriptor
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aiworkspace.v1 import options_pb2 as options

from .shapes import UnboundedList, shape_of

DEFAULT_REQUEST_BYTES = 64 << 10
MOST_REQUEST_BYTES = 2 << 20  # larger requests are refused by gRPC itself, with RESOURCE_EXHAUSTED
MOST_PUBLIC_REQUEST_BYTES = 8 << 10
_OPEN = options.RateLimitClass.DESCRIPTOR.values_by_number[options.RATE_LIMIT_CLASS_OPEN]
_OPEN_REQUEST_BYTES = 4 << 10
_OPEN_CALLS_AT_ONCE = 100  # each channel of a client that watches the server's health holds one
_OPEN_DIALOGUES_AT_ONCE = 4  # each message costs as much as a call, and waiting for one occupies a reading slot


class ContractError(Exception):
    """A declaration of the contract is missing or contradictory. The server must not start."""


@dataclass(frozen=True, slots=True)
class Method:
    """A method of the contract with its declared options."""

    path: str  # "/aiworkspace.v1.OrgService/GetOrg"
    request: type[Message]
    access: options.Access
    rate_limit: int  # value of RateLimitClass
    calls_per_minute: int
    reads: bool = False  # whether it changes nothing
    audited: bool = False
    streams: bool = False  # whether its response is a stream
    request_streams: bool = False
    max_request_bytes: int = DEFAULT_REQUEST_BYTES
    at_once: int = 1  # calls or, for a streaming method, streams of its class that a caller may have in progress

    @property
    def is_dialogue(self) -> bool:
        """Whether both sides send streams."""
        return self.streams and self.request_streams

    @property
    def name(self) -> str:
        return self.path.rpartition("/")[2]


def open_method(path: str, handler: Any) -> Method:
    """Return a public method outside of the contract, such as of health and reflection. `handler` is gRPC's."""
    return Method(
        path,
        handler.request_deserializer.__self__,  # the message class, whose method FromString it is
        options.Access(mode=options.ACCESS_MODE_PUBLIC),
        rate_limit=options.RATE_LIMIT_CLASS_OPEN,
        calls_per_minute=_OPEN.GetOptions().Extensions[options.calls_per_minute],
        streams=handler.response_streaming,
        request_streams=handler.request_streaming,
        max_request_bytes=_OPEN_REQUEST_BYTES,
        at_once=_OPEN_DIALOGUES_AT_ONCE if handler.request_streaming else _OPEN_CALLS_AT_ONCE,
    )


def read_methods(services: Iterable[ServiceDescriptor], scopes: Iterable[str]) -> Mapping[str, Method]:
    """Return all methods by path. Raises ContractError if a declaration is missing or contradictory.

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
    given = descriptor.GetOptions()
    declared = given.Extensions
    limit = declared[options.rate_limit]
    group = options.RateLimitClass.DESCRIPTOR.values_by_number[limit].GetOptions().Extensions
    streams = descriptor.server_streaming
    return Method(
        path=f"/{descriptor.containing_service.full_name}/{descriptor.name}",
        request=GetMessageClass(descriptor.input_type),
        access=declared[options.access],
        rate_limit=limit,
        calls_per_minute=group[options.calls_per_minute],
        reads=given.idempotency_level == MethodOptions.NO_SIDE_EFFECTS,
        audited=declared[options.audited],
        streams=streams,
        request_streams=descriptor.client_streaming,
        max_request_bytes=declared[options.max_request_bytes] or DEFAULT_REQUEST_BYTES,
        at_once=group[options.streams_at_once if streams else options.calls_at_once],
    )


def _check(method: Method, scopes: frozenset[str]) -> None:
    access = method.access
    if access.mode == options.ACCESS_MODE_UNSPECIFIED:
        raise ContractError(f"{method.path} declares no access: add option (aiworkspace.v1.access).")
    if method.calls_per_minute <= 0:
        raise ContractError(f"{method.path} declares no rate limit: add option (aiworkspace.v1.rate_limit).")
    needs_permission = access.mode == options.ACCESS_MODE_PERMISSION
    if bool(access.permission) != needs_permission or bool(access.scope) != needs_permission:
        raise ContractError(f"{method.path}: ACCESS_MODE_PERMISSION, and only it, needs permission and scope.")
    if needs_permission:
        _check_scope(method, scopes)
    elif access.while_suspended:
        raise ContractError(f"{method.path}: while_suspended is only for ACCESS_MODE_PERMISSION.")
    if method.at_once <= 0:
        kind = "streams_at_once" if method.streams else "calls_at_once"
        raise ContractError(f"{method.path}: its rate-limit class declares no {kind}.")
    check_size(method)


def check_size(method: Method) -> None:
    """Raise ContractError if the size of requests is unbounded, or its bound does not fit the validation rules."""
    size, public = method.max_request_bytes, method.access.mode == options.ACCESS_MODE_PUBLIC
    most = MOST_PUBLIC_REQUEST_BYTES if public else MOST_REQUEST_BYTES
    if not 0 < size <= most:
        raise ContractError(f"{method.path}: max_request_bytes is {size:,}; it must be 1 to {most:,} here.")
    try:
        needed = shape_of(method.request.DESCRIPTOR).most_bytes
    except UnboundedList as error:
        raise ContractError(f"{method.path}: {error}") from None
    if needed > size:
        raise ContractError(
            f"{method.path}: valid requests have up to {needed:,} bytes, but max_request_bytes is {size:,}."
        )


def _check_scope(method: Method, scopes: frozenset[str]) -> None:
    path = method.access.scope
    if path.rpartition(".")[2] not in scopes:
        raise ContractError(f"{method.path}: the organization cannot be found from {path!r}.")
    for name in filter(None, (path, method.access.self_field)):
        if _field_at(method.request.DESCRIPTOR, name) is None:
            raise ContractError(f"{method.path}: its request has no field {name!r}.")


def _field_at(message: Any, path: str) -> FieldDescriptor | None:
    """Return the field at a dotted path from a message's descriptor."""
    name, _, rest = path.partition(".")
    field: FieldDescriptor | None = message.fields_by_name.get(name)
    if field is None or not rest:
        return field
    return _field_at(field.message_type, rest) if field.message_type else None


def value_at(message: Message, path: str) -> str:
    """Return the value of the string field at a dotted path; empty if a message on the path is not set."""
    return str(_reader(path)(message))


@cache
def _reader(path: str) -> Callable[[Message], object]:
    """Return the function that reads a declared path, of which there are few."""
    return attrgetter(path)


def is_sensitive(field: FieldDescriptor) -> bool:
    return bool(field.GetOptions().Extensions[options.sensitive])


def clear_sensitive(message: Message) -> None:
    """Clear sensitive fields, at every depth."""
    for field, value in message.ListFields():
        if is_sensitive(field):
            message.ClearField(field.name)
        for inner in _messages(field, value):
            clear_sensitive(inner)


def restore_sensitive(message: Message, request: Message) -> None:
    """Fill empty sensitive fields, at every depth, from the request's sensitive fields of the same name."""
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
    """Return the messages in a field: one, those of a list, or the values of a map."""
    if field.message_type is None:
        return ()
    if field.message_type.GetOptions().map_entry:
        return value.values() if field.message_type.fields_by_name["value"].message_type else ()
    return value if field.is_repeated else (value,)
