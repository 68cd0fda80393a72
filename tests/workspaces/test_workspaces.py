"""Workspaces: who may do what with them, and what becomes of them."""

import asyncio
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2, options_pb2
from aiworkspace.v1 import workspace_pb2 as pb
from aiworkspace_server.app import App
from aiworkspace_server.auth.authority import Membership, Principal
from aiworkspace_server.kit.context import Call
from aiworkspace_server.kit.contract import Method
from aiworkspace_server.workspaces import store
from aiworkspace_server.workspaces.service import WorkspaceFinder
from tests.support.outcomes import (
    ETAG_MISMATCH,
    INVALID,
    NOT_FOUND,
    OK,
    PERMISSION_MISSING,
    REQUEST_ID_REUSED,
    named,
    outcome,
    outcomes,
    refusal,
)
from tests.support.pagination import few, read_all
from tests.support.people import NewPerson, Person, make_conversation, make_org, make_workspace
from tests.support.runs import say
from tests.support.staff import Team
from tests.support.workspaces import (
    CLOSED,
    delete_workspace,
    get_workspace,
    in_workspace,
    list_workspaces,
    set_visibility,
    update_workspace,
)

LONGEST_PROMPT = "ä" * 32768


def creation(org_id: str, **fields: Any) -> pb.CreateWorkspaceRequest:
    return pb.CreateWorkspaceRequest(**{"org_id": org_id, "name": "Research"} | fields)


async def create(person: Person, org_id: str, **fields: str) -> pb.Workspace:
    workspace: pb.Workspace = (await person.workspaces.CreateWorkspace(creation(org_id, **fields))).workspace
    return workspace


@pytest.fixture
async def workspace(team: Team) -> pb.Workspace:
    return await create(team.member, team.org_id, system_prompt="Be brief.")


# Creating and reading


async def test_a_workspace_is_what_was_asked_for(team: Team) -> None:
    fields = {"name": "Lab", "default_model": "openai/gpt-4o", "system_prompt": LONGEST_PROMPT}
    made = await create(team.member, team.org_id, **fields)
    assert (made.org_id, made.name, made.default_model) == (team.org_id, "Lab", "openai/gpt-4o")
    assert (made.system_prompt, made.etag) == (LONGEST_PROMPT, "1")
    assert await get_workspace(team.viewer, made.workspace_id) == made
    assert await list_workspaces(team.viewer, team.org_id) == [made]


async def test_without_a_model_it_has_the_echo(team: Team) -> None:
    assert (await create(team.member, team.org_id)).default_model == "echo/echo"


async def test_fifty_concurrent_calls_with_one_request_id_make_one_workspace(team: Team) -> None:
    request = creation(team.org_id, request_id=str(uuid.uuid4()))
    assert await outcomes(team.member.workspaces.CreateWorkspace(request) for _ in range(50)) == {OK: 50}
    assert len(await list_workspaces(team.member, team.org_id)) == 1
    request.name = "Other"
    assert await outcome(team.member.workspaces.CreateWorkspace(request)) == REQUEST_ID_REUSED


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""),
        ("name", "x" * 101),
        ("name", "a\nb"),
        ("system_prompt", "x" * 32769),
        ("system_prompt", "a\0b"),
        ("default_model", "nobody/nothing"),
        ("default_model", "openai/nothing"),
        ("default_model", "echo"),
        ("default_model", "x" * 201),
        ("request_id", "1"),
    ],
)
async def test_what_breaks_a_rule_is_refused_by_name(field: str, value: str, team: Team) -> None:
    assert await named(create(team.member, team.org_id, **{field: value})) == (field,)
    assert await list_workspaces(team.member, team.org_id) == []


@pytest.fixture(scope="module")
async def seven(new_person: NewPerson) -> tuple[Person, str]:
    """The owner of an organization with seven workspaces and a deleted one."""
    owner = await new_person()
    org_id = await make_org(owner)
    for number in range(7):
        await make_workspace(owner, org_id, default_model="echo/echo", system_prompt=str(number))
    await delete_workspace(owner, await make_workspace(owner, org_id))
    return owner, org_id


