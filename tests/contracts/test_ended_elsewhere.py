"""Whoever lost access over another process changes nothing by what this one remembers of them, which is up to a second.

The stores are changed here as another process changes them: this one is not told.
"""

from typing import Any

import grpc
import pytest

from aiworkspace.v1 import options_pb2 as options
from aiworkspace.v1 import org_pb2, workspace_pb2
from aiworkspace_server.kit.contract import read_methods
from aiworkspace_server.rpc import SERVICES
from tests.contracts.conftest import Estate
from tests.support.people import Person
from tests.support.service_accounts import EVERY, make_account, make_key
from tests.support.surface import CLOSED, SCOPES, Endpoint, name_of

METHODS = read_methods(SERVICES, SCOPES)
# The transaction that starts a run checks the right to it: see runs/test_rights.py.
CHANGES = [
    endpoint
    for endpoint in CLOSED
    if not METHODS[endpoint.path].reads and METHODS[endpoint.path].rate_limit != options.RATE_LIMIT_CLASS_GENERATE
]


async def be_remembered(person: Person, estate: Estate) -> None:
    ids = estate.ours.ids
    await person.orgs.GetOrg(org_pb2.GetOrgRequest(org_id=ids["org_id"]))
    await person.workspaces.GetWorkspace(workspace_pb2.GetWorkspaceRequest(workspace_id=ids["workspace_id"]))


async def change(estate: Estate, statement: str, *values: Any) -> None:
    await estate.postgres.execute(statement.encode(), values)


@pytest.fixture(scope="module")
async def second(estate: Estate) -> Person:
    """Another owner."""
    person: Person = await estate.new_person()
    values = estate.ours.ids["org_id"], person.user_id
    columns = "org_id, user_id, role, version, create_time"
    await change(estate, f"INSERT INTO memberships ({columns}) VALUES (%s, %s, 'owner', 1, now())", *values)
    return person


@pytest.mark.parametrize(
    "endpoint", [each for each in CHANGES if each.access.mode == options.ACCESS_MODE_PERMISSION], ids=name_of
)
async def test_nobody_changes_anything_after_a_suspension_elsewhere(
    endpoint: Endpoint, estate: Estate, second: Person
) -> None:
    whose = estate.ours.ids["org_id"], second.user_id
    await be_remembered(second, estate)
    await change(estate, "UPDATE memberships SET suspend_time = now() WHERE org_id = %s AND user_id = %s", *whose)
    found = await endpoint.call(second, endpoint.request(estate.ours.ids, optional=False))
    assert found.code == grpc.StatusCode.NOT_FOUND
    await change(estate, "UPDATE memberships SET suspend_time = NULL WHERE org_id = %s AND user_id = %s", *whose)


@pytest.mark.parametrize("endpoint", CHANGES, ids=name_of)
async def test_nothing_is_changed_with_a_session_that_ended_elsewhere(
    endpoint: Endpoint, estate: Estate, second: Person
) -> None:
    await second.log_in()
    await be_remembered(second, estate)
    await change(estate, "UPDATE sessions SET revoke_time = now() WHERE id = %s", second.tokens.session_id)
    found = await endpoint.call(second, endpoint.request(estate.ours.ids, optional=False))
    assert found.code == grpc.StatusCode.UNAUTHENTICATED
    await second.log_in()


async def test_nothing_is_changed_with_a_key_that_was_revoked_elsewhere(estate: Estate) -> None:
    owner, org_id = estate.ours.owner, estate.ours.ids["org_id"]
    made = await make_key(owner, org_id, await make_account(owner, org_id), EVERY)
    robot = Person(estate.app.address)
    robot.bearer.token = made.secret
    await be_remembered(robot, estate)
    await change(estate, "UPDATE api_keys SET revoke_time = now() WHERE id = %s", made.api_key.api_key_id)
    for endpoint in CHANGES:
        if endpoint.access.mode == options.ACCESS_MODE_PERMISSION:
            found = await endpoint.call(robot, endpoint.request(estate.ours.ids, optional=False))
            assert found.code == grpc.StatusCode.UNAUTHENTICATED, name_of(endpoint)
    await robot.channel.close()
