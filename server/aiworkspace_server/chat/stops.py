"""Ending runs that are in progress, wherever they are.

The wish stands in the claim of the run, so that it outlives the process that works on it. The process is told at once
through the relay, and looks at its claims now and then in case it did not hear.
"""

from collections.abc import Sequence
from contextlib import suppress
from uuid import UUID

from sqlalchemy import ColumnElement

from ..auth.authority import Principal
from ..kit.errors import NotFound
from ..kit.postgres import Database
from ..workspaces.members import held_now
from . import claims
from .relay import Relay
from .runs import Runs
from .tables import RunClaim


class Stops:
    def __init__(self, db: Database, runs: Runs, relay: Relay) -> None:
        self._db = db
        self._runs = runs
        self._relay = relay

    async def run(self, org_id: UUID, run_id: UUID) -> None:
        """Stops a run and waits until it has ended and is settled."""
        live = self._runs.find(run_id)
        if live:
            live.stop("cancelled")
            await live.ended.wait()
        if live is None or not live.concluded:
            await self._stop_and_wait(org_id, RunClaim.run_id == run_id)

    async def in_conversation(self, org_id: UUID, conversation_id: UUID) -> None:
        """Stops what is in progress in a conversation and waits for its end."""
        await self._stop_and_wait(org_id, RunClaim.conversation_id == conversation_id)

    async def of_member(self, org_id: UUID, user_id: UUID | None) -> None:
        """Stops what a person, or everybody, has in progress in an organization, without waiting for its end."""
        await self._stop(org_id, *((RunClaim.user_id == user_id,) if user_id else ()))

    async def of_unentitled(self, org_id: UUID, workspace_id: UUID | None = None) -> None:
        """Stops what people have in progress in a workspace, or anywhere in it, and may no longer ask for."""
        async with self._db.read(org_id) as tx:
            open_ = await claims.list_open(tx, workspace_id)
            workspaces: dict[UUID, set[UUID]] = {}
            for _, user_id, place in open_:
                workspaces.setdefault(user_id, set()).add(place)
            held: dict[UUID, dict[UUID, frozenset[str]]] = {user_id: {} for user_id in workspaces}
            for user_id, theirs in workspaces.items():
                with suppress(NotFound):  # of who is no longer a member
                    held[user_id] = await held_now(tx, Principal(user_id, None, None, {}), theirs)
        unentitled = [run_id for run_id, user_id, place in open_ if "chat.send" not in held[user_id].get(place, ())]
        if unentitled:
            await self._stop(org_id, RunClaim.run_id.in_(unentitled))

    async def _stop_and_wait(self, org_id: UUID, which: ColumnElement[bool]) -> None:
        for run_id in await self._stop(org_id, which):
            await self._runs.wait_for_end(org_id, run_id)

    async def _stop(self, org_id: UUID, *which: ColumnElement[bool]) -> Sequence[UUID]:
        async with self._db.write(org_id) as tx:
            run_ids = await claims.stop(tx, *which)
        self._runs.stop(run_ids)
        await self._relay.tell(run_id for run_id in run_ids if self._runs.find(run_id) is None)
        return run_ids
