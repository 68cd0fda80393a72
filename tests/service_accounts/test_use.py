"""What a backend does with its key: converse, be charged, read lists, and be noticed."""

import asyncio

from aiworkspace.v1 import auth_pb2, chat_pb2, org_pb2, usage_pb2, workspace_pb2
from aiworkspace.v1 import service_account_pb2 as pb
from aiworkspace_server.app import App
from tests.support.outcomes import INVALID, NOT_FOUND, OK, PERMISSION_MISSING, named, outcome, refusal
from tests.support.people import Person, make_conversation, make_workspace
from tests.support.postgres import sql
from tests.support.runs import events_of, follow, say, text_of
from tests.support.service_accounts import OF_WORKSPACES, NewBackend, make_account, make_key
from tests.support.staff import Team
from tests.support.statements import statements
from tests.support.stores import Stores


async def key_of(team: Team) -> pb.ApiKey:
    listed = await team.owner.service_accounts.ListApiKeys(pb.ListApiKeysRequest(org_id=team.org_id))
    key: pb.ApiKey = listed.api_keys[0]
    return key


async def test_a_backend_converses_and_is_charged_as_its_account(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id, role=org_pb2.ROLE_MEMBER)
    scopes = ["org.read", *OF_WORKSPACES]
    backend = new_backend((await make_key(team.owner, team.org_id, user_id, scopes)).secret)
    workspace_id = await make_workspace(team.owner, team.org_id)
    conversation_id = await make_conversation(backend, workspace_id)
    events = await say(backend, conversation_id, "hello there")
    assert "hello there" in text_of(events)
    run_id = events[0].run_id
    assert await events_of(follow(backend, run_id)) == events
    request = usage_pb2.ListUsageEntriesRequest(org_id=team.org_id, user_id=user_id)
    [entry] = (await team.owner.usage.ListUsageEntries(request)).entries
    assert (entry.user_id, entry.run_id, entry.workspace_id) == (user_id, run_id, workspace_id)
    conversations = chat_pb2.ListConversationsRequest(workspace_id=workspace_id)
    assert len((await backend.chat.ListConversations(conversations)).conversations) == 1
    assert len((await team.owner.chat.ListConversations(conversations)).conversations) == 0
    found = chat_pb2.GetConversationRequest(conversation_id=conversation_id)
    assert await outcome(team.owner.chat.GetConversation(found)) == NOT_FOUND


async def test_who_a_backend_is_and_where(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id, name="Night shift")
    backend = new_backend((await make_key(team.owner, team.org_id, user_id, ["org.read"])).secret)
    me = (await backend.auth.GetMe(auth_pb2.GetMeRequest())).user
    assert (me.user_id, me.display_name, me.email) == (user_id, "Night shift", "")
    assert [org.org_id for org in (await backend.orgs.ListOrgs(org_pb2.ListOrgsRequest())).orgs] == [team.org_id]
    models = (await backend.chat.ListModels(chat_pb2.ListModelsRequest())).models
    assert "echo/echo" in [model.model for model in models]


async def test_lists_show_what_the_key_may_read_and_nothing_else(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    workspace_id = await make_workspace(team.owner, team.org_id, system_prompt="secret plans")
    blind = new_backend((await make_key(team.owner, team.org_id, user_id, ["org.read", "chat.send"])).secret)
    request = workspace_pb2.ListWorkspacesRequest(org_id=team.org_id)
    assert (await blind.workspaces.ListWorkspaces(request)).workspaces == []
    got = workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id)
    assert await outcome(blind.workspaces.GetWorkspace(got)) == PERMISSION_MISSING
    lost = new_backend((await make_key(team.owner, team.org_id, user_id, ["chat.read"])).secret)
    assert (await lost.orgs.ListOrgs(org_pb2.ListOrgsRequest())).orgs == []
    assert await outcome(lost.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=team.org_id))) == PERMISSION_MISSING


