"""Random changes of who is in an organization, its teams and workspaces, against a model of who may do what there.

Every change is made by somebody who may or may not make it. What each person sees then, and at the end may do, is
compared with the model, which knows nothing of how the server finds out.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest
from google.protobuf.message import Message
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import chat_pb2, org_pb2, workspace_pb2
from tests.support import teams as team_calls
from tests.support import workspaces as workspace_calls
from tests.support.outcomes import INVALID, LAST_OWNER, NOT_FOUND, OK, PERMISSION_MISSING, outcome
from tests.support.people import NewPerson, Person, join, make_conversation, make_org, make_workspace
from tests.support.workspaces import CLOSED, EDITOR, MANAGER, OPEN, READER

Conversation = tuple[int, int, str]  # whose, in which workspace, id
OWNER, ADMIN, MEMBER, VIEWER, BILLING = (
    org_pb2.ROLE_OWNER,
    org_pb2.ROLE_ADMIN,
    org_pb2.ROLE_MEMBER,
    org_pb2.ROLE_VIEWER,
    org_pb2.ROLE_BILLING,
)
IN_OPEN_WORKSPACE: dict[int, set[str]] = {MEMBER: {"see", "change", "talk"}, VIEWER: {"see"}, BILLING: set()}
IN_WORKSPACE: dict[int, set[str]] = {
    READER: {"see"},
    EDITOR: {"see", "change", "talk"},
    MANAGER: {"see", "change", "talk", "share", "delete"},
}


@dataclass
class Model:
    """People, teams and workspaces are numbers; a member of a workspace is a ("person" or "team", number)."""

    roles: dict[int, int]
    suspended: set[int] = field(default_factory=set)
    teams: dict[int, set[int]] = field(default_factory=dict)
    visibility: dict[int, int] = field(default_factory=dict)
    members: dict[int, dict[tuple[str, int], int]] = field(default_factory=dict)

    def active(self, who: int) -> bool:
        return who in self.roles and who not in self.suspended

    def administers(self, who: int) -> bool:
        return self.active(who) and self.roles[who] in (OWNER, ADMIN)

    def may_rule(self, by: int, *roles: int) -> bool:
        """Whether somebody may give and take these roles in the organization."""
        return self.administers(by) and (self.roles[by] == OWNER or OWNER not in roles)

    def last_owner(self, who: int) -> bool:
        return [each for each, role in self.roles.items() if role == OWNER and self.active(each)] == [who]

    def may(self, who: int, workspace: int) -> set[str]:
        if not self.active(who) or workspace not in self.visibility:
            return set()
        if self.administers(who):
            return IN_WORKSPACE[MANAGER]
        found = IN_OPEN_WORKSPACE[self.roles[who]] if self.visibility[workspace] == OPEN else set()
        for (kind, number), role in self.members[workspace].items():
            if who == number if kind == "person" else who in self.teams[number]:
                found = found | IN_WORKSPACE[role]
        return found

    def leave(self, who: int) -> None:
        del self.roles[who]
        self.suspended.discard(who)
        for team in self.teams.values():
            team.discard(who)
        self.forget(("person", who))

    def forget(self, member: tuple[str, int]) -> None:
        for members in self.members.values():
            members.pop(member, None)


@dataclass
class World:
    """A model, and the real thing: ids by the model's numbers."""

    model: Model
    people: list[Person]
    org_id: str
    teams: list[str]
    workspaces: list[str]
    conversations: list[Conversation] = field(default_factory=list)

    async def expect(self, call: Any, allowed: bool, *others: str) -> bool:
        result = await outcome(call)
        assert result in (OK, NOT_FOUND, PERMISSION_MISSING, *others)
        assert (result == OK) == allowed, result
        return allowed

    def of(self, kind: str, number: int) -> dict[str, str]:
        return {"user_id": self.people[number].user_id} if kind == "person" else {"team_id": self.teams[number]}

    def whom(self, who: int) -> dict[str, Any]:
        return {"org_id": self.org_id, "user_id": self.people[who].user_id}


