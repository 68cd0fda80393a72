"""The operator's command that shows what is stored of a run. It only reads, and may run while servers run."""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from typing import Any
from uuid import UUID

import orjson

from aiworkspace.v1 import common_pb2

from .commands import CommandError
from .databases import readable_databases
from .kit.mongo import Mongo
from .kit.postgres import Database
from .llm.prices import usd
from .runs.inspection import RunReport, StoredEvent, Values, inspect_run
from .schema import check_schema
from .settings import Settings
from .usage.models import TOKENS

_NOTHING = "-"


async def inspect(settings: Settings, run_id: UUID, *, with_text: bool, as_json: bool) -> None:
    """Print a run, its attempts, events, claim and ledger entries. Raises CommandError if there is none of them."""
    async with readable_databases(settings) as where:
        db, mongo = Database(where.url, where.session_url), Mongo(where.mongo_uri)
        try:
            await check_schema(db, embedded=settings.embedded)
            report = await inspect_run(db, mongo, run_id, with_text=with_text)
        finally:
            await mongo.close()
            await db.close()
    if report is None:
        raise CommandError(f"there is no run {run_id}")
    print(orjson.dumps(report, option=orjson.OPT_INDENT_2).decode() if as_json else "\n".join(render(report)))


def render(report: RunReport) -> Iterator[str]:
    """Yield the lines of a report for people."""
    yield f"run {report.run_id} of organization {report.org_id}"
    yield from _fields(_of_run(report.run) if report.run else [("document", "none: it was rolled back or erased")])
    yield from _section(f"attempts: {len(report.attempts)}", _table(map(_of_attempt, report.attempts)))
    size = sum(event.size_bytes for event in report.events)
    yield from _section(f"events: {len(report.events):,} stored, {size:,} bytes", _table(_event_rows(report.events)))
    yield from _section("claim", _fields(_of_claim(report.claim) if report.claim else [("state", "none")]))
    reserved = sum(entry["reserved_nanos"] for entry in report.ledger)
    total = f"{usd(sum(entry['cost_nanos'] for entry in report.ledger))} USD"
    title = f"ledger: {total} spent, {usd(reserved)} USD still reserved"
    yield from _section(title, _table(map(_of_entry, report.ledger)))


def _of_run(run: Values) -> Iterator[tuple[str, object]]:
    yield "state", " ".join(filter(None, (run["state"], run["finish_reason"], _failure(run["failure"]))))
    yield "model", run["model"]
    yield "answered by", run["answer_model"]
    yield "plan", ", ".join(run["plan"]["models"])
    for name in ("workspace_id", "conversation_id", "user_id", "user_message_id", "message_id"):
        yield name, run[name]
    yield "created", _time(run["create_time"])
    yield "ended", _time(run["end_time"]) + _after(run["create_time"], run["end_time"])
    yield "takeovers", run["takeovers"]
    yield "usage", _usage(run["usage"])
    yield "cost", _cost(run["cost"])
    for side in ("question", "answer"):
        yield side, ", ".join(f"{part['kind']} {part['size_bytes']:,} bytes" for part in run[side])
        for part in run[side]:
            yield from (("", line or " ") for line in (part["text"] or "").splitlines())


def _of_attempt(attempt: Values) -> Iterator[object]:
    yield attempt["number"]
    yield attempt["model"] + (" (own key)" if attempt["own_key"] else "")
    yield attempt["state"]
    yield f"HTTP {attempt['status']}" if attempt["status"] else "no response"
    yield _time(attempt["start_time"])
    yield f"first content{_after(attempt['start_time'], attempt['first_content_time']) or ' never'}"
    yield f"ended{_after(attempt['start_time'], attempt['end_time']) or ' never'}"
    yield _usage(attempt["usage"])
    yield _cost(attempt["cost"])
    yield attempt["provider_response_id"]
    yield _failure(attempt["failure"])
    yield " ".join((attempt["error"] or "").split())


