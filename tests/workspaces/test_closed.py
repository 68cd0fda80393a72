"""A workspace that one may not see costs as many questions as one that does not exist: its time tells nothing."""

import uuid
from typing import Any

import pytest
from sqlalchemy import event

from aiworkspace.v1 import workspace_pb2 as pb
from aiworkspace_server.app import App
from tests.support.outcomes import NOT_FOUND, outcome
from tests.support.people import make_workspace
from tests.support.service_accounts import OF_WORKSPACES, backends, make_account, make_key
from tests.support.sharing import CLOSED
from tests.support.staff import Team


async def questions(app: App, call: Any) -> list[str]:
    """The statements that PostgreSQL got meanwhile about workspaces."""
    asked: list[str] = []

    def note(_: Any, __: Any, statement: str, *___: Any) -> None:
        if "find_workspace" in statement:
            asked.append(statement)

    event.listen(app.db.engine.sync_engine, "before_cursor_execute", note)
    try:
        assert await outcome(call) == NOT_FOUND
    finally:
        event.remove(app.db.engine.sync_engine, "before_cursor_execute", note)
    return asked


def get(person: Any, workspace_id: str) -> Any:
    return person.workspaces.GetWorkspace(pb.GetWorkspaceRequest(workspace_id=workspace_id))


@pytest.mark.parametrize("times", [1, 3])
async def test_a_closed_workspace_is_asked_for_as_often_as_a_random_id(times: int, team: Team, app: App) -> None:
    closed = await make_workspace(team.owner, team.org_id, visibility=CLOSED)
    nobodys = str(uuid.uuid4())
    for _ in range(times):
        there = await questions(app, get(team.member, closed))
        assert there == await questions(app, get(team.member, nobodys))
        assert len(there) == 2, "what is remembered, and what is so now: nothing was remembered"


async def test_a_workspace_beyond_a_key_is_asked_for_as_often_as_a_random_id(team: Team, app: App) -> None:
    """Also while another key of the same account reaches it."""
    near, far = [await make_workspace(team.owner, team.org_id) for _ in range(2)]
    user_id = await make_account(team.owner, team.org_id)
    limited = await make_key(team.owner, team.org_id, user_id, OF_WORKSPACES, workspace_ids=[near])
    free = await make_key(team.owner, team.org_id, user_id, OF_WORKSPACES)
    async with backends(app.address) as new_backend:
        other, backend = new_backend(free.secret), new_backend(limited.secret)
        await get(other, far)
        assert await questions(app, get(backend, far)) == await questions(app, get(backend, str(uuid.uuid4())))