async def invite(world: World, by: int, whom: int, role: int) -> None:
    model = world.model
    if whom in model.roles:
        return
    given = org_pb2.Role.ValueType(role)
    if await world.expect(join(world.people[by], world.org_id, world.people[whom], given), model.may_rule(by, role)):
        model.roles[whom] = role


async def set_role(world: World, by: int, whom: int, role: int) -> None:
    model = world.model
    before = model.roles.get(whom)
    same = before == role and model.administers(by)
    changes = before is not None and model.may_rule(by, role, before) and not model.last_owner(whom)
    given = org_pb2.Role.ValueType(role)
    member = org_pb2.Member(org_id=world.org_id, user_id=world.people[whom].user_id, role=given)
    call = world.people[by].orgs.UpdateMember(org_pb2.UpdateMemberRequest(member=member))
    if await world.expect(call, same or changes, LAST_OWNER):
        model.roles[whom] = role


async def remove(world: World, by: int, whom: int) -> None:
    model = world.model
    allowed = whom in model.roles and not model.last_owner(whom)
    allowed = allowed and (model.may_rule(by, model.roles[whom]) or (by == whom and model.active(by)))
    call = world.people[by].orgs.RemoveMember(org_pb2.RemoveMemberRequest(**world.whom(whom)))
    if await world.expect(call, allowed, LAST_OWNER):
        model.leave(whom)


async def suspend(world: World, by: int, whom: int) -> None:
    model = world.model
    allowed = by != whom and whom in model.roles and model.may_rule(by, model.roles[whom])
    call = world.people[by].orgs.SuspendMember(org_pb2.SuspendMemberRequest(**world.whom(whom)))
    if await world.expect(call, allowed and not model.last_owner(whom), LAST_OWNER, INVALID):
        model.suspended.add(whom)


async def reinstate(world: World, by: int, whom: int) -> None:
    model = world.model
    call = world.people[by].orgs.ReinstateMember(org_pb2.ReinstateMemberRequest(**world.whom(whom)))
    if await world.expect(call, whom in model.roles and model.may_rule(by, model.roles[whom])):
        model.suspended.discard(whom)


async def add_to_team(world: World, by: int, whom: int, team: int) -> None:
    model = world.model
    allowed = model.administers(by) and whom in model.roles and team in model.teams
    call = team_calls.add(world.people[by], world.org_id, world.teams[team], world.people[whom].user_id)
    if await world.expect(call, allowed):
        model.teams[team].add(whom)


async def take_out_of_team(world: World, by: int, whom: int, team: int) -> None:
    model = world.model
    allowed = whom in model.teams.get(team, ()) and (model.administers(by) or (by == whom and model.active(by)))
    call = team_calls.take_out(world.people[by], world.org_id, world.teams[team], world.people[whom].user_id)
    if await world.expect(call, allowed):
        model.teams[team].discard(whom)


async def delete_team(world: World, by: int, team: int) -> None:
    model = world.model
    call = team_calls.delete_group(world.people[by], world.org_id, world.teams[team])
    if await world.expect(call, model.administers(by) and team in model.teams):
        model.forget(("team", team))
        del model.teams[team]


async def share(world: World, by: int, workspace: int, member: tuple[str, int], role: int) -> None:
    model = world.model
    exists = member[1] in (model.roles if member[0] == "person" else model.teams)
    call = workspace_calls.share(world.people[by], world.workspaces[workspace], role, **world.of(*member))
    if await world.expect(call, exists and "share" in model.may(by, workspace)):
        model.members[workspace][member] = role


