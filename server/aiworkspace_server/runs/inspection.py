"""Collects what the databases hold of one run, for the operator. It only reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from uuid import UUID

from aiworkspace.v1 import chat_pb2 as pb

from ..conversations.models import Content
from ..kit.mongo import Mongo
from ..kit.postgres import Database
from ..usage import ledger, rebuild
from ..usage.models import LedgerEntry
from . import claims, events
from .models import Run
from .store import RunStore

Values = dict[str, Any]

_OF_RUN = (
    *("state", "finish_reason", "failure", "model", "answer_model", "workspace_id", "conversation_id", "user_id"),
    *("user_message_id", "message_id", "create_time", "end_time", "takeovers", "attempt_count", "usage", "cost"),
    "unsettled",
)


@dataclass(frozen=True, slots=True)
class StoredEvent:
    sequence: int
    kind: str
    size_bytes: int
    attempt: int | None  # of events that name one
    text: str | None  # None unless asked for


@dataclass(frozen=True, slots=True)
class RunReport:
    """What is stored of a run. After its deletion, claim and ledger entries are left."""

    run_id: UUID
    org_id: UUID
    run: Values | None
    attempts: Sequence[Values]
    events: Sequence[StoredEvent]
    claim: Values | None
    ledger: Sequence[Values]


async def inspect_run(db: Database, mongo: Mongo, run_id: UUID, *, with_text: bool) -> RunReport | None:
    """Return what is stored of a run of any organization; None if nothing is.

    Without `with_text`, nothing that people, models or providers said is in it.
    """
    org_id = await _find_org(db, mongo, run_id)
    if org_id is None:
        return None
    async with db.read(org_id) as tx:
        claim = await claims.find_claim(tx, run_id)
        entries = await ledger.list_of_run(tx, run_id)
    store = RunStore(mongo, org_id)
    run, stored = await store.find(run_id), await store.find_events(run_id)
    return RunReport(
        run_id,
        org_id,
        _describe_run(run, with_text=with_text) if run else None,
        [{**record, "error": record["error"] if with_text else None} for record in run["attempts"]] if run else [],
        [_describe_event(event, with_text=with_text) for event in (stored.after(0) if stored else [])],
        dict(claim._mapping) if claim else None,
        [_describe_entry(entry) for entry in entries],
    )


async def _find_org(db: Database, mongo: Mongo, run_id: UUID) -> UUID | None:
    """Return the organization of a run, by its ledger entries or, if it has none, by its document."""
    if found := (await rebuild.find_orgs(db, [run_id])).get(run_id):
        return found
    documents = await mongo.scan("runs", {"_id": run_id}).to_list()
    return documents[0]["org_id"] if documents else None


def _describe_run(run: Run, *, with_text: bool) -> Values:
    stored: Mapping[str, object] = run
    values: Values = {name: stored[name] for name in _OF_RUN}
    values["plan"] = {**run["plan"], "stop": run["plan"]["stop"] if with_text else len(run["plan"]["stop"])}
    for side in ("question", "answer"):
        values[side] = [_describe_content(content, with_text=with_text) for content in run[side]]
    return values


def _describe_content(content: Content, *, with_text: bool) -> Values:
    text = content["text"]
    return {"kind": content["kind"], "size_bytes": len(text.encode()), "text": text if with_text else None}


def _describe_event(data: bytes, *, with_text: bool) -> StoredEvent:
    event = events.decode(data)
    kind = event.WhichOneof("event") or "unknown"
    text = event.content_delta.text if with_text and kind == "content_delta" else None
    return StoredEvent(event.sequence, kind, len(data), _attempt_of(event), text)


def _attempt_of(event: pb.ChatEvent) -> int | None:
    if event.HasField("attempt_started"):
        return event.attempt_started.attempt
    return event.attempt_failed.attempt if event.HasField("attempt_failed") else None


def _describe_entry(entry: LedgerEntry) -> Values:
    return {column.name: getattr(entry, column.name) for column in LedgerEntry.__table__.columns}
