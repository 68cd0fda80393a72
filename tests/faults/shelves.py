"""What came of documents: read from the databases, and from what searches find."""

import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, NamedTuple
from uuid import UUID

from tests.support.waiting import until

from .audit import unequal_sums
from .library import ANSWER_SECONDS, Held, Library, ids
from .trial import Trial
from .verdict import OPEN_RESERVATIONS, Figures

_END_SECONDS = 240.0  # a step waits up to 40 s between its attempts, and documents wait for each other
_GONE_SECONDS = 30.0
_FAILED_AS_UNSUPPORTED = ("failed", "unsupported")
_PROCESSING = "SELECT document_id FROM document_versions WHERE org_id = %s AND state = 'processing'"
_STATE = """
  SELECT v.id, v.state, v.reason, v.chunk_count, d.ready_version_id
  FROM documents d JOIN document_versions v ON v.id = d.latest_version_id WHERE d.id = %s
"""
_INDEXED = """
  SELECT (SELECT count(*) FROM chunks WHERE version_id = %(id)s),
         (SELECT count(*) FROM chunk_vectors v JOIN search_generations g
            ON (v.org_id, v.generation) = (g.org_id, g.active)
          WHERE v.version_id = %(id)s),
         (SELECT coalesce(sum((SELECT count(*) FROM unnest(lexemes))), 0) FROM chunks WHERE version_id = %(id)s),
         (SELECT count(*) FROM search_versions v JOIN postings p USING (org_id, workspace_id), unnest(p.occurrences) o
          WHERE v.version_id = %(id)s AND o >> 24 >= v.first_chunk AND o >> 24 < v.first_chunk + v.chunk_count),
         (SELECT count(*) FROM search_versions WHERE version_id = %(id)s AND embedded),
         (SELECT count(*) FROM search_versions WHERE document_id = %(document_id)s)
"""
# Of chunks that no version has any more.
_POSTINGS = """
  SELECT count(*) FROM postings p, unnest(p.occurrences) o WHERE p.org_id = %s AND NOT EXISTS (
    SELECT FROM search_versions v WHERE v.org_id = p.org_id AND v.workspace_id = p.workspace_id
      AND o >> 24 >= v.first_chunk AND o >> 24 < v.first_chunk + v.chunk_count)
"""
_TOKENS = """
  SELECT coalesce(sum(input_tokens) FILTER (WHERE NOT estimated), 0)::bigint FROM ledger_entries WHERE run_id = %s
"""
_MISCOUNTED = """
  SELECT language, version_count, chunk_count, lexeme_count FROM search_stats WHERE org_id = %(org_id)s
  EXCEPT
  SELECT language, count(*), sum(chunk_count), sum(lexeme_count) FROM search_versions WHERE org_id = %(org_id)s
  GROUP BY workspace_id, language
"""
_ENDINGS = """
  SELECT run_id, attempt, count(*) FILTER (WHERE kind IN ('settle', 'release')) FROM ledger_entries
  WHERE org_id = %s GROUP BY run_id, attempt HAVING count(*) FILTER (WHERE kind IN ('settle', 'release')) <> 1
"""
_ESTIMATES = "SELECT count(*) FROM ledger_entries WHERE org_id = %s AND kind = 'settle' AND estimated"
_COLUMNS = """
  SELECT table_name, column_name FROM information_schema.columns
  WHERE table_schema = 'public' AND column_name IN ('version_id', 'document_id')
"""


class Remains(NamedTuple):
    """Where something may be left of what was deleted."""

    document_ids: list[str]
    version_ids: list[UUID]  # of all versions that have not been deleted


async def document_figures(library: Library) -> Figures:
    """Wait for the end of everything, and add up. Lost is what is neither found as a whole nor failed for a reason."""
    at, org_id = library.at, UUID(library.at.org_id)
    stuck = {str(row[0]) for row in await _left(lambda: at.site.rows(_PROCESSING, org_id), _END_SECONDS)}
    slowest = time.monotonic() - at.fault_time
    remains = await _left(lambda: _remains(library), _GONE_SECONDS)
    lost = [f"{each.word or each.id}: {why}" for each in library.held if (why := await _loss(library, each))]
    open_ = await _left(lambda: at.site.rows(OPEN_RESERVATIONS, org_id), _GONE_SECONDS)
    wrong = [*at.wrong, *(f"lost {text}" for text in lost), *remains, *await _unsettled(at)]
    wrong += [f"version {row[0]}: has a reservation" for row in open_]
    wrong += [f"search_stats: {row} is not the sum" for row in await at.site.rows(_MISCOUNTED, {"org_id": org_id})]
    return Figures(
        acknowledged=len(library.held) + len(library.deleted),
        lost=len(lost),
        difference=0,
        adjusted=(await at.site.rows(_ESTIMATES, org_id))[0][0],
        stuck=len(stuck & set(ids(library.held))),
        slowest=slowest,
        most_seconds=_END_SECONDS,
        calls=at.calls.count,
        refused=at.calls.refused,
        failed=len(at.calls.failed),
        hang=at.calls.hang,
        deadline=ANSWER_SECONDS,
        wrong=wrong,
    )


