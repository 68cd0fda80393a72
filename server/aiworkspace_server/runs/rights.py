"""The right to a run, checked in the database: its owner must hold chat.send in its workspace.

Callers are authorized with what is up to a second old. So the transaction that starts a run checks again, after it has
taken the ledger's lock and in a statement of its own, which sees all that is committed by then: see start_run in
migration 0012. A change that takes a right away is committed, then waits until nobody holds the lock, and then cancels
the runs that are left without the right: a start that had the lock before is among those, and one that gets it later
sees the change.
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

_READ = "document.read"
ROLES_THAT_READ = {
    "administering": _roles_with(ROLES, ADMINISTER),
    "reading": _roles_with(ROLES, _READ),
    "reading_inside": _roles_with(WORKSPACE_ROLES, _READ),
}
_MAY_READ = text(
    "SELECT may_read_documents(:org_id, :workspace_id, :user_id, CAST(:key_id AS uuid),"
    " CAST(:administering AS text[]), CAST(:reading AS text[]), CAST(:reading_inside AS text[]))"
)
_CHECK = text(f"SELECT may_run(:org_id, :workspace_id, :user_id, CAST(:key_id AS uuid), {_PASSED})")


class RightLost(Exception):
    """The caller has no right, or no longer a right, to this run."""


async def check(tx: ReadSession, spender: Spender) -> None:
    """Raise RightLost if the owner of a run may no longer have it."""
    if not (await tx.execute(_CHECK, asdict(spender) | ROLES_THAT_RUN)).scalar_one():
        raise RightLost


async def may_read_documents(
    tx: ReadSession, org_id: UUID, workspace_id: UUID, user_id: UUID, key_id: UUID | None
) -> bool:
    """Return whether the owner of a run may read documents of its workspace, also with the key that started it."""
    who = {"org_id": org_id, "workspace_id": workspace_id, "user_id": user_id, "key_id": key_id}
    return bool((await tx.execute(_MAY_READ, who | ROLES_THAT_READ)).scalar_one())
