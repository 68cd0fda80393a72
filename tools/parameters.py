"""Turns the fields of a request into parameters of a Python method."""

from dataclasses import dataclass

from google.protobuf.descriptor_pb2 import FieldDescriptorProto

from buf.validate import validate_pb2
from tools.contract import Contract, Field, Method, Named

_FOR_BROWSERS = "use_cookies"  # not a parameter: the client keeps its tokens itself
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
    """A parameter of a Python method. `default` is empty if it is required."""

    name: str
    annotation: str
    default: str
    argument: str
    """The expression for the request's field."""
    doc: str

    @property
    def declaration(self) -> str:
        return f"{self.name}: {self.annotation}" + (f" = {self.default}" if self.default else "")


def python_type(named: Named) -> str:
    """Return the Python class of a message or enum."""
    return f"{named.file}_pb2.{named.name}"


def parameters(method: Method, types: Contract) -> list[Parameter]:
    """Return a parameter for each field of the request that is not for browsers, in the contract's order."""
    return [_parameter(field, types) for field in method.request.fields if field.name != _FOR_BROWSERS]


def positional(given: list[Parameter]) -> list[Parameter]:
    """Return the parameters without a keyword: a single id of the method's resource."""
    required = [parameter for parameter in given if not parameter.default]
    return required if len(required) == 1 and required[0].name.endswith("_id") else []


def _parameter(field: Field, types: Contract) -> Parameter:
    name, doc = field.name, " ".join(field.comment.split())
    if name == "request_id":
        return Parameter(name, "str | None", "None", "request_id or new_request_id()", f"{doc} A new one by default.")
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
    """Return the type of a value, and the default that corresponds to an unset field."""
    if field.is_message:
        return python_type(types.messages[field.type_name]), "None"
    if field.is_enum:
        enum = types.enums[field.type_name]
        return f"{python_type(enum)}.ValueType", f"{enum.file}_pb2.{enum.values[0].name}"
    return _SCALARS[field.proto.type]


def is_required(field: Field) -> bool:
    """Return whether the validation rules refuse the value of an unset field."""
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
