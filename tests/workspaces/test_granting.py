"""Nobody gives or takes in a workspace what they lack there: limited roles, API keys, and changes that meet."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from aiworkspace.v1 import chat_pb2, org_pb2
from aiworkspace.v1 import workspace_pb2 as pb
from aiworkspace_server.app import App
from tests.standin import Standin
from tests.support.outcomes import NOT_FOUND, OK, PERMISSION_MISSING, outcome
from tests.support.people import Person, join, make_conversation, make_workspace
from tests.support.postgres import as_owner, sql, until_blocked
from tests.support.runs import kinds_of, talk
from tests.support.service_accounts import make_robot
from tests.support.staff import VIEWER, Team
from tests.support.stores import Stores
from tests.support.teams import add, delete_group, in_group, make_group, take_out
from tests.support.workspaces import (
    CLOSED,
    EDITOR,
    MANAGER,
    OPEN,
    READER,
    delete_workspace,
    in_workspace,
    set_visibility,
    share,
    unshare,
)

READING = ["org.read", "member.read", "workspace.read", "chat.read", "document.read"]


async def limit(stores: Stores, team: Team, person: Person, *permissions: str) -> None:
    """Gives a member a role of the organization's own."""
    role_id = uuid.uuid4()
    role = "INSERT INTO custom_roles VALUES (%s, %s, 'Own', %s, 1, now(), now())"
    await sql(stores, role, team.org_id, role_id, [*READING, *permissions])
    member = "UPDATE memberships SET role = 'custom', custom_role_id = %s WHERE org_id = %s AND user_id = %s"
    await sql(stores, member, role_id, team.org_id, person.user_id)


# Roles that are made of few permissions


async def test_a_sharer_gives_and_takes_no_more_than_they_have(team: Team, stores: Stores) -> None:
    sharer, whom = team.outsider, team.viewer.user_id
    await join(team.owner, team.org_id, sharer, VIEWER)
    await limit(stores, team, sharer, "workspace.share")
    workspace_id = await make_workspace(team.owner, team.org_id)
    assert await outcome(share(sharer, workspace_id, READER, user_id=whom)) == OK
    assert await outcome(share(sharer, workspace_id, EDITOR, user_id=whom)) == PERMISSION_MISSING
    assert await outcome(share(sharer, workspace_id, MANAGER, user_id=sharer.user_id)) == PERMISSION_MISSING
    await share(team.owner, workspace_id, EDITOR, user_id=whom)
    assert await outcome(share(sharer, workspace_id, READER, user_id=whom)) == PERMISSION_MISSING
    assert await outcome(unshare(sharer, workspace_id, user_id=whom)) == PERMISSION_MISSING
    assert await outcome(set_visibility(sharer, workspace_id, CLOSED)) == PERMISSION_MISSING
    assert await in_workspace(sharer, workspace_id) == {team.owner.user_id: MANAGER, whom: EDITOR}
    await share(team.owner, workspace_id, READER, user_id=whom)
    assert await outcome(unshare(sharer, workspace_id, user_id=whom)) == OK


async def test_who_manages_teams_adds_nobody_to_one_that_may_more(team: Team, stores: Stores) -> None:
    manager, org_id = team.outsider, team.org_id
    await join(team.owner, org_id, manager, VIEWER)
    await limit(stores, team, manager, "team.manage")
    group = await make_group(team.owner, org_id)
    open_one = await make_workspace(team.owner, org_id)
    closed_one = await make_workspace(team.owner, org_id, visibility=CLOSED)
    steps: list[tuple[Callable[[], Any], str]] = [
        (lambda: share(team.owner, open_one, READER, team_id=group), OK),
        (lambda: share(team.owner, open_one, EDITOR, team_id=group), PERMISSION_MISSING),
        (lambda: share(team.owner, open_one, EDITOR, user_id=manager.user_id), OK),
        (lambda: share(team.owner, closed_one, READER, team_id=group), PERMISSION_MISSING),
        (lambda: share(team.owner, closed_one, MANAGER, user_id=manager.user_id), OK),
        (lambda: unshare(team.owner, closed_one, user_id=manager.user_id), PERMISSION_MISSING),
        (lambda: delete_workspace(team.owner, closed_one), OK),
    ]
    for number, (step, expected) in enumerate(steps):
        await step()
        for whom in (manager, team.viewer):
            assert await outcome(add(manager, org_id, group, whom.user_id)) == expected, number
            inside = {member.user_id for member in await in_group(team.owner, org_id, group)}
            assert (whom.user_id in inside) == (expected == OK)
            if expected == OK:
                await take_out(team.owner, org_id, group, whom.user_id)


