"""The names of event types, which the contract declares."""

from aiworkspace.v1 import event_pb2 as pb
from aiworkspace.v1 import options_pb2 as options

_NAMES = {
    value.number: value.GetOptions().Extensions[options.event_name]
    for value in pb.EventType.DESCRIPTOR.values
    if value.number
}
_TYPES = {name: number for number, name in _NAMES.items()}


def name_of(type: pb.EventType.ValueType) -> str:
    """Return the name, such as "document.ready"."""
    return _NAMES[type]


def type_of(name: str) -> pb.EventType.ValueType:
    """Return the type with this name; EVENT_TYPE_UNSPECIFIED for one that only a newer server knows."""
    return pb.EventType.ValueType(_TYPES.get(name, pb.EVENT_TYPE_UNSPECIFIED))
