"""Ending runs that are in progress, wherever they are.

The wish stands in the claim of the run, so that it outlives the process that works on it. The process is told at once
through the relay, and looks at its claims now and then in case it did not hear.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement

from ..kit.postgres import Database, WriteSession
from ..usage import ledger
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
            await self.and_wait(org_id, RunClaim.run_id == run_id)

    async def of_unentitled(self, org_id: UUID) -> None:
        """Cancel the runs in an organization whose owners have lost the right to them, without waiting for their end.

        For who has just committed that somebody may do less; see rights.py.
        """
        async with self._db.write(org_id) as tx:
            await ledger.count_alone(tx, org_id)  # which waits for every start that may not have seen the change
        # In a transaction of its own: attempts lock the claims of their runs before they ask for the ledger's lock.
        await self._stop(org_id, claims.stop_unentitled)

    async def and_wait(self, org_id: UUID, which: ColumnElement[bool]) -> None:
        """Cancel the open ones among these runs and wait until they have ended."""
        for run_id in await self._stop(org_id, lambda tx: claims.stop(tx, which)):
            await self._runs.wait_for_end(org_id, run_id)

    async def _stop(self, org_id: UUID, mark: Callable[[WriteSession], Awaitable[Sequence[UUID]]]) -> Sequence[UUID]:
        async with self._db.write(org_id) as tx:
            run_ids = await mark(tx)
        self._runs.stop(run_ids)
        await self._relay.tell(run_id for run_id in run_ids if self._runs.find(run_id) is None)
        return run_ids
