"""Rules of workspaces, and the lookup of a workspace's organization and the caller's roles in it."""

from typing import Any
from uuid import UUID

from aiworkspace.v1 import event_pb2 as event

from ..auth.authority import WORKSPACE_PERMISSIONS, Principal, Scope, principal_of, sees
from ..events.outbox import append
from ..kit.caches import TtlCache
from ..kit.context import Call
from ..kit.errors import InvalidArgument, NotFound, check_etag
from ..kit.ids import new_id
from ..kit.postgres import Database, ReadSession, WriteSession
from ..kit.timestamps import now
from ..orgs import granting
from ..orgs import service as orgs
from ..orgs.holds import check_workspace
from ..policies import store as policies
from ..policies.policy import parse
from . import members, store
from .models import Workspace, WorkspaceMember

DEFAULT_MODEL = "echo/echo"
_MOST_CACHED = 50_000
_FRESH_SECONDS = 1.0  # how long a change made by another process may go unnoticed


class WorkspaceFinder:
    """Finds the organization of a workspace and the caller's roles in it. Visible workspaces are cached for a second.

    Invisible ones are not cached: they would be answered faster than ids that do not exist.
    """

    def __init__(self, db: Database) -> None:
        self._db = db
        self.remembered: TtlCache[tuple[UUID, UUID, UUID | None], Scope] = TtlCache(_MOST_CACHED, _FRESH_SECONDS)
        self._changes = 0

    async def find(self, call: Call, workspace_id: UUID) -> Scope | None:
        """Return the scope, or None if the caller is not in its organization or the workspace was deleted."""
        caller = principal_of(call)
        scope = None if call.fresh else self.remembered.get((workspace_id, caller.user_id, caller.key_id))
        return scope or await self._load(caller, workspace_id)

    async def _load(self, caller: Principal, workspace_id: UUID) -> Scope | None:
        changes = self._changes
        scope = await store.find_scope(self._db, workspace_id, caller.user_id)
        if scope and sees(caller, scope) and changes == self._changes:  # else it may be older than a change
            self.remembered[workspace_id, caller.user_id, caller.key_id] = scope
        return scope

    def forget(self, workspace_id: UUID) -> None:
        """Drop a workspace from the cache."""
        self._changes += 1
        self.remembered.remove_where(lambda key, _: key[0] == workspace_id)

    def forget_all(self) -> None:
        """Drop all workspaces from the cache: after changes of teams, which may be in any of them."""
        self._changes += 1
        self.remembered.clear()


async def default_model(tx: ReadSession, org_id: UUID) -> str:
    """Return the default model of new workspaces, by the organization's policy."""
    row = await policies.find_policy(tx, org_id)
    return parse(row.policy if row else None).default_model or DEFAULT_MODEL


async def create_workspace(tx: WriteSession, org_id: UUID, values: dict[str, Any], creator: Principal) -> Workspace:
    """Create a workspace, with the creator as its manager."""
    await orgs.lock_org(tx, org_id, "org_id")
    await granting.check_may_grant(tx, creator)  # raises if the creator was just removed
    time = now()
    workspace = Workspace(org_id=org_id, id=new_id(), **values, version=1, create_time=time, update_time=time)
    tx.add(workspace)
    await tx.flush()  # before the membership that refers to it
    whose = {"org_id": org_id, "workspace_id": workspace.id, "user_id": creator.user_id}
    tx.add(WorkspaceMember(**whose, role="manager", create_time=time))
    append(tx, event.EVENT_TYPE_WORKSPACE_CREATED, workspace_id=workspace.id)
    return workspace


async def update_workspace(tx: WriteSession, workspace_id: UUID, etag: str, values: dict[str, Any]) -> Workspace:
    if "name" in values and not values["name"]:
        raise InvalidArgument({"workspace.name": "must not be empty"})
    workspace = await store.lock_workspace(tx, workspace_id)
    if workspace is None:
        raise NotFound("workspace.workspace_id")
    check_etag(etag, workspace.version, "workspace.etag")
    for name, value in values.items():
        setattr(workspace, name, value)
    workspace.version += 1
    workspace.update_time = now()
    append(tx, event.EVENT_TYPE_WORKSPACE_UPDATED, workspace_id=workspace_id)
    return workspace


async def delete_workspace(tx: WriteSession, org_id: UUID, workspace_id: UUID, caller: Principal) -> None:
    workspace = await members.lock(tx, org_id, workspace_id)
    await members.check_may_give(tx, caller, workspace_id, frozenset())
    await check_workspace(tx, org_id, workspace_id)
    workspace.delete_time = now()
    append(tx, event.EVENT_TYPE_WORKSPACE_DELETED, workspace_id=workspace_id)


async def set_visibility(
    tx: WriteSession, org_id: UUID, workspace_id: UUID, visibility: str, caller: Principal
) -> Workspace:
    """Open or close a workspace. The caller needs every permission of a manager, as this gives or takes them."""
    workspace = await members.lock(tx, org_id, workspace_id)
    await members.check_may_give(tx, caller, workspace_id, WORKSPACE_PERMISSIONS)
    if workspace.visibility != visibility:
        workspace.visibility = visibility
        workspace.version += 1
        workspace.update_time = now()
        append(tx, event.EVENT_TYPE_WORKSPACE_UPDATED, workspace_id=workspace_id)
    return workspace