@few
@given(size=st.integers(1, 8))
async def test_pages_of_workspaces_add_up(size: int, seven: tuple[Person, str]) -> None:
    owner, org_id = seven
    request = pb.ListWorkspacesRequest(org_id=org_id)
    found = await read_all(owner.workspaces.ListWorkspaces, request, "workspaces", size)
    assert [workspace.system_prompt for workspace in found] == list("0123456")


# Changing


@pytest.mark.parametrize("paths", [[], ["name", "default_model", "system_prompt"]], ids=["no mask", "mask"])
async def test_everything_that_is_set_is_changed(paths: list[str], team: Team, workspace: pb.Workspace) -> None:
    fields = {"name": "Lab", "default_model": "openai/gpt-4o", "system_prompt": "Be long."}
    changed = await update_workspace(team.member, workspace.workspace_id, *paths, **fields, etag=workspace.etag)
    assert {name: getattr(changed, name) for name in fields} == fields
    assert (changed.etag, changed.create_time) == ("2", workspace.create_time)
    assert await get_workspace(team.member, workspace.workspace_id) == changed


async def test_only_what_the_mask_names_is_changed(team: Team, workspace: pb.Workspace) -> None:
    changed = await update_workspace(team.member, workspace.workspace_id, "system_prompt", name="Not this")
    assert (changed.name, changed.system_prompt) == (workspace.name, "")


async def test_without_a_mask_an_empty_field_stays(team: Team, workspace: pb.Workspace) -> None:
    changed = await update_workspace(team.member, workspace.workspace_id, name="Lab")
    assert (changed.name, changed.system_prompt) == ("Lab", "Be brief.")


async def test_output_only_fields_are_ignored(team: Team, workspace: pb.Workspace) -> None:
    paths = [name for name in pb.Workspace.DESCRIPTOR.fields_by_name if name not in ("name", "default_model")]
    other_org = await make_org(team.outsider)
    changed = await update_workspace(
        team.member, workspace.workspace_id, *paths, org_id=other_org, system_prompt="New", name="Not in the mask"
    )
    assert (changed.org_id, changed.name, changed.system_prompt) == (team.org_id, workspace.name, "New")
    assert changed.create_time == workspace.create_time
    assert await list_workspaces(team.outsider, other_org) == []


async def test_of_concurrent_changes_with_one_etag_one_succeeds(team: Team, workspace: pb.Workspace) -> None:
    calls = [
        update_workspace(team.member, workspace.workspace_id, name=f"Lab {number}", etag="1") for number in range(10)
    ]
    assert await outcomes(calls) == {OK: 1, ETAG_MISMATCH: 9}


@pytest.mark.parametrize(
    ("path", "value", "field"),
    [
        ("name", "", "workspace.name"),
        ("name", "x" * 101, "workspace.name"),
        ("default_model", "", "workspace.default_model"),
        ("default_model", "openai/nothing", "workspace.default_model"),
        ("system_prompt", "\0", "workspace.system_prompt"),
    ],
)
async def test_a_change_that_breaks_a_rule_is_refused_by_name(
    path: str, value: str, field: str, team: Team, workspace: pb.Workspace
) -> None:
    assert await named(update_workspace(team.member, workspace.workspace_id, path, **{path: value})) == (field,)
    assert await get_workspace(team.member, workspace.workspace_id) == workspace


async def test_an_unknown_mask_path_is_refused(team: Team, workspace: pb.Workspace) -> None:
    assert await named(update_workspace(team.member, workspace.workspace_id, "delete_time", name="x")) == (
        "update_mask",
    )


# Deleting


async def test_a_deleted_workspace_is_as_unknown_as_one_that_never_was(team: Team, workspace: pb.Workspace) -> None:
    workspace_id = workspace.workspace_id
    conversation_id = await make_conversation(team.owner, workspace_id)
    await say(team.owner, conversation_id, "hello")
    await delete_workspace(team.owner, workspace_id)
    deleted = await every_refusal(team.owner, workspace_id, conversation_id)
    assert deleted == await every_refusal(team.owner, str(uuid.uuid4()), str(uuid.uuid4()))
    assert {refused.code for refused in deleted} == {"NOT_FOUND"}
    assert await list_workspaces(team.owner, team.org_id) == []