# API keys

MakeRobot = Callable[..., Awaitable[Person]]


@pytest.fixture
async def robot(team: Team, stores: Stores, app: App) -> AsyncIterator[MakeRobot]:
    """`await robot(role, permissions, workspace_ids)`"""
    made: list[Person] = []

    async def make(role: str, permissions: Sequence[str], workspace_ids: Sequence[str] | None = None) -> Person:
        made.append(await make_robot(stores, app.address, team.org_id, role, permissions, workspace_ids))
        return made[-1]

    yield make
    for each in made:
        await each.channel.close()


async def test_a_key_shares_no_more_than_it_may(team: Team, robot: MakeRobot) -> None:
    one, other = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    whom = team.viewer.user_id
    key = await robot("admin", [*READING, "workspace.share"], [one])
    assert await outcome(share(key, one, READER, user_id=whom)) == OK
    assert await outcome(share(key, one, EDITOR, user_id=whom)) == PERMISSION_MISSING
    assert await outcome(share(key, one, EDITOR, user_id=key.user_id)) == PERMISSION_MISSING
    assert await outcome(share(key, other, READER, user_id=whom)) == NOT_FOUND
    assert await outcome(set_visibility(key, one, CLOSED)) == PERMISSION_MISSING
    assert await in_workspace(team.owner, one) == {team.owner.user_id: MANAGER, whom: READER}


async def test_a_key_adds_nobody_to_a_team_that_may_more(team: Team, robot: MakeRobot) -> None:
    one, other = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    group = await make_group(team.owner, team.org_id)
    key = await robot("admin", [*READING, "team.manage"], [one])
    await share(team.owner, one, READER, team_id=group)
    assert await outcome(add(key, team.org_id, group, team.member.user_id)) == OK
    await share(team.owner, other, READER, team_id=group)
    assert await outcome(add(key, team.org_id, group, key.user_id)) == PERMISSION_MISSING


async def test_a_key_may_not_even_leave(team: Team, robot: MakeRobot) -> None:
    """What people may do to themselves is for people."""
    workspace_id = await make_workspace(team.owner, team.org_id)
    key = await robot("member", READING)
    await share(team.owner, workspace_id, READER, user_id=key.user_id)
    group = await make_group(team.owner, team.org_id, key)
    assert await outcome(unshare(key, workspace_id, user_id=key.user_id)) == PERMISSION_MISSING
    assert await outcome(take_out(key, team.org_id, group, key.user_id)) == PERMISSION_MISSING


@pytest.mark.parametrize("limited", [False, True])
@pytest.mark.parametrize("permission", ["workspace.read", "chat.read"])
@pytest.mark.parametrize("role", ["billing", "viewer", "admin"])
async def test_a_key_lists_what_it_can_get(
    role: str, permission: str, limited: bool, team: Team, robot: MakeRobot
) -> None:
    opened = await make_workspace(team.owner, team.org_id)
    closed, given, both = [await make_workspace(team.owner, team.org_id, visibility=CLOSED) for _ in range(3)]
    key = await robot(role, ["org.read", permission], [opened, both] if limited else None)
    group = await make_group(team.owner, team.org_id, key)
    await share(team.owner, given, READER, user_id=key.user_id)
    await share(team.owner, both, EDITOR, team_id=group)
    listed = await key.workspaces.ListWorkspaces(pb.ListWorkspacesRequest(org_id=team.org_id))
    requests = [pb.GetWorkspaceRequest(workspace_id=each) for each in (opened, closed, given, both)]
    gotten = [each.workspace_id for each in requests if await outcome(key.workspaces.GetWorkspace(each)) == OK]
    assert [workspace.workspace_id for workspace in listed.workspaces] == gotten
    assert bool(gotten) == (permission == "workspace.read")


