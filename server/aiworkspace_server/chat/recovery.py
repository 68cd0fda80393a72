"""What a crash left behind is brought to its end before the server takes calls.

Every run that was in progress has an open reservation, so those are the list. One server works on a database at a time,
which a lock in it sees to: what is open when a server starts belongs to nobody.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from uuid import UUID

import structlog
from sqlalchemy import text

from ..kit.ids import new_id
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..kit.stores import STORE_AWAY
from ..llm.base import ModelRequest
from ..usage import ledger
from ..workspaces import store as workspaces
from . import events
from .execution import Execution, settle
from .failures import INTERRUPTED
from .live import LiveRun
from .models import EventBatch, Run
from .pace import Pace
from .runs import turns, withdraw
from .store import ChatStore, list_unpurged

_LOCK = 0x61697774
_WAIT_SECONDS = 10  # for a server that is just stopping

log = structlog.get_logger("recovery")


class DatabaseInUseError(Exception):
    """Another server works on the database: taking over its runs would end them under its hands."""


@asynccontextmanager
async def sole_server(db: Database) -> AsyncIterator[None]:
    """Keeps other servers off the database. Raises DatabaseInUseError when one is there and stays."""
    async with db.engine.connect() as plain:
        connection = await plain.execution_options(isolation_level="AUTOCOMMIT")
        for _ in range(_WAIT_SECONDS * 4):
            if await connection.scalar(text("SELECT pg_try_advisory_lock(:lock)"), {"lock": _LOCK}):
                break
            await asyncio.sleep(0.25)
        else:
            raise DatabaseInUseError("Another server works on this database: stop it first.")
        try:
            yield
        finally:
            with suppress(*STORE_AWAY):
                await connection.execute(text("SELECT pg_advisory_unlock(:lock)"), {"lock": _LOCK})


async def recover(db: Database, mongo: Mongo) -> None:
    async with db.read() as tx:
        left = await ledger.list_open(tx)
    for org_id, run_id, conversation_id in left:
        try:
            state = await _recover_run(db, mongo, org_id, run_id, conversation_id)
            log.info("recovered", run_id=str(run_id), state=state)
        except (ValueError, LookupError, TypeError):
            log.exception("not recovered", run_id=str(run_id))  # one bad document must not keep the server down
    for org_id, conversation_id in await list_unpurged(mongo):
        await ChatStore(mongo, org_id).delete_content(conversation_id)


async def _recover_run(db: Database, mongo: Mongo, org_id: UUID, run_id: UUID, conversation_id: UUID) -> str:
    """How the run ended."""
    store = ChatStore(mongo, org_id)
    run = await store.find_run(run_id)
    if run is None:
        await withdraw(db, mongo, org_id, run_id, conversation_id)
        return "withdrawn"
    if run["state"] == "running":
        await _interrupt(db, mongo, org_id, run)
    else:
        await _conclude(db, store, org_id, run)
    return run["state"]


async def _conclude(db: Database, store: ChatStore, org_id: UUID, run: Run) -> None:
    """Does what was left to do for a run whose end is stored."""
    last = await store.last_event(run["_id"])
    if last is None or not events.is_terminal(last):
        sequence = events.decode(last).sequence + 1 if last else 1
        message = await store.find_message(run["message_id"])
        terminal = events.encode(run["_id"], sequence, **events.ended(run, message))
        await store.save_events(EventBatch(_id=new_id(), run_id=run["_id"], first=sequence, events=[terminal]))
    await store.end_run(run["conversation_id"], run["_id"], 0)
    await settle(db, org_id, run)


async def _interrupt(db: Database, mongo: Mongo, org_id: UUID, run: Run) -> None:
    """Ends the run with what was stored of its answer."""
    store = ChatStore(mongo, org_id)
    live = LiveRun.restore(org_id, run, Pace(), await store.events_after(run["_id"], 0))
    live.finish_content()
    run["state"], run["failure"] = "interrupted", INTERRUPTED
    await Execution(db, mongo, org_id, live, await _request(db, store, org_id, run)).finish()


async def _request(db: Database, store: ChatStore, org_id: UUID, run: Run) -> ModelRequest:
    """What the model had been asked, to estimate what it read."""
    async with db.read(org_id) as tx:
        workspace = await workspaces.find_workspace(tx, run["workspace_id"])
    said = await store.history(run["conversation_id"], run["message_id"])
    system_prompt = workspace.system_prompt if workspace else ""
    return ModelRequest(run["model"], system_prompt, turns(said), max_output_tokens=0)