async def test_a_limited_key_knows_of_its_workspaces_alone(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    inside, outside = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    whole = new_backend((await make_key(team.owner, team.org_id, user_id)).secret)
    scopes = [*OF_WORKSPACES, "org.read"]
    limited = new_backend((await make_key(team.owner, team.org_id, user_id, scopes, workspace_ids=[inside])).secret)
    elsewhere = await make_conversation(whole, outside)
    await say(limited, await make_conversation(limited, inside), "hello")
    found = chat_pb2.GetConversationRequest(conversation_id=elsewhere)
    assert await outcome(limited.chat.GetConversation(found)) == NOT_FOUND
    assert await outcome(whole.chat.GetConversation(found)) == OK
    request = workspace_pb2.ListWorkspacesRequest(org_id=team.org_id)
    assert [each.workspace_id for each in (await limited.workspaces.ListWorkspaces(request)).workspaces] == [inside]
    assert await outcome(make_workspace(limited, team.org_id)) == PERMISSION_MISSING


async def test_a_page_token_of_one_key_grants_another_nothing(team: Team, new_backend: NewBackend) -> None:
    user_id = await make_account(team.owner, team.org_id)
    made = [await make_workspace(team.owner, team.org_id) for _ in range(4)]
    whole = new_backend((await make_key(team.owner, team.org_id, user_id)).secret)
    scopes = ["org.read", "workspace.read"]
    limited = new_backend((await make_key(team.owner, team.org_id, user_id, scopes, workspace_ids=made[2:3])).secret)
    request = workspace_pb2.ListWorkspacesRequest(org_id=team.org_id, page_size=1)
    request.page_token = (await whole.workspaces.ListWorkspaces(request)).next_page_token
    assert [each.workspace_id for each in (await whole.workspaces.ListWorkspaces(request)).workspaces] == made[1:2]
    page = await limited.workspaces.ListWorkspaces(request)
    assert ([each.workspace_id for each in page.workspaces], page.next_page_token) == (made[2:3], "")
    assert await named(team.owner.workspaces.ListWorkspaces(request)) == ("page_token",)
    keys = pb.ListApiKeysRequest(org_id=team.org_id, page_size=1)
    keys.page_token = (await whole.service_accounts.ListApiKeys(keys)).next_page_token
    assert await outcome(limited.service_accounts.ListApiKeys(keys)) == PERMISSION_MISSING
    assert INVALID in await outcome(team.owner.service_accounts.ListApiKeys(keys))


async def test_people_do_to_themselves_what_keys_may_not(team: Team, new_backend: NewBackend) -> None:
    """Where a person needs no permission because the call is about themselves, a key does."""
    user_id = await make_account(team.owner, team.org_id, role=org_pb2.ROLE_MEMBER)
    backend = new_backend((await make_key(team.owner, team.org_id, user_id, ["org.read"])).secret)
    own = usage_pb2.GetUsageRequest(org_id=team.org_id, user_id=user_id)
    assert await outcome(backend.usage.GetUsage(own)) == PERMISSION_MISSING
    leaving = org_pb2.RemoveMemberRequest(org_id=team.org_id, user_id=user_id)
    assert await outcome(backend.orgs.RemoveMember(leaving)) == PERMISSION_MISSING


async def use(backend: Person, times: int) -> None:
    await asyncio.gather(*(backend.auth.GetMe(auth_pb2.GetMeRequest()) for _ in range(times)))


async def test_the_last_use_is_noted_once_a_minute(
    app: App, team: Team, new_backend: NewBackend, stores: Stores
) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    assert not (await key_of(team)).HasField("last_use_time")
    backend = new_backend(made.secret)
    await use(backend, 1)
    first = await key_of(team)
    assert first.last_use_address in ("127.0.0.1", "::1")
    assert abs(first.last_use_time.ToNanoseconds() - made.api_key.create_time.ToNanoseconds()) < 30e9
    with statements(app, "UPDATE api_keys") as written:
        for _ in range(3):
            await use(backend, 10)
            await asyncio.sleep(1.1)
    assert written == []
    assert await key_of(team) == first
    await sql(
        stores,
        "UPDATE api_keys SET last_use_time = now() - interval '61 seconds', last_use_address = '' WHERE id = %s",
        first.api_key_id,
    )
    await asyncio.sleep(1.1)
    await use(backend, 10)
    again = await key_of(team)
    assert again.last_use_address == first.last_use_address
    assert again.last_use_time.ToNanoseconds() > first.last_use_time.ToNanoseconds()


async def test_fifty_first_calls_at_once_write_once(app: App, team: Team, new_backend: NewBackend) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    with statements(app, "UPDATE api_keys") as written:
        await use(new_backend(made.secret), 50)
    assert sum(statement.rows for statement in written) == 1


async def test_a_key_in_use_neither_waits_for_its_revocation_nor_the_other_way(
    team: Team, new_backend: NewBackend, stores: Stores
) -> None:
    made = await make_key(team.owner, team.org_id, await make_account(team.owner, team.org_id))
    backend = new_backend(made.secret)
    revoking = pb.RevokeApiKeyRequest(org_id=team.org_id, api_key_id=made.api_key.api_key_id)
    calls = [outcome(use(backend, 1)) for _ in range(20)]
    await asyncio.gather(*calls, team.owner.service_accounts.RevokeApiKey(revoking))
    refused = await refusal(use(backend, 1))
    assert refused is not None
    assert refused.code == "UNAUTHENTICATED"
