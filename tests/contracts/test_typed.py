"""What people type means the same however it is written, at every door: found by the contract, never listed by hand."""

import re
from typing import Any, cast

import pytest
from google.protobuf.message_factory import GetMessageClass
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit import typed
from aiworkspace_server.kit.context import Call
from aiworkspace_server.kit.contract import read_methods
from aiworkspace_server.rpc import SERVICES
from tests import corpora
from tests.support.surface import ENDPOINTS, SCOPES, Endpoint, name_of, put, text_fields

SPELLINGS = corpora.read("emails", "spellings")

# What a field of a request holds, by its name.
KINDS = {
    r"(\w+_)?email": options.TYPED_TEXT_EMAIL,
    r"(\w+_)?password": options.TYPED_TEXT_PASSWORD,
    r"(?!page_)(\w+_)?token|secret|api_key": options.TYPED_TEXT_TOKEN,
    r"(display_|device_)?name|title|reason": options.TYPED_TEXT_NAME,
}
# Written by the server alone: what a request has there is ignored.
OUTPUT_ONLY = {"user.email", "member.email", "member.display_name", "budget.name"}


FIELDS = [
    (endpoint, path, field)
    for endpoint in ENDPOINTS
    for path, field in text_fields(endpoint.descriptor.input_type)
    if path not in OUTPUT_ONLY and field.type == field.TYPE_STRING and not field.is_repeated
]


def kind_of(field: Any) -> int:
    return int(field.GetOptions().Extensions[options.typed])


@pytest.mark.parametrize(
    ("path", "field"), [(path, field) for _, path, field in FIELDS], ids=[f"{name_of(e)}-{p}" for e, p, _ in FIELDS]
)
def test_the_contract_says_what_people_type(path: str, field: Any) -> None:
    expected = next((kind for pattern, kind in KINDS.items() if re.fullmatch(pattern, field.name)), 0)
    assert kind_of(field) == expected


TYPED = [(endpoint, path, kind_of(field)) for endpoint, path, field in FIELDS if kind_of(field)]
METHODS = read_methods(SERVICES, SCOPES)

# As somebody types it, and as the handler of the method gets it. Passwords come as they were typed: see auth.passwords.
FORMS: dict[int, dict[str, str]] = {
    options.TYPED_TEXT_EMAIL: SPELLINGS,
    options.TYPED_TEXT_NAME: {" Ada\u3000": "Ada", "Rene\u0301\n": "Ren\u00e9", "Ada  Lovelace": "Ada  Lovelace"},
    options.TYPED_TEXT_TOKEN: {" abc-_9 ": "abc-_9", "abc\r\n-_9\n": "abc-_9", "\ufeffab\u200bc\u00a0-_9": "abc-_9"},
    options.TYPED_TEXT_PASSWORD: {" pass\u0301\u00a0": " pass\u0301\u00a0"},
}


async def normalised(endpoint: Endpoint, request: Any) -> Any:
    """The request as the handler of the method gets it."""

    async def handler(call: Call, request: Any) -> Any:
        return request

    method = METHODS[endpoint.path]
    return await typed.normalise(method, handler)(Call(method, cast(Any, None), {}), request)


@pytest.mark.parametrize(("endpoint", "path", "kind"), TYPED, ids=[f"{name_of(e)}-{p}" for e, p, _ in TYPED])
async def test_every_door_normalises(endpoint: Endpoint, path: str, kind: int) -> None:
    for written, expected in FORMS[kind].items():
        request, wanted = (GetMessageClass(endpoint.descriptor.input_type)() for _ in range(2))
        put(request, path, written)
        put(wanted, path, expected)
        assert await normalised(endpoint, request) == wanted


@pytest.mark.parametrize("form", [typed.email, typed.name, typed.token, typed.password])
@given(text=st.text())
def test_a_normal_form_has_itself_as_its_normal_form(form: Any, text: str) -> None:
    assert form(form(text)) == form(text)


@given(text=st.text(), length=st.integers(1, 60))
def test_a_title_that_the_server_makes_keeps_the_rules_of_the_contract(text: str, length: int) -> None:
    title = typed.title(text, length)
    assert len(title) <= length
    assert re.fullmatch("[^\x00-\x1f\x7f-\x9f]*", title)
    assert not set(title) & set("\u061c\u200e\u200f\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u2028\u2029")
    assert typed.name(title) == title
    assert bool(title) <= bool(text.strip())


async def test_what_is_far_too_long_costs_nothing() -> None:
    """It breaks a rule in any form; a domain of a megabyte would hold the server."""
    endpoint = next(e for e in ENDPOINTS if name_of(e) == "AuthService.Login")
    request: Any = GetMessageClass(endpoint.descriptor.input_type)(email="a@" + "\u00fc" * 5000)
    assert len((await normalised(endpoint, request)).email) == 5002
