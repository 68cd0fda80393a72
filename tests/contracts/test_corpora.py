"""The hostile corpora against the whole surface: every id field, every list, every text."""

import base64
import re
import uuid
from collections.abc import Iterator
from typing import Any

import grpc
import orjson
import pytest
from google.protobuf.json_format import MessageToDict
from google.protobuf.message_factory import GetMessageClass

from aiworkspace.v1 import auth_pb2, org_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.kit import typed
from tests import corpora
from tests.contracts.conftest import Estate
from tests.contracts.updates import UPDATES, changeable
from tests.support.outcomes import named
from tests.support.people import PASSWORD, Person
from tests.support.surface import ENDPOINTS, Endpoint, Outcome, id_fields, is_output_only, name_of, put, text_fields

OK, INVALID, NOT_FOUND = grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.NOT_FOUND
IDS = corpora.read("ids", "ids")
TOKENS = corpora.read("page_tokens", "page_tokens")
TEXTS = corpora.read("texts", "texts")
EMAILS = corpora.read("emails", "emails")

_FIELDS = [(endpoint, path) for endpoint in ENDPOINTS for path in id_fields(endpoint.descriptor.input_type)]


# Ids


@pytest.mark.parametrize(
    ("endpoint", "path"), _FIELDS, ids=lambda value: value if isinstance(value, str) else name_of(value)
)
async def test_an_odd_id_is_named_or_not_known(endpoint: Endpoint, path: str, estate: Estate) -> None:
    before = await estate.snapshots.take_at_rest()
    own = {name: value for name, value in estate.ours.ids.items() if name != "custom_role_id" or name in path}
    for name, template in IDS.items():
        value = _spell(template)
        if value or path == endpoint.access.scope:  # what is optional may be empty
            request = endpoint.request(own)
            put(request, path, value)
            outcome = await endpoint.call(estate.caller(endpoint), request)
            assert _names(outcome, path) or _is_of_no_account(endpoint, path, value, outcome), (name, outcome)
    if not is_output_only(endpoint, path):
        assert await estate.snapshots.take_at_rest() == before


def _spell(template: str) -> str:
    nobody = uuid.uuid4()
    text = str(nobody)
    spelled = {"uuid": text, "UUID": text.upper(), "hex": nobody.hex, "short": text[:-1], "g": f"{text[:-1]}g"}
    spelled["misplaced"] = "-".join((text[:7], text[7], text[9:]))
    spelled["hyphens"] = "-".join(nobody.hex)
    digits = "".join(map(chr, range(0xFF10, 0xFF1A)))
    spelled["fullwidth"] = text.translate(str.maketrans("0123456789", digits))
    spelled["arabic"] = text.translate(str.maketrans("0123456789", "".join(map(chr, range(0x660, 0x66A)))))
    spelled["dashes"] = text.replace("-", "\u2013")
    spelled["base64"] = base64.urlsafe_b64encode(nobody.bytes).decode()
    return corpora.fill(template, spelled | {"10KB": "a" * 10_240, "10KB-": "-" * 10_240})


def _names(outcome: Outcome, path: str) -> bool:
    """Whether the field is refused by its name, perhaps with its place in a list, or because it is not known."""
    return outcome.code in (INVALID, NOT_FOUND) and path in re.sub(r"\[\d+\]", "", outcome.message)


def _is_of_no_account(endpoint: Endpoint, path: str, value: str, outcome: Outcome) -> bool:
    """Whether the value may pass: where it is ignored, and where it is a filter and a well-formed id of nobody's."""
    return outcome.code == OK and (is_output_only(endpoint, path) or _is_canonical(value))


def _is_canonical(value: str) -> bool:
    try:
        return str(uuid.UUID(value)) == value.lower()
    except ValueError:
        return False


# Page tokens

LISTS = [e for e in ENDPOINTS if "page_token" in e.descriptor.input_type.fields_by_name]


@pytest.mark.parametrize("endpoint", LISTS, ids=name_of)
async def test_a_page_token_that_no_list_gave_out_is_named(endpoint: Endpoint, estate: Estate) -> None:
    request = endpoint.request(estate.ours.ids, optional=False)
    for name, template in TOKENS.items():
        request.page_token = _change(template, await _token(estate.ours.owner))
        outcome = await endpoint.call(estate.caller(endpoint), request)
        assert (outcome.code, outcome.message[:11]) == (INVALID, "page_token:"), name


async def _token(person: Person) -> str:
    """One that a list gave out. Changed, it is none of that list either."""
    if not (token := (await person.chat.ListModels(_first_page())).next_page_token):
        pytest.fail("the list has one page alone")
    return str(token)


def _first_page() -> Any:
    endpoint = next(e for e in LISTS if name_of(e) == "ChatService.ListModels")
    return GetMessageClass(endpoint.descriptor.input_type)(page_size=1)


