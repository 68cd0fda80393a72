"""What dead processes left behind is brought to its end.

Every run that was in progress has an open claim that names its server, so a run whose server is not alive is an orphan.
Whoever takes its claim over first works on it.
"""

import asyncio
import time
from collections.abc import Mapping
from uuid import UUID

import structlog

from ..kit.ids import new_id
from ..kit.stores import STORE_UNAVAILABLE, retry_until_available
from ..policies.plan import Plans
from . import claims, events
from .engine import Engine
from .leftovers import recover_run
from .models import EventBatch
from .relay import Relay
from .runs import Runs
from .store import ChatStore

_AT_ONCE = 8
_POSTPONED_SECONDS = 60.0  # until a run that could not be recovered is tried again

log = structlog.get_logger("recovery")


class Recovery:
    """Takes over the runs of dead processes, and those that this process could not bring to their end itself."""

    def __init__(self, engine: Engine, plans: Plans, runs: Runs, relay: Relay) -> None:
        self._engine = engine
        self._db = engine.db
        self._mongo = engine.mongo
        self._plans = plans
        self._runs = runs
        self._relay = relay
        self._postponed: dict[UUID, float] = {}  # until when

    async def take_over(self) -> None:
        async with self._db.write() as tx:
            ended = await claims.end_leases(tx)
            orphans = await claims.list_orphaned(tx)
        for server in ended:
            log.warning("a server has died", server_id=str(server.id), name=server.name)
        turns = asyncio.Semaphore(_AT_ONCE)

        async def in_turn(orphan: claims.Found) -> None:
            async with turns:
                await self._take(orphan)

        await asyncio.gather(*(in_turn(orphan) for orphan in orphans if self._is_due(orphan.run_id)))

    def _is_due(self, run_id: UUID) -> bool:
        return self._postponed.get(run_id, 0.0) <= time.monotonic()

    async def _take(self, orphan: claims.Found) -> None:
        server_id = self._engine.server_id
        try:
            async with self._db.write(orphan.org_id) as tx:
                claim = await claims.take(tx, orphan, server_id)
            if claim is None:
                return
            state = await self._recover(orphan, claim.stop or "")
            self._postponed.pop(orphan.run_id, None)
            log.info("recovered", run_id=str(orphan.run_id), state=state)
        except STORE_UNAVAILABLE as error:  # whatever was committed of it
            log.warning("not recovered, trying again", run_id=str(orphan.run_id), error=type(error).__name__)
            await retry_until_available(lambda: self._give_up(orphan, server_id))
        except Exception:
            log.exception("not recovered", run_id=str(orphan.run_id))  # one bad document must not keep the server down
            self._postponed[orphan.run_id] = time.monotonic() + _POSTPONED_SECONDS
            await retry_until_available(lambda: self._give_up(orphan, server_id))

    async def _give_up(self, orphan: claims.Found, server_id: UUID) -> None:
        async with self._db.write(orphan.org_id) as tx:
            await claims.give_up(tx, orphan.run_id, server_id)

    async def _recover(self, orphan: claims.Found, stopped: str) -> str:
        """Ends the run, in the state in which somebody wanted it to end, or goes on with it. Returns which it was."""
        relayed, stream = await self._relay.take_over(orphan.run_id)
        if relayed:
            await _save_relayed(ChatStore(self._mongo, orphan.org_id), orphan.run_id, relayed)
        ids = orphan.org_id, orphan.run_id, orphan.conversation_id
        found = await recover_run(self._engine, self._plans, self._runs.pace, *ids, stopped)
        if isinstance(found, str):
            return found
        self._runs.resume(found, stream)
        return "resumed"


async def _save_relayed(store: ChatStore, run_id: UUID, relayed: Mapping[int, bytes]) -> None:
    """Stores what readers have seen and the dead server had not stored, so that it stays.

    Only what follows the last event that is stored: a server that went on without Redis told nothing there, and what
    stands there was said by one before it.
    """
    last = await store.last_event(run_id)
    if last is None or relayed.get(sequence := events.decode(last).sequence) != last:
        return
    sequence += 1
    first = sequence
    while sequence in relayed:
        sequence += 1
    if sequence > first:
        unstored = [relayed[number] for number in range(first, sequence)]
        await store.save_events(EventBatch(_id=new_id(), run_id=run_id, first=first, events=unstored))