# Changes that meet


async def test_nobody_joins_a_team_that_is_being_given_more_than_they_have(team: Team, stores: Stores) -> None:
    manager = team.outsider
    await join(team.owner, team.org_id, manager, VIEWER)
    await limit(stores, team, manager, "team.manage")
    group = await make_group(team.owner, team.org_id)
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    async with as_owner(stores) as giving, giving.transaction():
        await giving.execute("SELECT FROM orgs WHERE id = %s FOR UPDATE", [team.org_id])
        given = "INSERT INTO workspace_members VALUES (%s, %s, DEFAULT, NULL, %s, 'manager', now())"
        await giving.execute(given, [team.org_id, workspace_id, group])
        adding = asyncio.create_task(outcome(add(manager, team.org_id, group, manager.user_id)))
        await until_blocked(stores, adding)
    assert await adding == PERMISSION_MISSING
    assert await in_group(team.owner, team.org_id, group) == []


GIVING: dict[str, Callable[[Person, str, str], Any]] = {
    "role": lambda person, workspace_id, whom: share(person, workspace_id, MANAGER, user_id=whom),
    "removal": lambda person, workspace_id, whom: unshare(person, workspace_id, user_id=whom),
    "opening": lambda person, workspace_id, whom: set_visibility(person, workspace_id, OPEN),
}
LOSING = {
    "role": ("UPDATE workspace_members SET role = 'editor' WHERE org_id = %s AND user_id = %s", PERMISSION_MISSING),
    "membership": ("DELETE FROM memberships WHERE org_id = %s AND user_id = %s", NOT_FOUND),
    "suspension": ("UPDATE memberships SET suspend_time = now() WHERE org_id = %s AND user_id = %s", NOT_FOUND),
}


@pytest.mark.parametrize("give", GIVING.values(), ids=GIVING)
@pytest.mark.parametrize(("statement", "expected"), LOSING.values(), ids=LOSING)
async def test_nobody_shares_after_their_demotion_has_begun(
    statement: str, expected: str, give: Callable[[Person, str, str], Any], team: Team, stores: Stores
) -> None:
    """The call was let in while the caller was a manager, and waits for the change to end."""
    workspace_id = await make_workspace(team.member, team.org_id, visibility=CLOSED)
    await share(team.member, workspace_id, READER, user_id=team.viewer.user_id)
    async with as_owner(stores) as change, change.transaction():
        await change.execute("SELECT FROM orgs WHERE id = %s FOR UPDATE", [team.org_id])
        await change.execute(statement.encode(), [team.org_id, team.member.user_id])
        giving = asyncio.create_task(outcome(give(team.member, workspace_id, team.viewer.user_id)))
        await until_blocked(stores, giving)
    assert await giving == expected
    assert (await in_workspace(team.owner, workspace_id))[team.viewer.user_id] == READER


async def test_nobody_makes_a_workspace_after_their_removal_has_begun(team: Team, stores: Stores) -> None:
    async with as_owner(stores) as removal, removal.transaction():
        await removal.execute("SELECT FROM orgs WHERE id = %s FOR UPDATE", [team.org_id])
        gone = "DELETE FROM memberships WHERE org_id = %s AND user_id = %s"
        await removal.execute(gone, [team.org_id, team.member.user_id])
        making = asyncio.create_task(outcome(make_workspace(team.member, team.org_id)))
        await until_blocked(stores, making)
    assert await making == NOT_FOUND