def _change(template: str, token: str) -> str:
    swapped = {True: "B", False: "A"}
    changed = {
        "token": token,
        "token:-1": token[:-1],
        "token:half": token[: len(token) // 2],
        "token:first": swapped[token[0] == "A"] + token[1:],
        "token:last": token[:-2] + swapped[token[-2] == "A"] + token[-1],
        "token:swapped": token.swapcase(),
        "token:ignored": f"{token[:8]}!{token[8:]}",
    }
    return corpora.fill(template, changed | {"1024": "A" * 1024, "1025": "A" * 1025})


# Texts

# How fields end whose text has a form or a meaning of its own.
_NO_FREE_TEXT = ("sha256", "email", "token", "etag", "model", "password", "permissions", "currency_code", "url")


def _writes(endpoint: Endpoint) -> bool:
    if endpoint.descriptor.name == "CreateWebhookEndpoint":
        return False  # an organization has at most twenty; its description is that of the update
    return str(endpoint.descriptor.name).startswith(("Create", "Update", "Register", "Login", "SendMessage"))


_NOT_IN_NAMES = {"\n", "\u202e", "\ufeff", "\uffff", "\U0010ffff"}  # of what is in the corpus

_TEXTS = [
    (endpoint, path)
    for endpoint in ENDPOINTS
    if _writes(endpoint)
    for path, field in text_fields(endpoint.descriptor.input_type)
    if field.type == field.TYPE_STRING and not field.name.endswith(("_id", "_ids", *_NO_FREE_TEXT))
    if endpoint not in UPDATES or path.rpartition(".")[2] in changeable(endpoint)
]


@pytest.mark.parametrize(
    ("endpoint", "path"), _TEXTS, ids=lambda value: value if isinstance(value, str) else name_of(value)
)
async def test_a_text_stays_what_it_is(endpoint: Endpoint, path: str, estate: Estate) -> None:
    """Every one is sent; what was sent is looked for where it is stored: names in their normal form."""
    sent = []
    is_name = field_at(endpoint, path).GetOptions().Extensions[options.typed] == options.TYPED_TEXT_NAME
    for value in TEXTS.values():
        expected = typed.name(value) if is_name else value
        request = endpoint.request(estate.ours.ids, optional=False)
        _sign_up_anew(request, estate.ours.owner)
        put(request, path, value)
        outcome = await endpoint.call(estate.caller(endpoint), request)
        if outcome.code == INVALID:
            assert _names(outcome, path), (value, outcome)
            refused = _NOT_IN_NAMES if is_name else {"\n"}
            assert refused & set(value) or not expected, "a text was refused"
        else:
            assert outcome.code == OK, (value, outcome)
            sent.append(expected)
            if expected or endpoint not in UPDATES:  # else nothing was changed, as without an update_mask
                _is_given_back(endpoint, path, expected, outcome)
    if endpoint.descriptor.name.startswith("Create"):
        stored = await _stored_texts(estate)
        assert [value for value in sent if value and value not in stored] == []


def field_at(endpoint: Endpoint, path: str) -> Any:
    """The field of the request at the dotted path."""
    message, field = endpoint.descriptor.input_type, None
    for name in path.split("."):
        field = message.fields_by_name[name]
        message = field.message_type
    return field


def _sign_up_anew(request: Any, person: Person) -> None:
    """Registrations are of new addresses, and sign-ins of somebody who is there."""
    if isinstance(request, auth_pb2.RegisterRequest):
        request.email = f"{uuid.uuid4().hex[:12]}@example.com"
    if isinstance(request, auth_pb2.LoginRequest):
        request.email, request.password = person.email, PASSWORD
    if isinstance(request, org_pb2.CreateInvitationRequest):
        request.email = f"{uuid.uuid4().hex[:12]}@example.com"


def _is_given_back(endpoint: Endpoint, path: str, value: str, outcome: Outcome) -> None:
    if endpoint.descriptor.server_streaming:
        return  # an answer that others give
    answer = MessageToDict(GetMessageClass(endpoint.descriptor.output_type).FromString(outcome.answer))
    resource: Any = next(iter(answer.values()), {})
    name = path.rpartition(".")[2]
    key = name.split("_")[0] + name.title().replace("_", "")[len(name.split("_")[0]) :]
    if isinstance(resource, dict) and key in resource:
        assert resource[key] == value


async def _stored_texts(estate: Estate) -> set[str]:
    return {text for _, row in await estate.snapshots.take_at_rest() for text in _texts_in(orjson.loads(row))}


def _texts_in(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list | dict):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts_in(part)


# Addresses


@pytest.mark.parametrize("email", EMAILS.values(), ids=EMAILS)
async def test_what_is_no_address_gets_no_account_and_no_invitation(email: str, estate: Estate) -> None:
    address = corpora.fill(email, {"65": "a" * 65, "255": "a" * 255, "4000": "a" * 4000})
    person = estate.ours.owner
    register = auth_pb2.RegisterRequest(email=address, password=PASSWORD, display_name="Ann")
    assert await named(person.auth.Register(register)) == ("email",)
    invite = org_pb2.CreateInvitationRequest(org_id=estate.ours.ids["org_id"], email=address, role=org_pb2.ROLE_VIEWER)
    assert await named(person.orgs.CreateInvitation(invite)) == ("email",)
