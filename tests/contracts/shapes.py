"""The largest requests that a method takes, of every shape that could cost much, built from the descriptors."""

from collections.abc import Callable, Iterator
from typing import Any
from uuid import uuid4

from google.protobuf.descriptor import FieldDescriptor as Field

from aiworkspace.v1 import common_pb2, document_pb2, model_pb2, service_account_pb2, usage_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit.contract import DEFAULT_REQUEST_BYTES
from buf.validate import validate_pb2 as validate

_VARINT, _LENGTH, _START_GROUP, _END_GROUP = 0, 2, 3, 4
_UNKNOWN = 15  # a number that has a tag of one byte, and that no request uses
NOT_UTF8 = b"\xff"
_UNITS = {"letters": b"x", "NUL": b"\0", "dots": b"a.", "slashes": b"a/", "emoji": "😀".encode()}
# What takes longest to be looked through or brought into a normal form, in as many characters as a field may have.
_TEXTS: dict[str, Callable[[int], str]] = {
    "words": lambda size: "a " * (size // 2),
    "white space": lambda size: " " * (size - 1) + "x",
    "marks in the wrong order": lambda size: "a" + "\u0301" * (size // 2 - 1) + "\u0316" * (size // 2 - 1),
}

Wrap = Callable[[bytes], bytes]


def varint(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes([*out, value])


def tag(number: int, kind: int) -> bytes:
    return varint(number << 3 | kind)


def delimited(number: int, value: bytes) -> bytes:
    return tag(number, _LENGTH) + varint(len(value)) + value


def most_bytes(method: Any) -> int:
    return method.GetOptions().Extensions[options.max_request_bytes] or DEFAULT_REQUEST_BYTES


def largest(message: Any, valid: bytes, size: int) -> Iterator[tuple[str, bytes]]:
    """Requests of nearly this size by what they are made of; `valid` is one that keeps the rules and comes first."""
    room = size - len(valid) - 32
    for name, filling in _fillings(message, room, lambda inner: inner, ""):
        yield name, valid + filling


def _fillings(message: Any, room: int, wrap: Wrap, path: str) -> Iterator[tuple[str, bytes]]:
    yield from _unknown(room, wrap, path)
    for field in message.fields:
        name = f"{path}{field.name}"
        for what, filling in _of_field(field, room):
            yield f"{name}: {what}", wrap(filling)
        if field.message_type:

            def inside(inner: bytes, number: int = field.number) -> bytes:
                return wrap(delimited(number, inner))

            yield from _fillings(field.message_type, room - 8, inside, f"{name}.")


def _unknown(room: int, wrap: Wrap, path: str) -> Iterator[tuple[str, bytes]]:
    number = wrap(_repeat(tag(_UNKNOWN, _VARINT) + b"\0", room))
    yield f"{path}unknown numbers", number
    yield f"{path}unknown numbers, then a bad byte", number + b"\xff"
    yield f"{path}unknown groups", wrap(_repeat(tag(_UNKNOWN, _START_GROUP) + tag(_UNKNOWN, _END_GROUP), room))
    yield f"{path}unknown groups, nested", wrap(_repeat(tag(_UNKNOWN, _START_GROUP), room))
    yield f"{path}unknown empty values", wrap(_repeat(delimited(_UNKNOWN, b""), room))
    yield f"{path}one unknown value", wrap(_long(_UNKNOWN, b"x", room))
    yield f"{path}padded tags", wrap(_repeat(b"\xf8\x80\x80\x80\x00\x80\x80\x80\x80\x80\x80\x80\x80\x80\x00", room))


def _of_field(field: Any, room: int) -> Iterator[tuple[str, bytes]]:
    if field.message_type or field.type == Field.TYPE_STRING:
        yield "empty values", _repeat(delimited(field.number, b""), room)
    if field.message_type:
        yield "values with an unknown field", _repeat(delimited(field.number, tag(_UNKNOWN, _VARINT) + b"\1"), room)
    elif field.type == Field.TYPE_STRING:
        for name, unit in _UNITS.items():
            yield f"one long value of {name}", _long(field.number, unit, room)
            yield f"short values of {name}", _repeat(delimited(field.number, unit), room)
        for name, make in _TEXTS.items():
            yield f"as many {name} as the rules allow", _fitting(field, make, room)
        one = len(delimited(field.number, b"000000"))
        yield "values that differ", b"".join(delimited(field.number, b"%06d" % n) for n in range(room // one))
        bad = delimited(field.number, NOT_UTF8)
        yield "many, the last not UTF-8", _repeat(delimited(field.number, b""), room - len(bad)) + bad
        yield "unknown numbers, then one not UTF-8", _repeat(tag(_UNKNOWN, _VARINT) + b"\0", room - len(bad)) + bad
    else:
        yield "numbers", _repeat(tag(field.number, _VARINT) + b"\1", room)
        yield "packed numbers", _long(field.number, b"\1", room)


def _fitting(field: Any, make: Callable[[int], str], room: int) -> bytes:
    rules = field.GetOptions().Extensions[validate.field].string
    most = min(size for size in (rules.max_len, rules.max_bytes, room - 8) if size)
    while len(text := make(most).encode()) > min(rules.max_bytes or room, room - 8):
        most = most * 2 // 3
    return delimited(field.number, text)


def _repeat(unit: bytes, room: int) -> bytes:
    return unit * (room // len(unit))


def _long(number: int, unit: bytes, room: int) -> bytes:
    return delimited(number, _repeat(unit, room - 8))


def fill_lists(message: Any) -> bool:
    """Make each list as long as the rules allow, of valid items that differ. Return whether there is a list."""
    filled = False
    for field in message.DESCRIPTOR.fields:
        if field.message_type and not field.is_repeated:
            inner = getattr(message, field.name)
            if field.message_type.full_name.startswith("aiworkspace.") and fill_lists(inner):
                inner.SetInParent()
                filled = True
        elif field.is_repeated:
            rules = field.GetOptions().Extensions[validate.field].repeated
            message.ClearField(field.name)
            getattr(message, field.name).extend(_items(field, rules))
            filled = True
    return filled


def _items(field: Any, rules: validate.RepeatedRules) -> list[Any]:
    if field.enum_type:
        return [value.number for value in field.enum_type.values if value.number]
    if field.type == Field.TYPE_INT32:
        return list(range(1, rules.max_items + 1))
    if field.name in _ITEMS:
        return [_ITEMS[field.name](n) for n in range(rules.max_items)]
    assert field.type == Field.TYPE_STRING, f"{field.full_name}: say in _ITEMS what its items are"
    return [str(uuid4()) if rules.items.string.uuid else f"openai/{n:04d}"[:64] for n in range(rules.max_items)]


_SETTABLE = "READ", "WRITE", "GENERATE", "HEAVY", "UPLOAD"
_CLASSES = [options.RateLimitClass.Value(f"RATE_LIMIT_CLASS_{name}") for name in _SETTABLE]
_ITEMS: dict[str, Callable[[int], Any]] = {
    "call_limits": lambda n: service_account_pb2.CallLimit(rate_limit_class=_CLASSES[n], calls_per_minute=n),
    "limits": lambda n: model_pb2.ModelLimit(model=f"openai/{n}", requests_per_minute=n),
    "requests": lambda n: usage_pb2.BilledRequest(
        run_id=str(uuid4()), attempt=1, tokens=common_pb2.TokenUsage(input_tokens=n)
    ),
    "permissions": lambda n: f"permission.{n}",
    "steps": lambda n: document_pb2.StepProgress(attempt_count=n),
    "unread_pages": lambda n: n,
}