async def test_who_is_removed_while_fifty_share_with_them_is_out(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    group = await make_group(team.owner, team.org_id)
    whom = team.member.user_id
    removal = org_pb2.RemoveMemberRequest(org_id=team.org_id, user_id=whom)
    calls = [outcome(share(team.owner, workspace_id, EDITOR, user_id=whom)) for _ in range(25)]
    calls += [outcome(add(team.owner, team.org_id, group, whom)) for _ in range(25)]
    calls.insert(10, outcome(team.owner.orgs.RemoveMember(removal)))
    assert set(await asyncio.gather(*calls)) <= {OK, NOT_FOUND}
    assert await in_workspace(team.owner, workspace_id) == {team.owner.user_id: MANAGER}
    assert await in_group(team.owner, team.org_id, group) == []


async def test_after_a_removal_from_the_team_no_use_succeeds(team: Team) -> None:
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    group = await make_group(team.owner, team.org_id, team.viewer)
    await share(team.owner, workspace_id, EDITOR, team_id=group)
    removed, late = asyncio.Event(), []

    async def use() -> None:
        for _ in range(20):
            begun_after = removed.is_set()
            result = await outcome(make_conversation(team.viewer, workspace_id))
            if begun_after:
                late.append(result)

    async def remove() -> None:
        await asyncio.sleep(0.1)
        await take_out(team.owner, team.org_id, group, team.viewer.user_id)
        removed.set()

    await asyncio.gather(remove(), *(use() for _ in range(20)))
    late.append(await outcome(make_conversation(team.viewer, workspace_id)))
    assert set(late) == {NOT_FOUND}


# Runs in progress


WAYS: dict[str, Callable[[Team, str, str], Any]] = {
    "removed": lambda team, workspace_id, group: unshare(team.owner, workspace_id, team_id=group),
    "out of the team": lambda team, workspace_id, group: take_out(team.owner, team.org_id, group, team.viewer.user_id),
    "no team": lambda team, workspace_id, group: delete_group(team.owner, team.org_id, group),
    "lower role": lambda team, workspace_id, group: share(team.owner, workspace_id, READER, team_id=group),
    "deleted": lambda team, workspace_id, group: delete_workspace(team.owner, workspace_id),
}


async def begin(person: Person, workspace_id: str) -> Any:
    conversation_id = await make_conversation(person, workspace_id)
    message = chat_pb2.SendMessageRequest(conversation_id=conversation_id, content="hello", model="openai/gpt-4o-mini")
    stream = person.chat.SendMessage(message)
    await stream.read()
    return stream


async def end_of(stream: Any) -> str | None:
    """The last event of a stream."""
    events: list[Any] = []
    async for response in stream:
        events.append(response.event)
    return kinds_of(events)[-1]


@pytest.mark.parametrize("lose", WAYS.values(), ids=WAYS)
async def test_what_somebody_has_in_progress_is_cancelled_with_their_rights(
    lose: Callable[[Team, str, str], Any], team: Team, standin: Standin
) -> None:
    enough = talk(standin)
    workspace_id = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    group = await make_group(team.owner, team.org_id, team.viewer)
    await share(team.owner, workspace_id, EDITOR, team_id=group)
    elsewhere = await make_workspace(team.owner, team.org_id)
    stream, other = await begin(team.viewer, workspace_id), await begin(team.owner, elsewhere)
    await lose(team, workspace_id, group)
    assert await end_of(stream) == "run_cancelled"
    enough.set()
    assert await end_of(other) == "run_completed"


async def test_closing_a_workspace_cancels_what_others_have_in_progress(team: Team, standin: Standin) -> None:
    enough = talk(standin)
    workspace_id = await make_workspace(team.owner, team.org_id)
    await share(team.owner, workspace_id, EDITOR, user_id=team.viewer.user_id)
    streams = [await begin(person, workspace_id) for person in (team.member, team.viewer, team.admin)]
    await set_visibility(team.owner, workspace_id, CLOSED)
    assert await end_of(streams[0]) == "run_cancelled"
    enough.set()
    assert [await end_of(stream) for stream in streams[1:]] == ["run_completed", "run_completed"]
