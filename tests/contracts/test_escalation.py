"""Nobody grants what they lack: whatever somebody with one permission tries, nobody gets more than that from it."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import pytest
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.field_mask_pb2 import FieldMask
from google.protobuf.message_factory import GetMessageClass
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from aiworkspace.v1 import workspace_pb2
from aiworkspace_server.auth.authority import ROLES, WORKSPACE_ROLES
from aiworkspace_server.kit.ids import new_id
from tests.support.custom_roles import ALL, create, make_role, restrict
from tests.support.outcomes import OK, PERMISSION_MISSING, outcome
from tests.support.people import NewPerson, Person, make_workspace
from tests.support.postgres import Owner, as_owner
from tests.support.service_accounts import insert_account
from tests.support.staff import Team, make_team
from tests.support.stores import Stores
from tests.support.surface import ENDPOINTS, Endpoint, inside, name_of, random_id

MANAGING = ["member.manage", "role.manage", "invitation.manage", "team.manage", "service_account.manage"]
READING = ("Get", "List", "Verify", "Explain")
CHANGING = [
    endpoint
    for endpoint in ENDPOINTS
    if endpoint.access.permission and not endpoint.descriptor.name.startswith(READING)
]

Authority = Mapping[str, frozenset[str]]


async def authority(db: Owner, org_id: str) -> Authority:
    """What everybody and everything in an organization may do, could do, or offers."""

    async def rows(query: str) -> list[tuple[Any, ...]]:
        return await (await db.execute(query.encode(), {"org": org_id})).fetchall()

    own = {str(role_id): frozenset(names) for role_id, names in await rows(_OWN_ROLES)}
    found = {f"role {role_id}": names for role_id, names in own.items()}
    members = {}
    for user_id, role, role_id in await rows(_MEMBERS):
        members[user_id] = found[f"{user_id} in org"] = ROLES[role] if role != "custom" else own[str(role_id)]
    for workspace_id, user_id, role in await rows(_WORKSPACE_MEMBERS):
        name = f"{user_id} in workspace {workspace_id}"
        found[name] = found.get(name, frozenset()) | WORKSPACE_ROLES[role]
    for key_id, user_id, permissions in await rows(_KEYS):
        found[f"key {key_id}"] = frozenset(permissions) & members[user_id]
    for invitation_id, role, role_id in await rows(_INVITATIONS):
        found[f"invitation {invitation_id}"] = ROLES[role] if role != "custom" else own[str(role_id)]
    return found


_OWN_ROLES = "SELECT id, permissions FROM custom_roles WHERE org_id = %(org)s"
_MEMBERS = "SELECT user_id, role, custom_role_id FROM memberships WHERE org_id = %(org)s AND suspend_time IS NULL"
_WORKSPACE_MEMBERS = """
SELECT w.workspace_id, coalesce(t.user_id, w.user_id), w.role
FROM workspace_members w LEFT JOIN team_members t ON t.org_id = w.org_id AND t.team_id = w.team_id
WHERE w.org_id = %(org)s
"""
_KEYS = "SELECT id, user_id, permissions FROM api_keys WHERE org_id = %(org)s AND revoke_time IS NULL"
_INVITATIONS = """
SELECT id, role, custom_role_id FROM invitations
WHERE org_id = %(org)s AND accept_time IS NULL AND revoke_time IS NULL AND expire_time > now()
"""


MASKS: list[list[str]] = [[], ["role"], ["custom_role_id"], ["role", "custom_role_id"], ["permissions"], ["name"]]
OTHER_VALUES: dict[str, list[Any]] = {
    "role": [1, 2, 3, 4, 5, 6, 6],
    "permissions": ALL,
    "visibility": [1, 2],
    "name": ["Something"],
    "email": ["somebody@example.com"],
}


@dataclass(frozen=True)
class Plot:
    """An organization in which its member tries to get more, and what there is to put into requests."""

    team: Team
    values: dict[str, list[Any]]

    def request(self, endpoint: Endpoint, data: st.DataObject) -> Any:
        request = GetMessageClass(endpoint.descriptor.input_type)()
        self._fill(request, data)
        return request

    def _fill(self, message: Any, data: st.DataObject) -> None:
        for field in message.DESCRIPTOR.fields:
            if field.name == "update_mask":
                message.update_mask.CopyFrom(FieldMask(paths=data.draw(st.sampled_from(MASKS))))
            elif field.type == FieldDescriptor.TYPE_MESSAGE and field.message_type.full_name.startswith("aiworkspace."):
                self._fill(inside(message, field.name), data)
            elif field.is_repeated and field.name in self.values:
                some = st.lists(st.sampled_from(self.values[field.name]), unique=True, max_size=4)
                getattr(message, field.name).extend(data.draw(some))
            elif field.name in self.values:
                setattr(message, field.name, data.draw(st.sampled_from(self.values[field.name])))


@pytest.fixture(scope="module")
async def backend(staff: dict[str, Person], new_person: NewPerson) -> Person:
    """A connection for service accounts."""
    return await new_person()


async def make_plot(staff: dict[str, Person], backend: Person, permission: str, db: Owner, stores: Stores) -> Plot:
    """Powerful roles, teams, keys and people are within the reach of somebody with one permission."""
    team = await make_team(staff)
    org_id, team_id = team.org_id, str(new_id())
    own = await restrict(team, team.member, permission)
    roles = [own, await make_role(team.owner, org_id, *ALL), await make_role(team.owner, org_id, permission)]
    await insert_account(stores, org_id, "admin", backend, *ALL)
    closed = workspace_pb2.WORKSPACE_VISIBILITY_MEMBERS
    workspaces = [await make_workspace(team.owner, org_id, visibility=seen) for seen in (closed, 0)]
    await db.execute("INSERT INTO teams VALUES (%s, %s, 'Team', 1, now(), now())", (org_id, team_id))
    for workspace_id in workspaces:
        await db.execute(
            "INSERT INTO workspace_members (org_id, workspace_id, team_id, role, create_time)"
            " VALUES (%s, %s, %s, 'manager', now())",
            (org_id, workspace_id, team_id),
        )
    keys = await (await db.execute("SELECT id::text FROM api_keys WHERE org_id = %s", (org_id,))).fetchall()
    invitations = await (await db.execute("SELECT id::text FROM invitations WHERE org_id = %s", (org_id,))).fetchall()
    people = [person.user_id for person in (team.member, team.viewer, team.admin, team.owner, backend)]
    values = {
        **OTHER_VALUES,
        "org_id": [org_id],
        "user_id": people,
        "custom_role_id": ["", *roles],
        "team_id": [team_id, ""],
        "workspace_id": workspaces,
        "workspace_ids": workspaces,
        "api_key_id": [keys[0][0]],
        "invitation_id": [invitations[0][0]],
        "conversation_id": [random_id()],
        "run_id": [random_id()],
    }
    return Plot(team, values)


@pytest.mark.parametrize("permission", MANAGING)
@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
async def test_whoever_has_one_permission_finds_no_way_to_more(
    permission: str, data: st.DataObject, staff: dict[str, Person], backend: Person, stores: Stores
) -> None:
    usable = [endpoint for endpoint in CHANGING if endpoint.access.permission == permission]
    async with as_owner(stores) as db:
        plot = await make_plot(staff, backend, permission, db, stores)
        before = await authority(db, plot.team.org_id)
        for _ in range(15):
            endpoint = data.draw(st.sampled_from(usable * 3 + CHANGING))
            request = plot.request(endpoint, data)
            held = before.get(f"{plot.team.member.user_id} in org", frozenset())
            await endpoint.call(plot.team.member, request)
            after = await authority(db, plot.team.org_id)
            assert list(excesses(before, after, held, plot.team.member.user_id)) == [], f"{name_of(endpoint)} {request}"
            before = after


def excesses(before: Authority, after: Authority, held: frozenset[str], caller_id: str) -> Iterator[str]:
    """What somebody gave or took without having it; except for what is their own, which they may leave."""
    for name in before.keys() | after.keys():
        old, new = before.get(name, frozenset()), after.get(name, frozenset())
        if given := sorted(new - old - held):
            yield f"gave {name} {given}"
        taken = sorted(old - new - held)
        if taken and not name.startswith(caller_id):
            yield f"took {taken} from {name}"


@pytest.mark.parametrize("permission", ALL)
async def test_nobody_with_one_permission_makes_a_role_of_another(permission: str, staff: dict[str, Person]) -> None:
    team = await make_team(staff)
    await restrict(team, team.member, *{"role.manage", permission})
    for other in ALL:
        expected = OK if other in ("role.manage", permission) else PERMISSION_MISSING
        assert await outcome(create(team.member, team.org_id, other)) == expected, other