async def unshare(world: World, by: int, workspace: int, member: tuple[str, int]) -> None:
    model = world.model
    may = model.may(by, workspace)
    allowed = "share" in may or (member == ("person", by) and "see" in may)
    call = workspace_calls.unshare(world.people[by], world.workspaces[workspace], **world.of(*member))
    if await world.expect(call, allowed and member in model.members[workspace]):
        del model.members[workspace][member]


async def set_visibility(world: World, by: int, workspace: int, visibility: int) -> None:
    call = workspace_calls.set_visibility(world.people[by], world.workspaces[workspace], visibility)
    if await world.expect(call, "share" in world.model.may(by, workspace)):
        world.model.visibility[workspace] = visibility


async def delete_workspace(world: World, by: int, workspace: int) -> None:
    request = workspace_pb2.DeleteWorkspaceRequest(workspace_id=world.workspaces[workspace])
    call = world.people[by].workspaces.DeleteWorkspace(request)
    if await world.expect(call, "delete" in world.model.may(by, workspace)):
        del world.model.visibility[workspace]


async def talk(world: World, by: int, workspace: int) -> None:
    person, workspace_id = world.people[by], world.workspaces[workspace]
    if await world.expect(make_conversation(person, workspace_id), "talk" in world.model.may(by, workspace)):
        request = chat_pb2.ListConversationsRequest(workspace_id=workspace_id, page_size=1)
        latest = (await person.chat.ListConversations(request)).conversations[0]
        world.conversations.append((by, workspace, latest.conversation_id))


PERSON, TEAM, WORKSPACE = st.integers(0, 3), st.integers(0, 1), st.integers(0, 1)
BY = st.sampled_from([0, 0, 0, 1, 1, 2, 3])  # the first is an owner at the beginning
ORG_ROLE = st.sampled_from([OWNER, ADMIN, MEMBER, VIEWER, BILLING])
ROLE = st.sampled_from([READER, EDITOR, MANAGER])
IN_IT = st.one_of(st.tuples(st.just("person"), PERSON), st.tuples(st.just("team"), TEAM))
CHANGE = st.one_of(
    st.tuples(st.just(invite), BY, PERSON, ORG_ROLE),
    st.tuples(st.just(set_role), BY, PERSON, ORG_ROLE),
    st.tuples(st.just(remove), BY, PERSON),
    st.tuples(st.just(suspend), BY, PERSON),
    st.tuples(st.just(reinstate), BY, PERSON),
    st.tuples(st.just(add_to_team), BY, PERSON, TEAM),
    st.tuples(st.just(take_out_of_team), BY, PERSON, TEAM),
    st.tuples(st.just(delete_team), BY, TEAM),
    st.tuples(st.just(share), BY, WORKSPACE, IN_IT, ROLE),
    st.tuples(st.just(unshare), BY, WORKSPACE, IN_IT),
    st.tuples(st.just(set_visibility), BY, WORKSPACE, st.sampled_from([OPEN, CLOSED])),
    st.tuples(st.just(delete_workspace), BY, WORKSPACE),
    st.tuples(st.just(talk), PERSON, WORKSPACE),
    st.tuples(st.just(talk), PERSON, WORKSPACE),
)


@pytest.fixture(scope="module")
async def four(new_person: NewPerson) -> list[Person]:
    return [await new_person() for _ in range(4)]


