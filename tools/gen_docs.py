"""Writes docs/reference.md from the comments of every service, message and enum."""

import re
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from google.protobuf.descriptor_pb2 import FieldDescriptorProto, MethodOptions

from aiworkspace.v1 import options_pb2
from tools import contract
from tools.contract import Contract, Enum, EnumValue, Field, Message, Method, Named, Service
from tools.rules import in_words

PAGE = contract.ROOT / "docs" / "reference.md"
_INTRODUCTION = """\
# Reference

Package `aiworkspace.v1`. This page is written by `make docs` from the comments in `protos/aiworkspace/v1`; do not edit
it. Which role may call which method is in [access.md](access.md).
"""
_IDEMPOTENCY = {
    MethodOptions.IDEMPOTENCY_UNKNOWN: "takes effect again",
    MethodOptions.NO_SIDE_EFFECTS: "changes nothing",
    MethodOptions.IDEMPOTENT: "takes effect once",
}
_API_KEYS = {
    options_pb2.ACCESS_MODE_PUBLIC: "not needed",
    options_pb2.ACCESS_MODE_AUTHENTICATED: "accepted",
    options_pb2.ACCESS_MODE_PERMISSION: "accepted if the permission is among their scopes",
    options_pb2.ACCESS_MODE_SESSION: "refused",
    options_pb2.ACCESS_MODE_OPERATOR: "refused",
}
_SCALARS = {
    FieldDescriptorProto.TYPE_STRING: "string",
    FieldDescriptorProto.TYPE_BYTES: "bytes",
    FieldDescriptorProto.TYPE_BOOL: "bool",
    FieldDescriptorProto.TYPE_INT32: "int32",
    FieldDescriptorProto.TYPE_INT64: "int64",
    FieldDescriptorProto.TYPE_DOUBLE: "double",
}


def main() -> None:
    types = contract.load()
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text("\n".join(page(types)).rstrip() + "\n", encoding="utf-8")


def page(types: Contract) -> Iterator[str]:
    """Yield the lines of the page: contents, services with their methods, messages, enums."""
    of_methods = {each.name for service in types.services for m in service.methods for each in (m.request, m.response)}
    messages = [each for each in types.messages.values() if _on_its_own(each) and each.name not in of_methods]
    enums = [each for each in types.enums.values() if _on_its_own(each)]
    yield _INTRODUCTION
    yield from _contents(types, messages, enums)
    for service in types.services:
        yield from _service(service, types)
    yield "## Messages\n"
    for message in messages:
        yield f"### {message.name}\n\n{_paragraphs(message.comment)}\n"
        yield from _fields(message, types)
    yield "## Enums\n"
    for enum in enums:
        yield from _enum(enum)


def _on_its_own(named: Named) -> bool:
    """Return whether a message or enum has a section. Of the options only those have one that people name."""
    return named.file != "options" or named.name in ("Permission", "RateLimitClass")


def _contents(types: Contract, messages: Iterable[Message], enums: Iterable[Enum]) -> Iterator[str]:
    for service in types.services:
        links = ", ".join(_link(method.name, f"{service.name}.{method.name}") for method in service.methods)
        yield f"- {_link(service.name)}: {links}"
    yield f"- [Messages](#messages): {', '.join(_link(message.name) for message in messages)}"
    yield f"- [Enums](#enums): {', '.join(_link(enum.name) for enum in enums)}\n"


def _link(name: str, heading: str = "") -> str:
    anchor = (heading or name).lower().replace(".", "")
    return f"[{name}](#{anchor})"


def _service(service: Service, types: Contract) -> Iterator[str]:
    yield f"## {service.name}\n\n{_paragraphs(service.comment)}\n"
    for method in service.methods:
        yield f"### {service.name}.{method.name}\n\n{_paragraphs(method.comment)}\n"
        yield f"{_facts(method)}\n"
        yield from _fields(method.request, types, "Stream of requests" if method.streams_request else "Request")
        yield from _fields(method.response, types, "Stream of responses" if method.streams_response else "Response")


