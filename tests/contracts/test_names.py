"""Names that others see: one rule of the contract for all of them, found by reflection."""
# ruff: noqa: RUF001 - letters that look like others are what this is about

from collections.abc import Iterator
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass
from protovalidate import Validator

from aiworkspace.v1 import options_pb2 as options
from aiworkspace.v1 import rules_pb2
from aiworkspace_server.rpc import SERVICES
from buf.validate import validate_pb2 as validate
from tests.support.custom_roles import create
from tests.support.outcomes import named
from tests.support.people import Person, make_org

_VALIDATOR = Validator()
# Names of fields that hold what somebody calls something.
_CALLED = ("name", "title")
# Names that the server, or the operator, gives and that are compared with those that there are.
_GIVEN = {"model", "provider"}
REFUSED = {
    "control character": "a\x07b",
    "line feed": "a\nb",
    "next line": "a\x85b",
    "line separator": "a\u2028b",
    "paragraph separator": "a\u2029b",
    **{f"direction mark {ord(mark):04x}": f"a{mark}b" for mark in "\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e"},
    **{f"isolate {ord(mark):04x}": f"a{mark}b" for mark in "\u2066\u2067\u2068\u2069"},
    **{f"nothing to see {ord(mark):04x}": f"a{mark}b" for mark in "\u00ad\u034f\u180e\u200b\u2060\u2064\ufeff\u3164"},
    **{f"variation {ord(mark):04x}": f"admin{mark}" for mark in "᠋᠏︀︎️󠄀󠇯"},
    **{f"only a variation {ord(mark):04x}": mark for mark in "᠋️󠄀"},
    "a digit as an emoji": "1️",
    "only marks": "́⃝",
    "only spaces": "  ",
    "a joiner in Latin": "Ac\u200dme",
    "a non-joiner in Latin": "Ac\u200cme",
    "two joiners": "\u0645\u200c\u200c\u0645",
    "tags": "a\U000e0041b",
}
ALLOWED = (
    "Acme",
    "Zoë O’Neill",
    "日本語 の名前",
    "می\u200cخواهم",
    "क्\u200dष",
    "👨\u200d👩\u200d👧",
    "❤️\u200d🔥",
    "👩🏽\u200d🚀",
    "שלום עולם",
    "I ❤️ models",
    "1️⃣",
    "‼️",
    "???",
)


def names() -> Iterator[tuple[str, type[Any], FieldDescriptor]]:
    """Every message of a request with its fields for names."""
    seen = set()

    def within(message: Any) -> Iterator[tuple[str, type[Any], FieldDescriptor]]:
        if message.full_name in seen or not message.full_name.startswith("aiworkspace."):
            return
        seen.add(message.full_name)
        for field in message.fields:
            if field.message_type:
                yield from within(field.message_type)
            elif _is_name(field):
                yield f"{message.name}.{field.name}", GetMessageClass(message), field

    for service in SERVICES:
        for method in service.methods:
            yield from within(method.input_type)


def _is_name(field: FieldDescriptor) -> bool:
    if field.type != FieldDescriptor.TYPE_STRING or field.name in _GIVEN:
        return False
    typed = field.GetOptions().Extensions[options.typed] == options.TYPED_TEXT_NAME
    return typed or field.name in _CALLED or field.name.endswith(("_name", "_title"))


NAMES = list(names())


def _is_output(message: type[Any], field: FieldDescriptor) -> bool:
    """Output-only fields have no rules at all."""
    return not field.GetOptions().HasExtension(validate.field)


WRITTEN = [(name, message, field) for name, message, field in NAMES if not _is_output(message, field)]


def test_names_are_found() -> None:
    found = {name for name, _, _ in WRITTEN}
    assert {"CreateOrgRequest.name", "Team.name", "CustomRole.name", "RegisterRequest.display_name"} <= found
    assert {"CreateConversationRequest.title", "LoginRequest.device_name", "CreateApiKeyRequest.name"} <= found


@pytest.mark.parametrize(("name", "message", "field"), WRITTEN, ids=[name for name, _, _ in WRITTEN])
def test_a_name_has_the_rule_of_names(name: str, message: type[Any], field: FieldDescriptor) -> None:
    declared = field.GetOptions().Extensions
    assert declared[validate.field].string.Extensions[rules_pb2.visible], name
    assert declared[options.typed] == options.TYPED_TEXT_NAME, name
    for text in REFUSED.values():
        assert _broken(message, field, text) == ["string.visible"], (name, text)
    for text in ALLOWED:
        assert _broken(message, field, text) == [], (name, text)


def _broken(message: type[Any], field: FieldDescriptor, text: str) -> list[str]:
    found = _VALIDATOR.collect_violations(message(**{field.name: text}))
    paths = [(each.proto.rule_id, each.proto.field) for each in found]
    return [rule for rule, path in paths if path and path.elements[-1].field_name == field.name]


@pytest.mark.parametrize("text", REFUSED.values(), ids=REFUSED)
async def test_a_server_refuses_what_cannot_be_seen_in_a_name(text: str, owner: Person) -> None:
    assert await named(make_org(owner, text)) == ("name",)
    assert await named(create(owner, await make_org(owner), "org.read", name=text)) == ("name",)
