"""Decodes and encodes messages. The cost of decoding is bounded for any bytes."""

from collections.abc import Callable, Iterator
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import DecodeError, Message

from .errors import InvalidArgument
from .shapes import Shape

_VARINT, _FIXED64, _LENGTH, _START_GROUP, _END_GROUP, _FIXED32 = range(6)
_FIXED_BYTES = {_FIXED64: 8, _START_GROUP: 0, _END_GROUP: 0, _FIXED32: 4}
_LEAST_FIELD_BYTES = 2


class _Malformed(Exception):
    pass


def decoder(message: type[Message], shape: Shape) -> Callable[[bytes], Message]:
    """Return a function from bytes to the message.

    The function raises InvalidArgument if the bytes cannot be decoded, if they have more fields than the shape accepts,
    or if a list is too long.
    """
    descriptor, most = message.DESCRIPTOR, shape.accepted_fields

    def decode(data: bytes) -> Message:
        # Nearly all requests have too few bytes for so many fields, and need no counting.
        if len(data) > most * _LEAST_FIELD_BYTES and _has_more_fields(descriptor, data, most):
            raise InvalidArgument({"request": f"has more than {most:,} fields"})
        try:
            decoded = message.FromString(data)
        except DecodeError:
            raise _undecodable(descriptor, data, most) from None
        if excess := dict(shape.excess(decoded)):
            raise InvalidArgument(excess)
        return decoded

    return decode


def encode(message: Message | bytes) -> bytes:
    """Encode a response, or return it if it is encoded already, such as the stored events of a run."""
    return message if isinstance(message, bytes) else message.SerializeToString()


def _undecodable(descriptor: Any, data: bytes, most: int) -> InvalidArgument:
    try:
        for path, field, value in _walk(descriptor, data, most):
            if field.type == FieldDescriptor.TYPE_STRING and not _is_utf8(value):
                return InvalidArgument({path: "must be valid UTF-8"})
    except _Malformed:
        pass
    return InvalidArgument({"request": f"cannot be decoded as {descriptor.full_name}"})


def _has_more_fields(descriptor: Any, data: bytes, most: int) -> bool:
    count, pending = 0, [(descriptor, 0, len(data))]
    try:
        while pending:
            message, start, end = pending.pop()
            for number, kind, begin, stop in _fields(data, start, end):
                count += 1
                if count > most:
                    return True
                field = message.fields_by_number.get(number) if kind == _LENGTH else None
                if field is not None and field.message_type is not None:
                    pending.append((field.message_type, begin, stop))
    except _Malformed:
        return False  # the parser will report it
    return False


def _walk(descriptor: Any, data: bytes, most: int) -> Iterator[tuple[str, FieldDescriptor, bytes]]:
    """Yield path, descriptor and value of known length-delimited fields, looking at a limited number of fields."""
    pending = [("", descriptor, _fields(data, 0, len(data)))]
    for _ in range(most):
        while (found := next(pending[-1][2], None)) is None:
            pending.pop()
            if not pending:
                return
        prefix, message, _ = pending[-1]
        number, kind, start, end = found
        field = message.fields_by_number.get(number) if kind == _LENGTH else None
        if field is None:
            continue
        if field.message_type is None:
            yield f"{prefix}{field.name}", field, data[start:end]
        else:
            pending.append((f"{prefix}{field.name}.", field.message_type, _fields(data, start, end)))


def _fields(data: bytes, position: int, end: int) -> Iterator[tuple[int, int, int, int]]:
    """Yield number, wire type, start and end of the value of each field. The end of a group counts as a field."""
    while position < end:
        tag, position = _varint(data, position, end)
        kind = tag & 7
        if kind == _VARINT:
            start = position
            _, position = _varint(data, position, end)
        elif kind == _LENGTH:
            size, start = _varint(data, position, end)
            position = start + size
        elif kind in _FIXED_BYTES:
            start = position
            position += _FIXED_BYTES[kind]
        else:
            raise _Malformed
        if position > end:
            raise _Malformed
        yield tag >> 3, kind, start, position


def _varint(data: bytes, position: int, end: int) -> tuple[int, int]:
    """Return the value, and the position after it."""
    value = shift = 0
    while position < end and shift < 70:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
    raise _Malformed


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode()
    except UnicodeDecodeError:
        return False
    return True
