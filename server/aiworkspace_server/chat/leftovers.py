"""Runs whose server is gone: each is brought to its end, or gone on with."""

from dataclasses import replace
from uuid import UUID

import structlog

from ..policies.plan import Plans
from . import events, planned
from .ending import conclude, finish, store_events
from .engine import Engine, LostRun
from .execution import Execution
from .failures import INTERRUPTED
from .left import Left, look_at
from .live import LiveRun
from .models import Run
from .opening import withdraw
from .pace import Pace
from .store import ChatStore

log = structlog.get_logger("recovery")


async def recover_run(
    engine: Engine, plans: Plans, pace: Pace, org_id: UUID, run_id: UUID, conversation_id: UUID, stopped: str = ""
) -> Execution | str:
    """Does for one run what is left to do. Returns how it ended, or what goes on with it, to be run.

    `stopped`: the state in which somebody wanted it to end. Should its server be alive after all, it can neither store
    events nor reserve anything from then on.
    """
    while True:
        run = await ChatStore(engine.mongo, org_id).find_run(run_id)
        if run is None:
            await withdraw(engine, org_id, run_id, conversation_id)
            return "withdrawn"
        try:
            return await _recover(engine, plans, pace, org_id, run, stopped)
        except LostRun:  # that server has stored events, or the end of the run, in the meantime
            log.warning("a run changed while it was recovered", run_id=str(run_id))


async def _recover(engine: Engine, plans: Plans, pace: Pace, org_id: UUID, run: Run, stopped: str) -> Execution | str:
    if run["state"] == "running":
        left = await look_at(engine, org_id, run, pace)
        await store_events(ChatStore(engine.mongo, org_id), left.live)  # from here on its server cannot end it
        execution = None if stopped else await resume(engine, plans, left)
        if execution:
            return execution
        await interrupt(engine, left, stopped or "interrupted")
    else:
        await conclude_run(engine, org_id, run)
    return run["state"]


async def conclude_run(engine: Engine, org_id: UUID, run: Run) -> None:
    """Does what was left to do for a run whose end is stored."""
    stored = await ChatStore(engine.mongo, org_id).events_after(run["_id"], 0)
    if stored and events.is_terminal(stored[-1]):
        stored.pop()
    await conclude(engine, LiveRun.restore(org_id, run, Pace(), stored))


async def interrupt(engine: Engine, left: Left, state: str) -> None:
    """Ends the run with what was stored of its answer."""
    live = left.live
    live.finish_content()
    live.run["state"], live.run["failure"] = state, INTERRUPTED if state == "interrupted" else None
    await finish(engine, live, left.settled, left.unsettled)


async def resume(engine: Engine, plans: Plans, left: Left) -> Execution | None:
    """What goes on with the run, from a new attempt of the same model.

    None when its policy did not want that, its answer was whole, or none of its models may be asked any more.
    """
    run = left.live.run
    if left.answered or left.spender is None or not run["plan"]["resume_interrupted_runs"]:
        return None
    models = run["plan"]["models"]
    last = models.index(left.model) if left.model in models else 0
    targets = await plans.targets(left.live.org_id, run["workspace_id"], models[last:])
    if not targets:
        return None
    plan = planned.from_document(run["plan"], targets)
    request = replace(left.request, parameters=plan.parameters)
    return Execution(engine, left.live, left.spender, plan, request, left.settled, left.unsettled)
