"""What came of an experiment: read from the databases and from the provider's bill, never from what the server says."""

import asyncio
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import grpc

from aiworkspace.v1 import chat_pb2 as pb
from aiworkspace.v1.common_pb2 import ERROR_REASON_RUN_INTERRUPTED
from aiworkspace_server.runs import events
from tests.support.runs import kinds_of, text_of

from .asking import Asked
from .audit import compare
from .calls import CALL_SECONDS, GRACE_SECONDS
from .trial import Trial

_TERMINAL = {"run_completed", "run_failed", "run_cancelled"}
_REFUSED = grpc.StatusCode.RESOURCE_EXHAUSTED
_OPEN_CLAIMS = "SELECT run_id FROM run_claims WHERE org_id = %s AND state = 'open'"
OPEN_RESERVATIONS = """
  SELECT run_id FROM ledger_entries WHERE org_id = %s GROUP BY run_id, attempt HAVING sum(reserved_nanos) <> 0
"""
_PAID = "SELECT DISTINCT run_id FROM ledger_entries WHERE org_id = %s AND cost_nanos <> 0"
_WINDOWS = "SELECT reserved_nanos FROM budget_windows WHERE org_id = %s AND reserved_nanos <> 0"


class Skipped(Exception):
    """An experiment cannot take place on this machine; the text says why. It is no evidence that anything holds."""


@dataclass
class Figures:
    """One row of the table. `wrong` is what did not hold besides."""

    acknowledged: int  # runs, and writes
    lost: int
    difference: int  # nano-USD, all differences of single attempts added up
    adjusted: int
    stuck: int
    slowest: float
    most_seconds: float  # of the slowest recovery where a process died
    died: bool = False
    cut: bool = True  # whether anything was: else nothing may need an adjustment
    calls: int = 0
    refused: int = 0  # so that the caller may repeat the call
    failed: int = 0  # otherwise
    hang: float = 0.0  # the longest
    deadline: float = CALL_SECONDS  # of the calls
    wrong: list[str] = field(default_factory=list)

    def faults(self) -> list[str]:
        """What is not as it has to be."""
        names = ("lost", "difference", "stuck", "failed")
        found = [f"{name}: {getattr(self, name)}" for name in names if getattr(self, name)]
        if self.hang > self.deadline + GRACE_SECONDS:
            found.append(f"longest hang: {self.hang:.1f} s, with a deadline of {self.deadline:g} s")
        if self.adjusted and not self.cut:
            found.append(f"adjusted: {self.adjusted}")
        if self.died and self.slowest > self.most_seconds:
            found.append(f"slowest recovery: {self.slowest:.1f} s")
        return found + self.wrong


async def figures(trial: Trial, *, died: bool = False, cut: bool = True, most_seconds: float | None = None) -> Figures:
    """Waits for the end of everything, and adds up. `most_seconds`: of the recovery, if not those of the site."""
    await trial.settle_down()
    stuck = await _stuck(trial)
    lost = [f"{each.run_id or each.content}: {why}" for each in trial.asked if (why := await _loss(trial, each))]
    lost += trial.lost
    wrong = [*trial.wrong, *trial.calls.failed, *(f"lost {text}" for text in lost), *await _half_there(trial)]
    adjusted, difference, unequal = await compare(trial)
    return Figures(
        acknowledged=len(trial.asked) + trial.acknowledged,
        lost=len(lost),
        difference=difference,
        adjusted=adjusted,
        stuck=len(stuck),
        slowest=trial.slowest,
        most_seconds=most_seconds or trial.site.end_seconds,
        died=died,
        cut=cut,
        calls=trial.calls.count,
        refused=trial.calls.refused,
        failed=len(trial.calls.failed),
        hang=trial.calls.hang,
        wrong=[*wrong, *unequal],
    )