def _paragraphs(comment: str) -> str:
    """Return the comment as Markdown, with errors in a separate paragraph."""
    return re.sub(r"\n+Errors:", "\n\nErrors:", comment).replace("<", "\\<")


def _facts(method: Method) -> str:
    """Return the list of a method's access, limits, idempotency and audit."""
    facts = [
        f"- Access: {_access(method.access)}",
        f"- API keys: {_API_KEYS[method.access.mode]}",
        f"- Rate limit: {_rate_limit(method)}",
        f"- Request size: at most {method.max_request_bytes:,} bytes{', each' if method.streams_request else ''}",
        f"- Repeating it: {_idempotency(method)}",
        f"- Audit log: {'every call is recorded' if method.audited else 'calls are not recorded'}",
    ]
    return "\n".join(facts)


def _access(access: options_pb2.Access) -> str:
    match access.mode:
        case options_pb2.ACCESS_MODE_PUBLIC:
            return "anybody, without credentials"
        case options_pb2.ACCESS_MODE_AUTHENTICATED:
            return "anybody with credentials"
        case options_pb2.ACCESS_MODE_SESSION:
            return "anybody who is signed in"
        case options_pb2.ACCESS_MODE_OPERATOR:
            return "operators of the server"
    own = f", not needed if `{access.self_field}` is the caller" if access.self_field else ""
    suspended = ", also while the organization is suspended" if access.while_suspended else ""
    place = "organization" if access.scope.endswith("org_id") else "workspace"
    return f"permission `{access.permission}` in the {place} of `{access.scope}`{own}{suspended}"


def _rate_limit(method: Method) -> str:
    value = options_pb2.RateLimitClass.DESCRIPTOR.values_by_number[method.rate_limit]
    said = value.GetOptions().Extensions
    calls, streams = said[options_pb2.calls_per_minute], said[options_pb2.streams_at_once]
    at_once = f"{streams:,} streams" if method.streams_response else f"{said[options_pb2.calls_at_once]:,} calls"
    name = value.name.removeprefix("RATE_LIMIT_CLASS_").lower()
    return f"{calls:,} calls per minute and {at_once} concurrently, shared by all methods of class {name}"


def _idempotency(method: Method) -> str:
    if method.request.field("request_id"):
        return "takes effect once with the same `request_id`"
    return _IDEMPOTENCY[method.proto.options.idempotency_level]


def _fields(message: Message, types: Contract, title: str = "") -> Iterator[str]:
    if not message.fields:
        yield f"{title}: no fields.\n" if title else "No fields.\n"
        return
    if title:
        yield f"{title}:\n"
    yield "| field | type | meaning | rules |\n| --- | --- | --- | --- |"
    for field in message.fields:
        yield f"| `{field.name}` | {_type(field, types)} | {_cell(field.comment)} | {_cell(_rules(field))} |"
    yield ""


def _type(field: Field, types: Contract) -> str:
    if field.type_name in types.named:
        name = _link(types.named[field.type_name].name)
    elif field.type_name:
        name = f"`{field.type_name.removeprefix('google.protobuf.')}`"
    else:
        name = _SCALARS[field.proto.type]
    choice = " (one of)" if field.proto.HasField("oneof_index") else ""
    return f"{'repeated ' if field.repeated else ''}{name}{choice}"


def _rules(field: Field) -> str:
    return "; ".join([*in_words(field), *(["never logged"] if field.sensitive else [])])


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|").replace("<", "\\<")


def _enum(enum: Enum) -> Iterator[str]:
    yield f"### {enum.name}\n\n{_paragraphs(enum.comment)}\n"
    yield "| number | value | meaning |\n| --- | --- | --- |"
    for value in enum.values:
        yield f"| {value.number} | `{value.name}` | {_cell(value.comment)}{_said(value)} |"
    yield ""


def _said(value: EnumValue) -> str:
    """Return the options of a permission or a role."""
    if value.permission_name:
        return f" Its name is `{value.permission_name}`."
    return f" Includes {', '.join(f'`{name}`' for name in value.grants)}." if value.grants else ""


if __name__ == "__main__":
    main()
