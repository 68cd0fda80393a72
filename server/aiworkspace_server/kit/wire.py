"""Bytes to messages and back, where the generated functions are not enough."""

from collections.abc import Callable
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.empty_pb2 import Empty
from google.protobuf.message import DecodeError, Message
from google.protobuf.unknown_fields import UnknownFieldSet

from .errors import InvalidArgument


class Undecodable:
    """Stands for a request that could not be decoded, until the caller is known to be allowed to hear of it."""

    def __init__(self, message: type[Message], data: bytes) -> None:
        self._message = message
        self._data = data

    def error(self) -> InvalidArgument:
        field = _not_utf8(self._message.DESCRIPTOR, self._data)
        if field:
            return InvalidArgument({field: "must be valid UTF-8"})
        return InvalidArgument({"request": f"cannot be decoded as {self._message.DESCRIPTOR.full_name}"})


def decoder(message: type[Message]) -> Callable[[bytes], Any]:
    """A request deserializer that does not raise: grpc.aio sends the text of what it raises to the client."""

    def decode(data: bytes) -> Message | Undecodable:
        try:
            return message.FromString(data)
        except DecodeError:
            return Undecodable(message, data)

    return decode


def encode(message: Message | bytes) -> bytes:
    """A response serializer that lets pass what is encoded already, such as the stored events of a run."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _not_utf8(message: Any, data: bytes) -> str:
    """Path of the first string field that is not UTF-8, or an empty string. `message` is a descriptor."""
    try:
        fields: Any = UnknownFieldSet(Empty.FromString(data))
    except DecodeError:
        return ""
    for found in fields:
        field = message.fields_by_number.get(found.field_number)
        if field is None or not isinstance(found.data, bytes):
            continue
        if field.type == FieldDescriptor.TYPE_MESSAGE:
            inner = _not_utf8(field.message_type, found.data)
            if inner:
                return f"{field.name}.{inner}"
        elif field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(found.data):
            return str(field.name)
    return ""


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