async def _left(look: Callable[[], Awaitable[list[Any]]], seconds: float) -> list[Any]:
    """What is still there when nothing ought to be."""
    found = list[Any]()

    async def gone() -> bool:
        found[:] = await look()
        return not found

    with suppress(TimeoutError):
        await until(gone, seconds)
    return found


async def _loss(library: Library, held: Held) -> str:
    """Why a document counts as lost; empty when it is as it has to be."""
    found = await library.at.site.rows(_STATE, held.id)
    if not found:
        return "it is gone"
    [(version_id, state, reason, chunk_count, ready_version_id)] = found
    if not held.word:
        return "" if (state, reason) == _FAILED_AS_UNSUPPORTED else f"nobody can read it, and it is {state}, {reason}"
    if state != "ready" or ready_version_id != version_id:
        return f"it is {state}, {reason}"
    values = {"id": version_id, "document_id": UUID(held.id)}
    [(chunks, vectors, lexemes, postings, answering, answers)] = await library.at.site.rows(_INDEXED, values)
    if not chunk_count == chunks == vectors > 0 or lexemes != postings or (answering, answers) != (1, 1):
        return f"{chunks} chunks of {chunk_count}, {vectors} vectors, {postings} of {lexemes}, {answers} answer"
    [(tokens,)] = await library.at.site.rows(_TOKENS, version_id)
    if tokens != len(held.text.split()):
        return f"{tokens} tokens were charged, it has {len(held.text.split())}"
    where = await library.find(held.word)
    return "" if where == [held.id] else f"{held.word} is found in {where}"


async def _unsettled(at: Trial) -> list[str]:
    org_id = UUID(at.org_id)
    ended = [f"{run}/{n}: ended {times} times" for run, n, times in await at.site.rows(_ENDINGS, org_id)]
    return ended + await unequal_sums(at)


async def _remains(library: Library) -> list[str]:
    """What is left of deleted documents and replaced versions in any table, collection or job."""
    at, org_id = library.at, UUID(library.at.org_id)
    versions = "SELECT latest_version_id FROM documents WHERE org_id = %s"
    kept = [row[0] for row in await at.site.rows(versions, org_id)]
    left = []
    for table, column in await at.site.rows(_COLUMNS):
        alive = kept if column == "version_id" else [UUID(each) for each in ids(library.held)]
        query = f"SELECT count(*) FROM {table} WHERE org_id = %s AND {column} <> ALL (%s)"
        if rows := (await at.site.rows(query, org_id, alive))[0][0]:
            left.append(f"{table} has {rows} rows of what was deleted")
    [(postings,)] = await at.site.rows(_POSTINGS, org_id)
    if postings:
        left.append(f"{postings} postings are of chunks that were deleted")
    for each in library.deleted:
        if await at.site.rows("SELECT 1 FROM procrastinate_jobs WHERE args::text LIKE %s", f"%{each.id}%"):
            left.append(f"a job has {each.id}")
    return left + await _remaining_bytes(at, org_id, kept)


async def _remaining_bytes(at: Trial, org_id: UUID, kept: list[UUID]) -> list[str]:
    blobs = {row[0] for row in await at.site.rows("SELECT id FROM blobs WHERE org_id = %s", org_id)}
    pieces = await at.site.documents("documents.chunks", {"org_id": org_id})
    texts = await at.site.documents("document_texts", {"org_id": org_id})
    found = (
        ("bytes", {each["files_id"] for each in pieces} - blobs),
        (
            "texts",
            {each["version_id"] for each in texts} - set(kept),
        ),
    )
    return [f"{what} of {len(whose)} that were deleted" for what, whose in found if whose]
