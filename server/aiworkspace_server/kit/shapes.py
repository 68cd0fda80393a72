"""How large a request may be by the rules of the contract: items of its lists, fields in all, and bytes."""

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
_MASK = "google.protobuf.FieldMask"  # not ours, so that it cannot declare its rules
_MASK_PATHS, _MASK_PATH_BYTES = 100, 100
_UNKNOWN_FIELDS = 1000  # a client of a later contract may send fields that this one does not have


class UnboundedList(Exception):
    """A list of the contract for which no most items are declared."""


@dataclass(frozen=True, slots=True)
class ListRule:
    """A repeated field with its most items."""

    name: str
    most: int
    items: "Shape | None"  # of messages in which there are lists


@dataclass(frozen=True, slots=True)
class Shape:
    """What the rules say of a message as a whole."""

    lists: tuple[ListRule, ...]
    inner: tuple[tuple[str, "Shape"], ...]  # single messages in which there are lists
    most_fields: int  # in a message that keeps the rules, those of inner messages included
    most_bytes: int  # when encoded, as far as the rules bound the length of strings

    @property
    def accepted_fields(self) -> int:
        """More than these are not decoded."""
        return self.most_fields + _UNKNOWN_FIELDS

    def excess(self, message: Message, prefix: str = "") -> Iterator[tuple[str, str]]:
        """Path of each list that is too long, and what is wrong with it. Does not look into such a list."""
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
    """The shape of a message, by its descriptor. Raises UnboundedList."""
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
    """The most bytes of one value; 0 when its rules do not say."""
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
