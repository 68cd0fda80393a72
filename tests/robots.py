"""Service accounts with API keys, made without the calls that make them."""

import uuid
from collections.abc import Sequence

from aiworkspace_server.auth.api_keys import new_key, secret_hash
from tests.backdoor import sql
from tests.conftest import Stores
from tests.people import Person

_USER = (
    "INSERT INTO users (id, kind, display_name, create_time, update_time) VALUES (%s, 'service', 'Robot', now(), now())"
)
_MEMBER = "INSERT INTO memberships (org_id, user_id, role, create_time) VALUES (%s, %s, %s, now())"
_KEY = """
INSERT INTO api_keys (org_id, id, user_id, name, prefix, secret_hash, permissions, workspaces_limited, creator_id,
                      create_time)
VALUES (%s, %s, %s, 'Key', 'aiws_', %s, %s, %s, %s, now())
"""


async def make_robot(
    stores: Stores,
    address: str,
    org_id: str,
    role: str,
    permissions: Sequence[str],
    workspace_ids: Sequence[str] | None = None,
) -> Person:
    """Calls with a key of these permissions, in these workspaces or all. To be closed by the caller."""
    robot, key, key_id = Person(address), new_key(), uuid.uuid4()
    robot.user_id = str(uuid.uuid4())
    await sql(stores, _USER, robot.user_id)
    await sql(stores, _MEMBER, org_id, robot.user_id, role)
    limited = workspace_ids is not None
    whose = key_id, robot.user_id, secret_hash(key), list(permissions), limited, robot.user_id
    await sql(stores, _KEY, org_id, *whose)
    for workspace_id in workspace_ids or ():
        await sql(stores, "INSERT INTO api_key_workspaces VALUES (%s, %s, %s)", org_id, key_id, workspace_id)
    robot.bearer.token = key
    return robot
