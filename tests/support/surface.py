"""The whole surface by reflection: every method, and requests to it, with no list to maintain."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import grpc
from google.protobuf.descriptor_pb2 import MethodOptions
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.rpc import SERVICES
from buf.validate import validate_pb2 as validate
from tests.support.people import Person
from tests.support.settings import WEBHOOK_HOST

# Names of the fields by which authorization finds the organization.
SCOPES = ("org_id", "workspace_id", "conversation_id", "run_id", "document_id", "collection_id", "upload_id")

# What to put into a field that is not an id, by its name, so that the request keeps the rules of the contract.
SAMPLES: dict[str, Any] = {
    "email": "somebody@example.com",
    "password": "a passphrase for tests",
    "current_password": "a passphrase for tests",
    "new_password": "another passphrase for tests",
    "display_name": "Somebody",
    "name": "Something",
    "title": "Something",
    "content": "hello",
    "token": "none",
    "refresh_token": "none",
    "role": 2,
    "permissions": ["org.read"],
    "method": "OrgService/GetOrg",
    "scope": 1,
    "window": 1,
    "currency_code": "USD",
    "nanos": 10**12,
    "provider": "openai",
    "attempt": 1,
    "secret": "sk-a-key-for-tests",
    "size_bytes": 1,
    "sha256": "0" * 64,
    "query": "something",
    "url": "https://localhost/",
    "reason": "for a test",
}


# Methods whose streams do not end by themselves.
_ENDLESS = {"WatchEvents"}
_QUIET_SECONDS = 2.0

_TAKES_AWAY = ("Remove", "Revoke", "Suspend", "Delete", "Logout")
_LAST = ("DeleteWorkspace", "DeleteOrg", "DeleteAccount")  # after which nothing is left to be taken away


@dataclass(frozen=True)
class Outcome:
    """All that a caller can learn from a call."""

    code: grpc.StatusCode
    message: str
    details: bytes
    answer: bytes


@dataclass(frozen=True)
class Endpoint:
    """A method of the contract, called by its path."""

    descriptor: Any

    @property
    def path(self) -> str:
        return f"/{self.descriptor.containing_service.full_name}/{self.descriptor.name}"

    @property
    def access(self) -> options.Access:
        access: options.Access = self.descriptor.GetOptions().Extensions[options.access]
        return access

    @property
    def reads(self) -> bool:
        """Whether it changes nothing, as the contract says."""
        return bool(self.descriptor.GetOptions().idempotency_level == MethodOptions.NO_SIDE_EFFECTS)

    def request(self, ids: Mapping[str, str], *, optional: bool = True) -> Any:
        """A request that keeps the rules, with these ids in the fields of their names, optional ones perhaps left out.

        Where a service is about service accounts, they are the users.
        """
        if self.descriptor.containing_service.name == "ServiceAccountService":
            ids = {**ids, "user_id": ids.get("service_account_id", ids.get("user_id", ""))}
        request = GetMessageClass(self.descriptor.input_type)()
        _fill(request, ids, optional)
        if self.descriptor.containing_service.name == "WebhookService":
            _name_webhook(request)
        scope = self.access.scope
        if scope and scope in ids:  # required, though a later message of a stream may do without
            put(request, scope, ids[scope])
        return request

    async def call(self, person: Person, request: Message | bytes, metadata: Any = ()) -> Outcome:
        """`request` may be bytes that no message encodes to."""
        channel: Any = person.channel
        kind = channel.unary_stream if self.descriptor.server_streaming else channel.unary_unary
        if self.descriptor.client_streaming:
            kind = channel.stream_unary
        method = kind(self.path, request_serializer=_encode, response_deserializer=lambda data: data)
        call = method(_once(request) if self.descriptor.client_streaming else request, metadata=metadata, timeout=60)
        try:
            if self.descriptor.name in _ENDLESS:
                answer = await _first(call)
            else:
                answer = b"".join([part async for part in call]) if self.descriptor.server_streaming else await call
        except grpc.aio.AioRpcError as error:
            trailing = dict(error.trailing_metadata() or ())
            return Outcome(error.code(), error.details() or "", trailing.get("grpc-status-details-bin", b""), b"")
        return Outcome(grpc.StatusCode.OK, "", b"", answer)


async def _first(call: Any) -> bytes:
    """What a stream begins with; nothing if it has nothing to say."""
    try:
        async with asyncio.timeout(_QUIET_SECONDS):
            part = await call.read()
    except TimeoutError:
        part = b""
    call.cancel()
    return part if isinstance(part, bytes) else b""


ENDPOINTS = [Endpoint(method) for service in SERVICES for method in service.methods]
CLOSED = [endpoint for endpoint in ENDPOINTS if endpoint.access.mode != options.ACCESS_MODE_PUBLIC]


def name_of(endpoint: Endpoint) -> str:
    return str(endpoint.descriptor.full_name.removeprefix("aiworkspace.v1."))


def calling_order(endpoint: Endpoint) -> tuple[int, int]:
    """Those last that take something away."""
    name: str = endpoint.descriptor.name
    takes_away = next((place for place, verb in enumerate(_TAKES_AWAY, 1) if name.startswith(verb)), 0)
    return (_LAST.index(name) + 1 if name in _LAST else 0), takes_away


def id_fields(message: Any, prefix: str = "") -> Iterator[str]:
    """Dotted paths of all fields of a request, or of the resource in it, that hold somebody's id or several."""
    for field in message.fields:
        if _is_ours(field):
            yield from id_fields(field.message_type, f"{prefix}{field.name}.")
        elif field.name.endswith(("_id", "_ids")) and field.name != "request_id":
            yield prefix + field.name


