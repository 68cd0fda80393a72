"""Random messages of the contract, for hypothesis: what fits the types, often enough what keeps the rules too."""

from collections.abc import Mapping
from typing import Any

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass
from hypothesis import strategies as st

from tests import corpora
from tests.support.surface import SAMPLES

_HOSTILE = [
    text
    for name, key in (("ids", "ids"), ("texts", "texts"), ("page_tokens", "page_tokens"), ("emails", "emails"))
    for text in corpora.read(name, key).values()
]
_TEXTS = st.one_of(st.text(max_size=200), st.sampled_from(_HOSTILE), st.sampled_from(["", "\0", "x" * 5000]))
_NUMBERS = {
    FieldDescriptor.TYPE_INT32: (-(1 << 31), (1 << 31) - 1),
    FieldDescriptor.TYPE_INT64: (-(1 << 63), (1 << 63) - 1),
}


def messages(descriptor: Any, ids: Mapping[str, str]) -> st.SearchStrategy[Message]:
    """Messages of this type. Fields that name something get now and then the id of something that is there."""
    fields = {field.name: _values(field, ids) for field in descriptor.fields}
    return st.fixed_dictionaries({}, optional=fields).map(lambda values: _build(descriptor, values))


def _build(descriptor: Any, values: dict[str, Any]) -> Message:
    message = GetMessageClass(descriptor)()
    for name, value in values.items():
        field = descriptor.fields_by_name[name]
        if field.is_repeated:
            getattr(message, name).extend(value)
        elif field.message_type:
            getattr(message, name).CopyFrom(value)
        else:
            setattr(message, name, value)
    return message


def _values(field: Any, ids: Mapping[str, str]) -> st.SearchStrategy[Any]:
    one = _value(field, ids)
    return st.lists(one, max_size=3) if field.is_repeated else one


def _value(field: Any, ids: Mapping[str, str]) -> st.SearchStrategy[Any]:
    if field.message_type:
        return messages(field.message_type, ids)
    if field.enum_type:
        return st.one_of(st.sampled_from([value.number for value in field.enum_type.values]), st.integers(-9, 99))
    if field.type == FieldDescriptor.TYPE_BOOL:
        return st.booleans()
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return st.one_of(st.floats(0, 2), st.floats())
    if field.type in _NUMBERS:
        return st.one_of(st.integers(0, 50), st.integers(*_NUMBERS[field.type]))
    if field.type == FieldDescriptor.TYPE_BYTES:
        return st.binary(max_size=300)
    return _strings(field.name, ids)


def _strings(name: str, ids: Mapping[str, str]) -> st.SearchStrategy[str]:
    known = [ids[name]] if name in ids else []
    if isinstance(sample := SAMPLES.get(name), str):
        known.append(sample)
    likely = [st.sampled_from(known)] * 3 if known else []
    if name.endswith("_id"):
        likely.append(st.uuids().map(str))
    return st.one_of(*likely, _TEXTS)
