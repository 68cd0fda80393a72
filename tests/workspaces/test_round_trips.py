"""What reading a workspace costs in statements."""

import re

from aiworkspace_server.app import App
from tests.support.people import make_workspace
from tests.support.staff import Team
from tests.support.statements import statements
from tests.support.workspaces import get_workspace


async def test_a_workspace_takes_one_statement_beside_those_of_authorization(team: Team, app: App) -> None:
    """Those are made again after a second, and none is a transaction of several round trips."""
    workspace_id = await make_workspace(team.owner, team.org_id)
    await get_workspace(team.member, workspace_id)
    with statements(app, calls_only=True) as sent:
        for _ in range(3):
            await get_workspace(team.member, workspace_id)
    functions = [re.findall(r"FROM (\w+)\(", text) for text, _ in sent]
    assert functions.count(["read_workspace"]) == 3
    assert {name for names in functions for name in names} <= {"find_principal", "find_workspace", "read_workspace"}
    assert [] not in functions
    assert len(functions) < 9, "authorization is remembered"