async def begin(people: list[Person]) -> World:
    """An owner, a member and a viewer; a workspace for all and one of the member's, with a team of the viewer in it."""
    founder, member, viewer, _ = people
    org_id = await make_org(founder)
    await join(founder, org_id, member, org_pb2.ROLE_MEMBER)
    await join(founder, org_id, viewer, org_pb2.ROLE_VIEWER)
    teams = [await team_calls.make_group(founder, org_id, viewer), await team_calls.make_group(founder, org_id)]
    workspaces = [await make_workspace(founder, org_id), await make_workspace(member, org_id, visibility=CLOSED)]
    await workspace_calls.share(founder, workspaces[1], EDITOR, team_id=teams[0])
    model = Model({0: OWNER, 1: MEMBER, 2: VIEWER}, teams={0: {2}, 1: set()}, visibility={0: OPEN, 1: CLOSED})
    model.members = {0: {("person", 0): MANAGER}, 1: {("person", 1): MANAGER, ("team", 0): EDITOR}}
    return World(model, people, org_id, teams, workspaces)


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck))
@given(changes=st.lists(CHANGE, min_size=5, max_size=20))
async def test_after_any_changes_everybody_sees_and_may_do_what_the_model_says(
    changes: list[tuple[Callable[..., Any], Any]], four: list[Person]
) -> None:
    world = await begin(four)
    for change, *values in changes:
        await change(world, *values)
        for who in range(len(four)):
            assert await reach(world, who) == expected_reach(world, who)
    for who in range(len(four)):
        assert await listed(world, who) == expected_list(world, who)
        for workspace in range(len(world.workspaces)):
            assert await own_conversations(world, who, workspace) == expected_conversations(world, who, workspace)
        for conversation in world.conversations:
            assert await use(world, who, conversation) == expected_use(world, who, conversation)


async def reach(world: World, who: int) -> list[str]:
    """What comes of reading each workspace. The server remembers it when the next change comes."""
    requests = [workspace_pb2.GetWorkspaceRequest(workspace_id=workspace_id) for workspace_id in world.workspaces]
    return [await outcome(world.people[who].workspaces.GetWorkspace(request)) for request in requests]


def expected_reach(world: World, who: int) -> list[str]:
    return [OK if "see" in world.model.may(who, number) else NOT_FOUND for number in range(len(world.workspaces))]


async def listed(world: World, who: int) -> list[str] | str:
    """The ids of the workspaces that are listed, or what comes of the call."""
    call = world.people[who].workspaces.ListWorkspaces(workspace_pb2.ListWorkspacesRequest(org_id=world.org_id))
    if (result := await outcome(call)) != OK:
        return result
    return [each.workspace_id for each in (await call).workspaces]


def expected_list(world: World, who: int) -> list[str] | str:
    if not world.model.active(who):
        return NOT_FOUND
    return [each for number, each in enumerate(world.workspaces) if "see" in world.model.may(who, number)]


async def own_conversations(world: World, who: int, workspace: int) -> set[str] | str:
    """The ids of the conversations that are listed, or what comes of the call."""
    request = chat_pb2.ListConversationsRequest(workspace_id=world.workspaces[workspace])
    call = world.people[who].chat.ListConversations(request)
    if (result := await outcome(call)) != OK:
        return result
    return {each.conversation_id for each in (await call).conversations}


def expected_conversations(world: World, who: int, workspace: int) -> set[str] | str:
    if "see" not in world.model.may(who, workspace):
        return NOT_FOUND
    return {each for by, where, each in world.conversations if (by, where) == (who, workspace)}


async def use(world: World, who: int, conversation: Conversation) -> tuple[str, str]:
    """What comes of reading a conversation and of writing in it."""
    *_, conversation_id = conversation
    get = chat_pb2.GetConversationRequest(conversation_id=conversation_id)
    person = world.people[who]
    return await outcome(person.chat.GetConversation(get)), await send_nothing(person, conversation_id)


def expected_use(world: World, who: int, conversation: Conversation) -> tuple[str, str]:
    by, workspace, _ = conversation
    may = world.model.may(who, workspace) if who == by else set[str]()
    if "see" not in may:
        return NOT_FOUND, NOT_FOUND
    return OK, INVALID if "talk" in may else PERMISSION_MISSING


async def send_nothing(person: Person, conversation_id: str) -> str:
    """What comes of a message without content, which only those are told of who may send one."""

    async def send() -> Message:
        stream = person.chat.SendMessage(chat_pb2.SendMessageRequest(conversation_id=conversation_id))
        response: Message = await stream.read()
        return response

    return await outcome(send())
