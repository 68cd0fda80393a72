"""How a run ends: what is stored in which order, so that a crash in between loses nothing.

First the events, then that the run has ended, and how: who is the first to store that ends it, and everybody else
leaves it alone. What follows can be done again from what is stored then, by whoever finds it not done.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, fields
from itertools import islice
from typing import cast
from uuid import UUID

from ..kit.ids import new_id
from ..kit.postgres import WriteSession
from ..kit.stores import retry_until_available
from ..kit.timestamps import now
from ..llm.base import TokenUsage
from ..llm.prices import Price
from ..usage import ledger
from ..usage.ledger import Ledger
from ..usage.models import LedgerEntry
from . import claims, events
from .asking import ending as account
from .engine import Engine, LostRun
from .live import LiveRun
from .models import Content, Cost, Ending, EventBatch, Message, Run, Usage
from .parts import part
from .store import ChatStore

_BATCH_BYTES, _EVENT_BYTES = 4 * 2**20, 16


async def finish(engine: Engine, live: LiveRun, settled: Sequence[Ending], unsettled: Sequence[Ending]) -> None:
    """Ends a run that has its state. Raises LostRun when somebody else has ended it, or goes on with it."""
    run, store = live.run, ChatStore(engine.mongo, live.org_id)
    _sum_up(run, [*settled, *unsettled], unsettled)
    await store_events(store, live)
    if not await retry_until_available(lambda: store.finish_run(run)):
        raise LostRun
    terminal = await conclude(engine, live)
    live.append(terminal)
    live.concluded = True


async def conclude(engine: Engine, live: LiveRun) -> bytes:
    """Does what is left to do for a run whose end is stored. Returns its terminal event."""
    run, store = live.run, ChatStore(engine.mongo, live.org_id)
    message = _answer(run, live.contents, live.model)
    terminal, *_ = await asyncio.gather(
        _store_terminal(store, live, message),
        _store_answer(store, run, message, live.size_bytes),
    )
    await retry_until_available(lambda: _settle(engine, live.org_id, run))
    return terminal


async def store_events(store: ChatStore, live: LiveRun) -> None:
    """Stores what was sent since the last time. Raises LostRun when somebody else stored events in its place."""
    while unstored := _first_of(live.events, live.stored):
        batch = EventBatch(_id=new_id(), run_id=live.run["_id"], first=live.stored + 1, events=unstored)
        if not await retry_until_available(lambda batch=batch: store.save_events(batch)):  # type: ignore[misc]
            raise LostRun
        live.stored += len(unstored)


def _first_of(told: Sequence[bytes], stored: int) -> list[bytes]:
    """The next events to store, as many as are well within the size of a document."""
    size, batch = 0, list[bytes]()
    for event in islice(told, stored, None):
        size += len(event) + _EVENT_BYTES
        if batch and size > _BATCH_BYTES:
            break
        batch.append(event)
    return batch


async def end_reservation(tx: WriteSession, book: Ledger, org_id: UUID, run_id: UUID, ending: Ending) -> bool:
    """False when it had ended before."""
    usage, cost, number = ending["usage"], ending["cost"], ending["number"]
    if usage is None:
        return await book.release(tx, org_id, run_id, number)
    price = Price(cost["nanos"], cost["version"], cost["currency"])
    return await book.settle(tx, org_id, run_id, number, TokenUsage(**usage), price)


async def _store_terminal(store: ChatStore, live: LiveRun, message: Message | None) -> bytes:
    """Stores the terminal event after the last one, unless it is there."""
    run = live.run
    answer = part(message)[0] if message else None
    while True:
        terminal = events.encode(run["_id"], live.stored + 1, **events.ended(run, answer))
        batch = EventBatch(_id=new_id(), run_id=run["_id"], first=live.stored + 1, events=[terminal])
        if await retry_until_available(lambda batch=batch: store.save_events(batch)):  # type: ignore[misc]
            return terminal
        last = await retry_until_available(lambda: store.last_event(run["_id"]))
        if last and events.is_terminal(last):
            return last
        # Somebody who did not know yet that the run had ended was a moment faster.
        live.stored = events.decode(last).sequence if last else 0


async def _store_answer(store: ChatStore, run: Run, message: Message | None, size: int) -> None:
    """In this order: who finds the conversation as it is then finds the answer in it."""
    if message:
        await retry_until_available(lambda: store.save_message(message))
    await retry_until_available(lambda: store.end_run(run["conversation_id"], run["_id"], size))


async def _settle(engine: Engine, org_id: UUID, run: Run) -> None:
    """Ends the reservations of the run and its claim on the conversation: see Ledger for why not at once.

    Once the claim is closed nobody reserves for the run any more. What is open then was reserved by a server that went
    on with it, and found it ended by the one before.
    """
    for ending in run["endings"]:
        async with engine.db.write(org_id) as tx:
            await end_reservation(tx, engine.ledger, org_id, run["_id"], ending)
    async with engine.db.write(org_id) as tx:
        await claims.close(tx, run["_id"])
        for entry in await ledger.list_reserved(tx, run["_id"]):
            ending = await _of_other(ChatStore(engine.mongo, org_id), run, entry)
            await end_reservation(tx, engine.ledger, org_id, run["_id"], ending)


async def _of_other(store: ChatStore, run: Run, entry: LedgerEntry) -> Ending:
    """What another server's attempt is taken to have used: what it sent, marked as an estimate."""
    logged = await store.list_attempts(run["_id"], entry.attempt - 1, 1)
    asked = logged[0]["counted_input_tokens"] if logged and logged[0]["number"] == entry.attempt else 0
    usage = TokenUsage(asked, 0, 0, 0, 0, estimated=True)
    return account(entry.attempt, entry.model, usage, entry.create_time)


def _sum_up(run: Run, endings: Sequence[Ending], unsettled: Sequence[Ending]) -> None:
    usages = [TokenUsage(**ending["usage"]) for ending in endings if ending["usage"]]
    costs = [ending["cost"] for ending in endings if ending["usage"]] or [Cost(nanos=0, currency="USD", version="none")]
    run["usage"] = cast(Usage, asdict(_total(usages)))
    last = costs[-1]
    run["cost"] = Cost(nanos=sum(c["nanos"] for c in costs), currency=last["currency"], version=last["version"])
    run["attempt_count"] = max((ending["number"] for ending in endings), default=0)
    run["endings"] = list(unsettled)
    run["end_id"] = new_id()
    run["end_time"] = now()


def _total(usages: Sequence[TokenUsage]) -> TokenUsage:
    sums = {field.name: sum(getattr(usage, field.name) for usage in usages) for field in fields(TokenUsage)}
    marks = {name: any(getattr(usage, name) for usage in usages) for name in ("estimated", "above_limit")}
    return TokenUsage(**sums | marks)


def _answer(run: Run, contents: list[Content], model: str) -> Message | None:
    if not contents:
        return None
    return Message(
        _id=run["message_id"],
        conversation_id=run["conversation_id"],
        run_id=run["_id"],
        role="assistant",
        contents=contents,
        partial=run["state"] != "completed",
        model=model,
        create_time=run["create_time"],
    )
