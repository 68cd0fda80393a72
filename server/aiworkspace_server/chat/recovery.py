"""What a crash left behind is brought to its end before the server takes calls.

Every run that was in progress has an open reservation, so those are the list. One server process works on a database:
what is open when it starts belongs to nobody.
"""

from uuid import UUID

import structlog

from ..kit.ids import new_id
from ..kit.mongo import Mongo
from ..kit.postgres import Database
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
from .store import ChatStore

log = structlog.get_logger("recovery")


async def recover(db: Database, mongo: Mongo) -> None:
    async with db.read() as tx:
        left = await ledger.list_open(tx)
    for org_id, run_id in left:
        store = ChatStore(mongo, org_id)
        run = await store.find_run(run_id)
        if run is None:
            await withdraw(db, mongo, org_id, run_id, None)
        elif run["state"] != "running":
            await _conclude(db, store, org_id, run)
        else:
            await _interrupt(db, mongo, org_id, run)
        log.info("recovered", run_id=str(run_id), state=run["state"] if run else "withdrawn")


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
    live = LiveRun.restore(run, Pace(), await store.events_after(run["_id"], 0))
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
