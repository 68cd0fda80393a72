"""A workspace that one may not see costs as many questions as one that does not exist: its time tells nothing."""

import uuid
from collections.abc import Awaitable

import pytest

from aiworkspace_server.app import App
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import connections, make_workspace
from tests.support.service_accounts import OF_WORKSPACES, make_account, make_key
from tests.support.staff import Team
from tests.support.statements import statements
from tests.support.workspaces import CLOSED, get_workspace


async def look_ups(app: App, call: Awaitable[object]) -> list[str]:
    """How the server looks for workspaces meanwhile."""
    with statements(app, "find_workspace") as found:
        assert await outcome(call) == NOT_FOUND
    return [statement.text for statement in found]


@pytest.mark.parametrize("times", [1, 3])
async def test_a_closed_workspace_is_asked_for_as_often_as_a_random_id(times: int, team: Team, app: App) -> None:
    closed = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    nobodys = str(uuid.uuid4())
    for _ in range(times):
        there = await look_ups(app, get_workspace(team.member, closed))
        assert there == await look_ups(app, get_workspace(team.member, nobodys))
        assert len(there) == 2, "what is remembered, and what is so now: nothing was remembered"


async def test_a_workspace_beyond_a_key_is_asked_for_as_often_as_a_random_id(team: Team, app: App) -> None:
    """Also while another key of the same account reaches it."""
    near, far = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    user_id = await make_account(team.owner, team.org_id)
    limited = await make_key(team.owner, team.org_id, user_id, OF_WORKSPACES, workspace_ids=[near])
    free = await make_key(team.owner, team.org_id, user_id, OF_WORKSPACES)
    async with connections(app.address) as new_backend:
        other, backend = new_backend(free.secret), new_backend(limited.secret)
        await get_workspace(other, far)
        assert await look_ups(app, get_workspace(backend, far)) == await look_ups(
            app, get_workspace(backend, str(uuid.uuid4()))
        )
