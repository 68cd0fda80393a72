"""The right to a run, checked in the database: its owner must hold chat.send in its workspace.

Callers are authorized with what is up to a second old. So the transaction that starts a run checks again, after it has
taken the ledger's lock and in a statement of its own, which sees all that is committed by then. Whoever takes a right
away commits that, waits until nobody holds the lock, and then stops the runs that are left without it: a start that had
the lock before is among those, and one that gets it later sees the change.
"""

from collections.abc import Mapping
from dataclasses import asdict
from uuid import UUID

from sqlalchemy import text

from ..auth.authority import ADMINISTER, ROLES, WORKSPACE_ROLES
from ..kit.postgres import ReadSession
from ..usage.ledger import Spender

_SEND = "chat.send"


def _roles_with(roles: Mapping[str, frozenset[str]], permission: str) -> list[str]:
    return sorted(name for name, permissions in roles.items() if permission in permissions)


# The built-in roles that give the right, for the parameters of may_run.
ROLES_THAT_RUN = {
    "administering": _roles_with(ROLES, ADMINISTER),
    "sending": _roles_with(ROLES, _SEND),
    "sending_inside": _roles_with(WORKSPACE_ROLES, _SEND),
}
_PASSED = "CAST(:administering AS text[]), CAST(:sending AS text[]), CAST(:sending_inside AS text[])"
# Whether the right to a row of run_claims is still there.
MAY_RUN = f"may_run(org_id, workspace_id, user_id, key_id, {_PASSED})"
LIST_STOPPED = text(f"SELECT list_stopped_runs(:server_id, {_PASSED})")

# A session may have ended since its call began; find_principal has the same leeway. A run outlives its session.
_CHECK = text(f"""
  SELECT may_run(:org_id, :workspace_id, :user_id, CAST(:key_id AS uuid), {_PASSED})
    AND (CAST(:session_id AS uuid) IS NULL OR EXISTS (
      SELECT FROM sessions
      WHERE id = CAST(:session_id AS uuid) AND revoke_time IS NULL
        AND expire_time > clock_timestamp() - interval '60 seconds'))
""")


class RightLost(Exception):
    """The caller has no right, or no longer a right, to this run."""


async def check(tx: ReadSession, spender: Spender, session_id: UUID | None = None) -> None:
    """Raises RightLost. `session_id`: of a call that starts the run."""
    values = asdict(spender) | ROLES_THAT_RUN | {"session_id": session_id}
    if not (await tx.execute(_CHECK, values)).scalar_one():
        raise RightLost
