"""Upper bounds of requests by the rules of the contract: items of lists, total fields, and bytes."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message

from buf.validate import validate_pb2 as rules

_UUID_BYTES = 36
_NUMBER_BYTES = 10  # of the longest varint
_FRAME_BYTES = 6  # of a field's number and the length of its value, for requests of up to 2 MiB
_MASK = "google.protobuf.FieldMask"  # not ours, so it cannot declare rules
_MASK_PATHS, _MASK_PATH_BYTES = 100, 100
_UNKNOWN_FIELDS = 1000  # a client of a later contract may send fields that this one does not have


class UnboundedList(Exception):
    """A list of the contract without a declared maximum."""


@dataclass(frozen=True, slots=True)
class ListRule:
    """A repeated field with its maximum number of items."""

    name: str
    most: int
    items: "Shape | None"  # of messages that contain lists


@dataclass(frozen=True, slots=True)
class Shape:
    """The bounds of a message."""

    lists: tuple[ListRule, ...]
    inner: tuple[tuple[str, "Shape"], ...]  # singular messages that contain lists
    most_fields: int  # of a valid message, including inner messages
    most_bytes: int  # encoded, as far as the rules bound the length of strings

    @property
    def accepted_fields(self) -> int:
        """The most fields that are decoded."""
        return self.most_fields + _UNKNOWN_FIELDS

    def excess(self, message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Yield the path and problem of each list that is too long, without looking into such a list."""
        for rule in self.lists:
            items = getattr(message, rule.name)
            if len(items) > rule.most:
                yield f"{prefix}{rule.name}", f"must contain no more than {rule.most} item(s)"
            elif rule.items:
                for index, item in enumerate(items):
                    yield from rule.items.excess(item, f"{prefix}{rule.name}[{index}].")
        for name, shape in self.inner:
            if message.HasField(name):
                yield from shape.excess(getattr(message, name), f"{prefix}{name}.")


@cache
def shape_of(message: Any) -> Shape:
    """Return the shape of a message, by its descriptor. Raises UnboundedList."""
    lists, inner, fields, size = [], [], 0, 0
    for field in message.fields:
        shape = shape_of(field.message_type) if field.message_type else None
        times = _most_items(field) if field.is_repeated else 1
        has_lists = shape is not None and bool(shape.lists or shape.inner)
        if field.is_repeated:
            lists.append(ListRule(field.name, times, shape if has_lists else None))
        elif shape and has_lists:
            inner.append((field.name, shape))
        fields += times * (1 + (shape.most_fields if shape else 0))
        size += times * (_FRAME_BYTES + (shape.most_bytes if shape else _value_bytes(field)))
    return Shape(tuple(lists), tuple(inner), fields, size)


def _most_items(field: FieldDescriptor) -> int:
    if _is_of_mask(field):
        return _MASK_PATHS
    most: int = _rules(field).repeated.max_items
    if not most:
        raise UnboundedList(f"{field.full_name} declares no repeated.max_items.")
    return most


def _value_bytes(field: FieldDescriptor) -> int:
    """Return the most bytes of one value; 0 if the rules do not bound it."""
    if field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
        return _NUMBER_BYTES
    if _is_of_mask(field):
        return _MASK_PATH_BYTES
    declared = _rules(field)
    one = declared.repeated.items if field.is_repeated else declared
    if field.type == FieldDescriptor.TYPE_BYTES:
        return int(one.bytes.max_len)
    text = one.string
    return int(text.max_bytes or 4 * text.max_len or (_UUID_BYTES if text.uuid else 0))


def _is_of_mask(field: FieldDescriptor) -> bool:
    return field.containing_type is not None and field.containing_type.full_name == _MASK


def _rules(field: FieldDescriptor) -> rules.FieldRules:
    declared: rules.FieldRules = field.GetOptions().Extensions[rules.field]
    return declared
