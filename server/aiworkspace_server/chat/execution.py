"""The work of one run: stream the answer, store it, settle it, end it."""

import asyncio
from contextlib import aclosing
from dataclasses import asdict
from typing import cast
from uuid import UUID

import structlog

from ..kit.ids import new_id
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.stores import insist
from ..kit.timestamps import now
from ..llm.base import ModelRequest, Provider, ProviderError, TokenUsage
from ..llm.prices import Price, price
from ..llm.tokens import usage_when_cut
from ..usage import ledger
from . import events
from .failures import INTERRUPTED, TIMED_OUT, failure_of
from .live import LiveRun
from .models import Cost, EventBatch, Message, Run, Usage
from .store import ChatStore

_STORE_SECONDS = 0.5  # how much of an answer a kill -9 may cost
_NOTHING = TokenUsage(0, 0, 0, 0, 0)

log = structlog.get_logger("runs")


class Execution:
    """Carries one run to its end. Whatever has to be stored is stored, however long a store is away."""

    def __init__(self, db: Database, mongo: Mongo, org_id: UUID, live: LiveRun, request: ModelRequest) -> None:
        self._db = db
        self._store = ChatStore(mongo, org_id)
        self._org_id = org_id
        self._live = live
        self._request = request
        self._failed_at_once = False

    async def run(self, provider: Provider, seconds: float) -> None:
        generated = asyncio.Event()
        storing = asyncio.create_task(self._store_events(generated))
        await self._generate(provider, seconds)
        generated.set()
        await storing
        await self.finish()

    async def _generate(self, provider: Provider, seconds: float) -> None:
        """Streams until the answer ends, fails, takes too long or is stopped, and notes in the run which it was."""
        live, run = self._live, self._live.run
        generation = live.generation = asyncio.create_task(self._stream(provider))
        if live.stop_state:
            generation.cancel()
        done, _ = await asyncio.wait({generation}, timeout=seconds)
        generation.cancel()
        await asyncio.wait({generation})
        live.finish_content()
        error = None if generation.cancelled() else generation.exception()
        if live.finish_reason:
            run["state"], run["finish_reason"] = "completed", live.finish_reason
        elif live.stop_state:
            run["state"], run["failure"] = live.stop_state, INTERRUPTED if live.stop_state == "interrupted" else None
        else:
            run["state"], run["failure"] = "failed", failure_of(error) if done else TIMED_OUT
            self._failed_at_once = isinstance(error, ProviderError) and not live.contents and not live.usage
            unexpected = None if isinstance(error, ProviderError | None) else error
            log.warning("run failed", run_id=str(run["_id"]), model=run["model"], error=str(error), exc_info=unexpected)

    async def _stream(self, provider: Provider) -> None:
        async with aclosing(provider.stream(self._request)) as reads:
            async for pieces in reads:
                self._live.take(pieces)

    async def _store_events(self, generated: asyncio.Event) -> None:
        """Stores what was sent since the last time, until the answer is there."""
        while not generated.is_set():
            try:
                await asyncio.wait_for(generated.wait(), _STORE_SECONDS)
            except TimeoutError:
                await self._store_batch(self._live.events[self._live.stored :])

    async def _store_batch(self, unstored: list[bytes]) -> None:
        if unstored:
            first = self._live.stored + 1
            batch = EventBatch(_id=new_id(), run_id=self._live.run["_id"], first=first, events=unstored)
            await insist(lambda: self._store.save_events(batch))
            self._live.stored += len(unstored)

    async def finish(self) -> None:
        """Stores the answer, the run and its last events, settles, and sends the terminal event.

        After a crash in between, recovery goes on from what is stored: hence the order.
        """
        live, run = self._live, self._live.run
        usage = self._usage()
        cost = price(run["model"], usage, run["create_time"])
        run["usage"] = cast(Usage, asdict(usage))
        run["cost"] = Cost(nanos=cost.nanos, currency=cost.currency, version=cost.version)
        run["end_time"] = now()
        message = self._answer()
        terminal = events.encode(run["_id"], live.next_sequence, **events.ended(run, message))
        if message:
            await insist(lambda: self._store.save_message(message))
        await insist(lambda: self._store.finish_run(run))
        await asyncio.gather(
            self._store_batch([*live.events[live.stored :], terminal]),
            insist(lambda: self._store.end_run(run["conversation_id"], run["_id"], len(self._said().encode()))),
        )
        await insist(lambda: settle(self._db, self._org_id, run))
        live.append(terminal)
        live.concluded = True

    def _usage(self) -> TokenUsage:
        """What the provider counted; an estimate where it did not, or not to the end of what was said."""
        live = self._live
        counted = live.usage if live.usage and live.usage.plausible else None
        if counted and (live.finish_reason or live.usage_is_current):
            return counted
        return _NOTHING if self._failed_at_once else usage_when_cut(self._request, self._said(), counted)

    def _said(self) -> str:
        return "".join(content["text"] for content in self._live.contents)

    def _answer(self) -> Message | None:
        run, contents = self._live.run, self._live.contents
        if not contents:
            return None
        return Message(
            _id=run["message_id"],
            conversation_id=run["conversation_id"],
            run_id=run["_id"],
            role="assistant",
            contents=contents,
            partial=run["state"] != "completed",
            model=run["model"],
            create_time=run["create_time"],
        )


async def settle(db: Database, org_id: UUID, run: Run) -> None:
    """Closes the reservation of a run that has ended, with an entry in the ledger unless nothing was used."""
    assert run["usage"], "only a run that has ended can be settled"
    assert run["cost"]
    usage, cost = TokenUsage(**run["usage"]), run["cost"]
    async with db.write(org_id) as tx:
        if usage == _NOTHING:
            await ledger.release(tx, run["_id"])
        else:
            await ledger.settle(tx, run["_id"], usage, Price(cost["nanos"], cost["version"], cost["currency"]))