def names_documents(endpoint: Endpoint) -> bool:
    """Whether a request holds the id of a document, or of what documents are kept in or uploaded by."""
    named = {path.rpartition(".")[2].removesuffix("s") for path in id_fields(endpoint.descriptor.input_type)}
    return not named.isdisjoint({"document_id", "version_id", "collection_id", "upload_id"})


def enum_fields(message: Any, prefix: str = "") -> Iterator[tuple[str, list[int]]]:
    """Dotted paths of all fields that hold one value of an enum, and the values to choose from."""
    for field in message.fields:
        if _is_ours(field):
            yield from enum_fields(field.message_type, f"{prefix}{field.name}.")
        elif field.enum_type and not field.is_repeated:
            yield prefix + field.name, [value.number for value in field.enum_type.values if value.number]


def put(request: Any, path: str, value: Any) -> None:
    """Sets the field; one that is repeated to this value alone."""
    *parents, name = path.split(".")
    for parent in parents:
        request = inside(request, parent)
    if request.DESCRIPTOR.fields_by_name[name].is_repeated:
        request.ClearField(name)
        getattr(request, name).append(value)
    else:
        setattr(request, name, value)


def is_output_only(endpoint: Endpoint, path: str) -> bool:
    """Whether the field belongs to a resource in an update and does not name it: such fields are ignored."""
    return "." in path and path != endpoint.access.scope


def random_id() -> str:
    return str(uuid.uuid4())


def text_fields(message: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted paths and descriptors of all strings and bytes in a message, at every depth."""
    for field in message.fields:
        if field.message_type and field.message_type.full_name.startswith("aiworkspace."):
            yield from text_fields(field.message_type, f"{prefix}{field.name}.")
        elif field.type in (field.TYPE_STRING, field.TYPE_BYTES):
            yield prefix + field.name, field


def _fill(request: Any, ids: Mapping[str, str], optional: bool) -> None:
    for field in request.DESCRIPTOR.fields:
        if _is_ours(field):
            if field.is_repeated and not any(id_fields(field.message_type)):
                continue  # a list may be empty
            _fill(inside(request, field.name), ids, True)  # what is optional there may name the resource
        elif field.name in ids:
            if optional or field.GetOptions().Extensions[validate.field].ignore != validate.IGNORE_IF_ZERO_VALUE:
                setattr(request, field.name, ids[field.name])
        elif field.name in SAMPLES and field.name != "title":
            _set(request, field, SAMPLES[field.name])


def inside(request: Any, name: str) -> Any:
    """The message in the field, the first one where there may be several; it is there from now on."""
    if request.DESCRIPTOR.fields_by_name[name].is_repeated:
        messages = getattr(request, name)
        return messages[0] if messages else messages.add()
    getattr(request, name).SetInParent()
    return getattr(request, name)


def _name_webhook(request: Any) -> None:
    """Name a URL to which webhooks may be sent in tests, instead of one that is refused."""
    for message in (request, *(value for _, value in request.ListFields() if hasattr(value, "DESCRIPTOR"))):
        if "url" in message.DESCRIPTOR.fields_by_name:
            message.url = f"https://{WEBHOOK_HOST}/"


def _set(request: Any, field: Any, value: Any) -> None:
    if field.is_repeated:
        getattr(request, field.name).extend(value)
    else:
        setattr(request, field.name, value)


def _is_ours(field: Any) -> bool:
    """Whether the field holds a message of the contract."""
    message = field.message_type
    return message is not None and bool(message.full_name.startswith("aiworkspace."))


async def _once(request: Message | bytes) -> AsyncIterator[Message | bytes]:
    yield request


def _encode(request: Message | bytes) -> bytes:
    return request if isinstance(request, bytes) else request.SerializeToString()