async def every_refusal(person: Person, workspace_id: str, conversation_id: str) -> list[Any]:
    return [
        await refusal(get_workspace(person, workspace_id)),
        await refusal(update_workspace(person, workspace_id, name="x")),
        await refusal(delete_workspace(person, workspace_id)),
        await refusal(make_conversation(person, workspace_id)),
        await refusal(person.chat.ListConversations(chat_pb2.ListConversationsRequest(workspace_id=workspace_id))),
        await refusal(person.chat.GetConversation(chat_pb2.GetConversationRequest(conversation_id=conversation_id))),
        await refusal(say(person, conversation_id, "hello again")),
    ]


async def test_a_workspace_that_is_deleted_while_it_is_looked_up_is_not_remembered(
    app: App, team: Team, workspace: pb.Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    finder, workspace_id = WorkspaceFinder(app.db), uuid.UUID(workspace.workspace_id)
    method = Method("/", pb.GetWorkspaceRequest, options_pb2.Access(), 0, 0)
    call = Call(method, cast(Any, None), {})
    org_id = uuid.UUID(team.org_id)
    membership = Membership(org_id, "member", None, frozenset({"workspace.read"}))
    call.put(Principal, Principal(uuid.UUID(team.member.user_id), None, None, {org_id: membership}))
    found, deleted = asyncio.Event(), asyncio.Event()
    find = store.find_scope

    async def find_slowly(tx: Any, *key: uuid.UUID) -> Any:
        scope = await find(tx, *key)
        if not found.is_set():
            found.set()
            await deleted.wait()
        return scope

    monkeypatch.setattr(store, "find_scope", find_slowly)
    looking = asyncio.create_task(finder.find(call, workspace_id))
    async with asyncio.timeout(60):
        await found.wait()
    await delete_workspace(team.owner, workspace.workspace_id)
    finder.forget(workspace_id)
    deleted.set()
    scope = await looking
    assert scope is not None
    assert scope.org_id == org_id
    assert await finder.find(call, workspace_id) is None


# Roles

ROLES = ["viewer", "member", "admin", "owner", "outsider"]
ALLOWED = {
    # viewer, member, admin, owner, outsider
    "create": [PERMISSION_MISSING, OK, OK, OK, NOT_FOUND],
    "get": [OK, OK, OK, OK, NOT_FOUND],
    "list": [OK, OK, OK, OK, NOT_FOUND],
    "update": [PERMISSION_MISSING, OK, OK, OK, NOT_FOUND],
    "delete": [PERMISSION_MISSING, OK, OK, OK, NOT_FOUND],  # the member made it, and is its manager
    "open": [PERMISSION_MISSING, OK, OK, OK, NOT_FOUND],
    "list members": [OK, OK, OK, OK, NOT_FOUND],
}


@pytest.mark.parametrize(
    ("what", "role", "expected"),
    [(what, role, expected) for what, row in ALLOWED.items() for role, expected in zip(ROLES, row, strict=True)],
)
async def test_who_may_do_what(what: str, role: str, expected: str, team: Team, workspace: pb.Workspace) -> None:
    person, workspace_id = team.somebody(role), workspace.workspace_id
    calls: dict[str, Callable[[], Any]] = {
        "create": lambda: create(person, team.org_id),
        "get": lambda: get_workspace(person, workspace_id),
        "list": lambda: list_workspaces(person, team.org_id),
        "update": lambda: update_workspace(person, workspace_id, name="Changed"),
        "delete": lambda: delete_workspace(person, workspace_id),
        "open": lambda: set_visibility(person, workspace_id, CLOSED),
        "list members": lambda: in_workspace(person, workspace_id),
    }
    before = await list_workspaces(team.owner, team.org_id)
    assert await outcome(calls[what]()) == expected
    unchanged = await list_workspaces(team.owner, team.org_id) == before
    assert unchanged == (expected != OK or what in ("get", "list", "list members"))


async def test_ids_that_are_none_are_refused_by_name(team: Team) -> None:
    assert await named(get_workspace(team.owner, "1")) == ("workspace_id",)
    assert await outcome(team.owner.workspaces.UpdateWorkspace(pb.UpdateWorkspaceRequest())) == INVALID
