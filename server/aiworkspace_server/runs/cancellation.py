"""Cancels runs in progress, whichever process executes them.

The request is stored in the claim of the run, so that it outlives the process that executes it. That process hears of
it at once through Redis, and polls its claims in case the message is lost.
"""

from collections.abc import Awaitable, Callable, Sequence
from uuid import UUID

from sqlalchemy import ColumnElement

from ..kit.postgres import Database, WriteSession
from ..usage import ledger
from . import claims
from .manager import RunManager
from .models import StopReason
from .streams.redis import RedisEventBus
from .tables import RunClaim


class Cancellation:
    def __init__(self, db: Database, manager: RunManager, bus: RedisEventBus) -> None:
        self._db = db
        self._manager = manager
        self._bus = bus

    async def cancel(self, org_id: UUID, run_id: UUID) -> None:
        """Cancel a run and wait until it has ended and is settled."""
        run = self._manager.find(run_id)
        if run:
            run.stop(StopReason.CANCELLED)
            await run.ended.wait()
        if run is None or not run.concluded:
            await self.cancel_all(org_id, RunClaim.run_id == run_id)

    async def cancel_all(self, org_id: UUID, which: ColumnElement[bool]) -> None:
        """Cancel the open ones among these runs and wait until they have ended."""
        for run_id in await self._request(org_id, lambda tx: claims.stop(tx, which)):
            await self._manager.wait_for_end(org_id, run_id)

    async def cancel_unentitled(self, org_id: UUID) -> None:
        """Cancel the runs in an organization whose owners have lost the right to them. Does not wait for their end.

        To be called once a change that takes rights away is committed; see rights.py.
        """
        async with self._db.write(org_id) as tx:
            await ledger.count_alone(tx, org_id)  # waits for every start that may not have seen the change
        # In a transaction of its own: attempts lock the claims of their runs before they ask for the ledger's lock.
        await self._request(org_id, claims.stop_unentitled)

    async def _request(self, org_id: UUID, mark: Callable[[WriteSession], Awaitable[Sequence[UUID]]]) -> Sequence[UUID]:
        async with self._db.write(org_id) as tx:
            run_ids = await mark(tx)
        self._manager.stop(run_ids)
        await self._bus.request_cancel(run_id for run_id in run_ids if self._manager.find(run_id) is None)
        return run_ids
