"""The client of a backend: an API key in the place of a session."""

import asyncio

import grpc
import pytest

from aiworkspace.v1 import auth_pb2, org_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_client import AsyncClient, Client, TokenStore, UnauthenticatedError
from tests.client.runs import TEXT, connections, whole_run
from tests.client.scripted import KEY, ScriptedServer, answer, answers, failure

REFUSED = failure(grpc.StatusCode.UNAUTHENTICATED, "CREDENTIALS_INVALID")


async def test_the_key_is_sent_with_every_call(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(display_name="Robot"))))
    server.script("OrgService.ListOrgs", answer(org_pb2.ListOrgsResponse()))
    connections(server, (whole_run(), None))
    async with AsyncClient(server.target, api_key=KEY) as client:
        assert (await client.auth.get_me()).display_name == "Robot"
        assert [org async for org in client.orgs.list()] == []
        async with client.chat.send("conversation-1", "Count!") as stream:
            assert "".join([text async for text in stream.text]) == TEXT
    assert [call.token for call in server.calls] == [KEY] * 3


async def test_the_other_client_sends_it_too(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse(user=auth_pb2.User(display_name="Robot"))))

    def name() -> str:
        with Client(server.target, api_key=KEY) as client:
            return client.auth.get_me().display_name

    assert await asyncio.to_thread(name) == "Robot"
    assert [call.token for call in server.calls] == [KEY]


async def test_a_refused_key_is_not_exchanged_and_not_tried_again(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answers(REFUSED))
    async with AsyncClient(server.target, api_key=KEY) as client:
        for _ in range(2):
            with pytest.raises(UnauthenticatedError):
                await client.auth.get_me()
    assert [call.method for call in server.calls] == ["AuthService.GetMe"] * 2


@pytest.mark.parametrize("kind", [AsyncClient, Client])
def test_a_key_goes_with_no_tokens(kind: type[AsyncClient] | type[Client]) -> None:
    for tokens in (("a", ""), ("", "r"), ("a", "r")):
        with pytest.raises(ValueError, match="only one of"):
            kind("127.0.0.1:1", api_key=KEY, access_token=tokens[0], refresh_token=tokens[1])
    with pytest.raises(ValueError, match="only one of"):
        kind("127.0.0.1:1", api_key=KEY, token_store=TokenStore())


@pytest.mark.parametrize("key", [KEY[:9] + "\n" + KEY[9:], "é" + KEY, KEY + "\0"], ids=repr)
def test_a_key_with_a_line_break_is_explained_and_not_shown(key: str) -> None:
    with pytest.raises(ValueError, match="line break") as caught:
        AsyncClient("127.0.0.1:1", api_key=key)
    assert KEY not in str(caught.value)


async def test_white_space_around_credentials_does_not_count(server: ScriptedServer) -> None:
    server.script("AuthService.GetMe", answer(auth_pb2.GetMeResponse()))
    for client in (
        AsyncClient(server.target, api_key=f" {KEY}\n"),
        AsyncClient(server.target, access_token=f"{KEY}\r\n", refresh_token="\tb\n"),
    ):
        async with client:
            await client.auth.get_me()
    assert [call.token for call in server.calls] == [KEY, KEY]


async def test_the_namespace_manages_accounts_and_keys(server: ScriptedServer) -> None:
    account = pb.ServiceAccount(user_id="user-1", name="Robot")
    key = pb.ApiKey(api_key_id="key-1", name="production")
    script = {
        "CreateServiceAccount": pb.CreateServiceAccountResponse(service_account=account),
        "ListServiceAccounts": pb.ListServiceAccountsResponse(service_accounts=[account]),
        "DeleteServiceAccount": pb.DeleteServiceAccountResponse(),
        "CreateApiKey": pb.CreateApiKeyResponse(api_key=key, secret=KEY),
        "ListApiKeys": pb.ListApiKeysResponse(api_keys=[key]),
        "RotateApiKey": pb.RotateApiKeyResponse(api_key=key, secret=KEY),
        "RevokeApiKey": pb.RevokeApiKeyResponse(api_key=key),
    }
    for name, response in script.items():
        server.script(f"ServiceAccountService.{name}", answer(response))
    async with AsyncClient(server.target, access_token="access-1") as client:
        accounts = client.service_accounts
        assert await accounts.create(org_id="org-1", name="Robot", role=org_pb2.ROLE_MEMBER) == account
        assert [each async for each in accounts.list("org-1")] == [account]
        made = await accounts.create_api_key(org_id="org-1", user_id="user-1", name="p", permissions=["chat.send"])
        assert made.secret == KEY
        assert [each async for each in accounts.list_api_keys("org-1", user_id="user-1")] == [key]
        assert (await accounts.rotate_api_key(org_id="org-1", api_key_id="key-1", overlap_seconds=60)).secret == KEY
        assert (await accounts.revoke_api_key(org_id="org-1", api_key_id="key-1")).api_key == key
        await accounts.delete(org_id="org-1", user_id="user-1")
    assert [call.request.request_id != "" for call in server.calls if hasattr(call.request, "request_id")] == [True] * 3


async def test_a_stream_with_a_refused_key_ends_at_once(server: ScriptedServer) -> None:
    connections(server, ([], REFUSED))
    async with AsyncClient(server.target, api_key=KEY) as client:
        with pytest.raises(UnauthenticatedError):
            await client.chat.send("conversation-1", "Count!").final_message()
    assert [call.method for call in server.calls] == ["ChatService.SendMessage"]