def _event_rows(events: Sequence[StoredEvent]) -> Iterator[Iterable[object]]:
    """Yield a row for each event, or one for consecutive deltas. Gaps in the sequence get a row of their own."""
    deltas: list[StoredEvent] = []
    expected = 1
    for event in events:
        if deltas and (event.kind != deltas[0].kind or event.sequence != expected):
            yield _event_row(deltas)
            deltas = []
        if event.sequence != expected:
            yield f"{expected}-{event.sequence - 1}", "MISSING"
        deltas.append(event)
        if event.kind != "content_delta" or event.text is not None:
            yield _event_row(deltas)
            deltas = []
        expected = event.sequence + 1
    if deltas:
        yield _event_row(deltas)


def _event_row(events: Sequence[StoredEvent]) -> Iterator[object]:
    first, last = events[0], events[-1]
    yield first.sequence if first is last else f"{first.sequence}-{last.sequence}"
    yield first.kind
    yield f"{sum(event.size_bytes for event in events):,} bytes"
    yield f"attempt {first.attempt}" if first.attempt else repr(first.text) if first.text is not None else ""


def _of_claim(claim: Values) -> Iterator[tuple[str, object]]:
    yield "state", claim["state"]
    yield "stop", claim["stop"]
    yield "created", _time(claim["create_time"])
    yield "key_id", claim["key_id"]
    yield "request_id", claim["request_id"]
    yield "server", f"{claim['server_id']} {claim['server_name'] or '(gone)'}" if claim["server_id"] else None
    if claim["server_name"]:
        yield "lease left", f"{claim['lease_seconds']} s"


def _of_entry(entry: Values) -> Iterator[object]:
    yield f"attempt {entry['attempt']}"
    yield entry["kind"]
    yield entry["model"] + (" (own key)" if entry["own_key"] else "")
    yield f"reserved {usd(entry['reserved_nanos'])}"
    yield f"cost {usd(entry['cost_nanos'])}"
    yield _usage(entry) if entry["kind"] in ("settle", "adjust") else ""
    yield "above limit" if entry["above_limit"] else ""
    yield _time(entry["create_time"])


def _usage(usage: Values | None) -> str:
    if usage is None:
        return _NOTHING
    counts = [f"{name.removesuffix('_tokens')} {usage[name]:,}" for name in TOKENS if usage[name]]
    return (", ".join(counts) or "0 tokens") + (" (estimated)" if usage["estimated"] else "")


def _cost(cost: Values | None) -> str:
    return f"{usd(cost['nanos'])} {cost['currency']}" if cost else _NOTHING


def _failure(failure: Values | None) -> str:
    return common_pb2.ErrorReason.Name(failure["reason"]).removeprefix("ERROR_REASON_") if failure else ""


def _time(time: datetime | None) -> str:
    return time.isoformat(timespec="milliseconds").replace("+00:00", "Z") if time else _NOTHING


def _after(begin: datetime, end: datetime | None) -> str:
    return f" after {(end - begin).total_seconds():.3f} s" if end else ""


def _section(title: str, lines: Iterable[str]) -> Iterator[str]:
    yield ""
    yield title
    yield from lines


def _fields(fields: Iterable[tuple[str, Any]]) -> Iterator[str]:
    for name, value in fields:
        yield f"  {name:<16} {_NOTHING if value is None or value == '' else _printable(str(value))}".rstrip()


def _table(rows: Iterable[Iterable[object]]) -> Iterator[str]:
    """Yield rows with aligned columns."""
    cells = [[_printable(str(cell)) for cell in row] for row in rows]
    widths: dict[int, int] = {}
    for row in cells:
        for column, cell in enumerate(row):
            widths[column] = max(widths.get(column, 0), len(cell))
    used = [column for column, width in widths.items() if width]
    for row in cells:
        texts = (row[column] if column < len(row) else "" for column in used)
        line = "  ".join(f"{text:<{widths[column]}}" for column, text in zip(used, texts, strict=True))
        yield f"  {line}".rstrip()


def _printable(text: str) -> str:
    """Escape control characters: what people and providers said must not control the operator's terminal."""
    return "".join(each if each.isprintable() else repr(each)[1:-1] for each in text)
