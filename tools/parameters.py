"""Turns the fields of a request into parameters of a Python method."""

from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from buf.validate import validate_pb2
from tools.contract import Contract, Field, Method, Named

_FOR_BROWSERS = "use_cookies"  # the client keeps its tokens itself
_TIMESTAMP = "google.protobuf.Timestamp"
_FIELD_MASK = "google.protobuf.FieldMask"
_SCALARS = {
    FieldDescriptorProto.TYPE_STRING: ("str", '""'),
    FieldDescriptorProto.TYPE_BYTES: ("bytes", 'b""'),
    FieldDescriptorProto.TYPE_BOOL: ("bool", "False"),
    FieldDescriptorProto.TYPE_INT32: ("int", "0"),
    FieldDescriptorProto.TYPE_INT64: ("int", "0"),
    FieldDescriptorProto.TYPE_DOUBLE: ("float", "0.0"),
}


@dataclass(frozen=True)
class Parameter:
    """A parameter of a Python method; default is empty when it has to be given."""

    name: str
    annotation: str
    default: str
    argument: str
    """What the field of the request is set to."""
    doc: str

    @property
    def declaration(self) -> str:
        return f"{self.name}: {self.annotation}" + (f" = {self.default}" if self.default else "")


def python_type(named: Named) -> str:
    """The class that protoc made of it."""
    return f"{named.file}_pb2.{named.name}"


def parameters(method: Method, types: Contract) -> list[Parameter]:
    """One parameter for every field of the request that is not for browsers, in the contract's order."""
    return [_parameter(field, types) for field in method.request.fields if field.name != _FOR_BROWSERS]


def positional(given: list[Parameter]) -> list[Parameter]:
    """Those that need no keyword: the one id that names what the method is about."""
    required = [parameter for parameter in given if not parameter.default]
    return required if len(required) == 1 and required[0].name.endswith("_id") else []


def _parameter(field: Field, types: Contract) -> Parameter:
    name, doc = field.name, " ".join(field.comment.split())
    if name == "request_id":
        return Parameter(name, "str | None", "None", "request_id or new_request_id()", f"{doc} New unless given.")
    if field.type_name == _TIMESTAMP:
        return Parameter(name, "datetime | None", "None", f"timestamp({name})", doc)
    if field.type_name == _FIELD_MASK:
        return Parameter(name, "Sequence[str]", "()", f"FieldMask(paths={name})", doc)
    annotation, default = _annotation(field, types)
    if field.repeated:
        annotation, default = f"Sequence[{annotation}]", "()"
    if is_required(field):
        return Parameter(name, annotation, "", name, doc)
    return Parameter(name, f"{annotation} | None" if default == "None" else annotation, default, name, doc)


def _annotation(field: Field, types: Contract) -> tuple[str, str]:
    """The type of one value, and the default that means what an unset field means."""
    if field.is_message:
        return python_type(types.messages[field.type_name]), "None"
    if field.is_enum:
        enum = types.enums[field.type_name]
        return f"{python_type(enum)}.ValueType", f"{enum.file}_pb2.{enum.values[0].name}"
    return _SCALARS[field.proto.type]


def is_required(field: Field) -> bool:
    """Whether the validation rules refuse the value that the field has when it is not set."""
    rules = field.rules
    if rules.ignore == validate_pb2.IGNORE_IF_ZERO_VALUE:
        return False
    text = rules.string
    return bool(
        rules.required
        or text.min_len
        or text.min_bytes
        or text.WhichOneof("well_known")
        or 0 in rules.enum.not_in
        or rules.int32.gte > 0
        or rules.int64.gte > 0
        or rules.repeated.min_items
    )
