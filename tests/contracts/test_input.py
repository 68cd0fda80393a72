"""Bad input: a clear refusal that names the field, and nothing stored."""

from typing import Any

import grpc
import pytest
from google.protobuf.field_mask_pb2 import FieldMask
from google.rpc import error_details_pb2, status_pb2

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, usage_pb2, workspace_pb2
from aiworkspace.v1 import options_pb2 as options
from aiworkspace_server.app import App
from tests.support.belongings import keep_documents
from tests.support.people import Person, Place
from tests.support.runs import events_of, say
from tests.support.surface import ENDPOINTS, Endpoint, name_of, random_id

MIB = 1 << 20


async def refused(call: Any) -> tuple[str, list[str]]:
    """Reason of an INVALID_ARGUMENT, and the fields that it names."""
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT, caught.value.details()
    trailing = dict(caught.value.trailing_metadata())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    info, bad = error_details_pb2.ErrorInfo(), error_details_pb2.BadRequest()
    assert status.details[0].Unpack(info)
    assert status.details[1].Unpack(bad)
    return info.reason, [violation.field for violation in bad.field_violations]


BAD_MESSAGES = {
    "empty": ({"content": ""}, "content"),
    "over 1 MiB": ({"content": "x" * (MIB + 1)}, "content"),
    "over 1 MiB in bytes": ({"content": "é" * (MIB // 2 + 1)}, "content"),
    "unknown provider": ({"content": "hello", "model": "nobody/none"}, "model"),
    "unknown model": ({"content": "hello", "model": "openai/none"}, "model"),
    "no provider": ({"content": "hello", "model": "gpt"}, "model"),
    "bad conversation": ({"content": "hello", "conversation_id": "1"}, "conversation_id"),
    "bad request id": ({"content": "hello", "request_id": "1"}, "request_id"),
}


@pytest.mark.parametrize(("fields", "field"), BAD_MESSAGES.values(), ids=BAD_MESSAGES)
async def test_bad_messages_are_refused_and_not_stored(
    fields: dict[str, Any], field: str, place: Place, app: App
) -> None:
    request = chat_pb2.SendMessageRequest(**{"conversation_id": place.conversation_id} | fields)
    before = await _stored(place, app)
    assert await refused(events_of(place.owner.chat.SendMessage(request))) == ("FIELD_INVALID", [field])
    assert await _stored(place, app) == before


async def _stored(place: Place, app: App) -> tuple[int, str, int]:
    messages = chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id)
    conversation = chat_pb2.GetConversationRequest(conversation_id=place.conversation_id)
    return (
        len((await place.owner.chat.ListMessages(messages)).messages),
        str((await place.owner.chat.GetConversation(conversation)).conversation),
        await app.mongo.database["runs"].count_documents({}),
    )


async def test_a_message_of_exactly_one_mebibyte_is_taken_and_given_back(place: Place) -> None:
    content = "word " * (MIB // 5) + "!"
    assert len(content) == MIB
    events = await say(place.owner, place.conversation_id, content)
    assert events[-1].HasField("run_completed")
    listed = await place.owner.chat.ListMessages(chat_pb2.ListMessagesRequest(conversation_id=place.conversation_id))
    assert listed.messages[0].contents[0].text == content


async def test_a_request_over_four_mebibytes_does_not_reach_the_server(place: Place) -> None:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await say(place.owner, place.conversation_id, "x" * 4 * MIB)
    assert caught.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED


NOT_UTF8 = b"\xff\xfe"


async def test_text_that_is_not_utf8_is_named(place: Place) -> None:
    endpoint = next(e for e in ENDPOINTS if name_of(e) == "ChatService.SendMessage")
    data = b"\x0a\x24" + place.conversation_id.encode() + b"\x12\x02" + NOT_UTF8
    outcome = await endpoint.call(place.owner, data)
    assert outcome.code == grpc.StatusCode.INVALID_ARGUMENT
    assert outcome.message == "content: must be valid UTF-8."


async def test_text_that_is_not_utf8_is_named_in_a_nested_message(place: Place) -> None:
    endpoint = next(e for e in ENDPOINTS if name_of(e) == "WorkspaceService.UpdateWorkspace")
    inner = b"\x0a\x24" + place.workspace_id.encode() + b"\x1a\x02" + NOT_UTF8
    outcome = await endpoint.call(place.owner, b"\x0a" + bytes([len(inner)]) + inner)
    assert (outcome.code, outcome.message) == (
        grpc.StatusCode.INVALID_ARGUMENT,
        "workspace.name: must be valid UTF-8.",
    )


@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=name_of)
@pytest.mark.parametrize("data", [b"\x0a", b"\xff" * 40], ids=["cut", "noise"])
async def test_undecodable_requests_are_invalid_arguments(endpoint: Endpoint, data: bytes, owner: Person) -> None:
    outcome = await endpoint.call(owner, data)
    assert outcome.code == grpc.StatusCode.INVALID_ARGUMENT
    assert outcome.message.startswith("request: cannot be decoded as aiworkspace.v1.")


PAGED = [e for e in ENDPOINTS if "page_token" in e.descriptor.input_type.fields_by_name]


async def test_a_page_token_is_good_for_its_list_and_its_person_alone(owner: Person, place: Place) -> None:
    for _ in range(2):
        await owner.workspaces.CreateWorkspace(workspace_pb2.CreateWorkspaceRequest(org_id=place.org_id, name="More"))
    request = workspace_pb2.ListWorkspacesRequest(org_id=place.org_id, page_size=1)
    token = (await owner.workspaces.ListWorkspaces(request)).next_page_token
    assert token
    other = await owner.orgs.CreateOrg(org_pb2.CreateOrgRequest(name="Other"))
    elsewhere = workspace_pb2.ListWorkspacesRequest(org_id=other.org.org_id, page_token=token)
    assert await refused(owner.workspaces.ListWorkspaces(elsewhere)) == ("FIELD_INVALID", ["page_token"])
    members = org_pb2.ListMembersRequest(org_id=place.org_id, page_token=token)
    assert await refused(owner.orgs.ListMembers(members)) == ("FIELD_INVALID", ["page_token"])


@pytest.mark.parametrize("endpoint", PAGED, ids=name_of)
@pytest.mark.parametrize("size", [-1, 1001])
async def test_page_sizes_have_bounds(endpoint: Endpoint, size: int, place: Place, operator: Person) -> None:
    ids = _ids(place) | {"team_id": random_id(), "webhook_endpoint_id": random_id()}
    if endpoint.access.scope == "run_id":
        ids["run_id"] = (await say(place.owner, place.conversation_id, "hello"))[0].run_id
    request = endpoint.request(ids)
    request.page_size = size
    caller = operator if endpoint.access.mode == options.ACCESS_MODE_OPERATOR else place.owner
    outcome = await endpoint.call(caller, request)
    assert (outcome.code, outcome.message[:11]) == (grpc.StatusCode.INVALID_ARGUMENT, "page_size: ")


def _ids(place: Place) -> dict[str, str]:
    return {"org_id": place.org_id, "workspace_id": place.workspace_id, "conversation_id": place.conversation_id}


UPDATES = [e for e in ENDPOINTS if "update_mask" in e.descriptor.input_type.fields_by_name]


@pytest.mark.parametrize("endpoint", UPDATES, ids=name_of)
async def test_unknown_mask_paths_are_refused(endpoint: Endpoint, place: Place) -> None:
    ids = _ids(place) | await keep_documents(place.owner, place.workspace_id) | {"user_id": place.owner.user_id}
    request = endpoint.request(ids)
    request.update_mask.CopyFrom(FieldMask(paths=["no_such_field"]))
    outcome = await endpoint.call(place.owner, request)
    assert (outcome.code, outcome.message[:13]) == (grpc.StatusCode.INVALID_ARGUMENT, "update_mask: ")


async def test_control_characters_are_refused_in_names(owner: Person) -> None:
    assert await refused(owner.orgs.CreateOrg(org_pb2.CreateOrgRequest(name="a\0b"))) == ("FIELD_INVALID", ["name"])


async def test_every_broken_rule_is_named(owner: Person) -> None:
    request = auth_pb2.RegisterRequest(email="nobody", password="short")
    reason, fields = await refused(owner.auth.Register(request))
    assert (reason, fields) == ("FIELD_INVALID", ["email", "password", "display_name"])


async def test_repeated_fields_are_named_with_their_index(place: Place) -> None:
    request = usage_pb2.GetUsageRequest(org_id=place.org_id)
    request.group_by.extend([usage_pb2.USAGE_DIMENSION_DAY, usage_pb2.UsageDimension.ValueType(77)])
    assert await refused(place.owner.usage.GetUsage(request)) == ("FIELD_INVALID", ["group_by[1]"])


async def test_outsiders_learn_nothing_from_validation(place: Place, owner: Person) -> None:
    request = workspace_pb2.CreateWorkspaceRequest(org_id=random_id(), name="")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await owner.workspaces.CreateWorkspace(request)
    assert caught.value.code() == grpc.StatusCode.NOT_FOUND