async def _stuck(trial: Trial) -> set[UUID]:
    """Runs that still hold something when everything has to have ended."""
    deadline = time.monotonic() + trial.site.end_seconds
    org_id = UUID(trial.org_id)
    while True:
        held = await trial.site.rows(_OPEN_CLAIMS, org_id) + await trial.site.rows(OPEN_RESERVATIONS, org_id)
        busy = await trial.site.documents("conversations", {"org_id": org_id, "active_run_id": {"$ne": None}})
        running = await trial.site.documents("runs", {"org_id": org_id, "state": "running"})
        windows = await trial.site.rows(_WINDOWS, org_id)
        stuck = {row[0] for row in held} | {each["active_run_id"] for each in busy} | {run["_id"] for run in running}
        if not (stuck or windows) or time.monotonic() > deadline:
            if windows and not stuck:
                trial.wrong.append(f"budgets hold reservations of nobody: {windows}")
            return stuck
        await asyncio.sleep(0.1)


async def _loss(trial: Trial, asked: Asked) -> str:
    """Why an answer counts as lost; empty when it is there as it was seen."""
    if asked.refusal:
        return "" if trial.may_refuse and asked.refusal.code() == _REFUSED else f"it was refused: {asked.refusal}"
    if not asked.terminal:
        return "nobody was told of its end" if asked.run_id else "it was neither taken nor refused"
    run_id, org_id = UUID(asked.run_id), UUID(trial.org_id)
    found = await trial.site.documents("runs", {"org_id": org_id, "_id": run_id})
    if not found or found[0]["state"] == "running":
        return "it has no end"
    batches = await trial.site.documents("run_events", {"org_id": org_id, "run_id": run_id})
    stored = [events.decode(event) for event in _stored_events(found[0], batches)]
    return _flaw(stored) or _disagreement(asked, found[0], stored, exact=trial.has_redis)


def _stored_events(run: dict[str, Any], batches: list[dict[str, Any]]) -> list[bytes]:
    inside = [event for batch in sorted(batches, key=lambda each: each["first"]) for event in batch["events"]]
    return [*run["first_events"], *inside, *run["last_events"]]


def _flaw(stored: Sequence[pb.ChatEvent]) -> str:
    if [event.sequence for event in stored] != list(range(1, len(stored) + 1)):
        return f"its stored events have the numbers {[event.sequence for event in stored]}"
    ends = [place for place, kind in enumerate(kinds_of(list(stored))) if kind in _TERMINAL]
    return "" if ends == [len(stored) - 1] else f"its events have terminal ones at {ends} of {len(stored)}"


def _disagreement(asked: Asked, run: dict[str, Any], stored: list[pb.ChatEvent], *, exact: bool) -> str:
    text = text_of(stored)
    question, answer = ("".join(part["text"] for part in run[side]) for side in ("question", "answer"))
    if question != asked.content:
        return f"its question is {question!r}"
    if answer != text:
        return f"it is stored as {answer!r} and its events say {text!r}"
    if not asked.whole.startswith(text):
        return f"{text!r} was stored, which the provider did not say"
    was_seen = asked.text.startswith(text) or text.startswith(asked.text)
    if not was_seen and (exact or not _is_repeated(text, asked.text, stored)):
        return f"{text!r} was stored and {asked.text!r} was seen"
    if run["state"] == "completed" and text != asked.whole:
        return f"it is complete with {text!r}"
    return ""


def _is_repeated(text: str, seen: str, stored: Sequence[pb.ChatEvent]) -> bool:
    """Whether a client saw one stretch of what was stored twice, one right after the other, in a resumed run.

    Without Redis, a server that resumes the run of a killed one may send again the last words that the killed one sent
    and had not stored: see StreamRun in the contract.
    """
    length = len(seen) - len(text)
    resumed = any(event.attempt_failed.failure.reason == ERROR_REASON_RUN_INTERRUPTED for event in stored)
    return resumed and any(
        seen[:end] + seen[end + length :] == text and seen[end - length : end] == seen[end : end + length]
        for end in range(length, len(text) + 1)
    )


async def _half_there(trial: Trial) -> list[str]:
    """What was not acknowledged is there as a whole or not at all."""
    org_id = UUID(trial.org_id)
    runs = {run["_id"] for run in await trial.site.documents("runs", {"org_id": org_id})}
    batches = {batch["run_id"] for batch in await trial.site.documents("run_events", {"org_id": org_id})}
    spent = {row[0] for row in await trial.site.rows(_PAID, org_id)}
    return [
        f"{kind} without their run: {ids - runs}" for kind, ids in (("events", batches), ("costs", spent)) if ids - runs
    ]
